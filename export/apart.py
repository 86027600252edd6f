"""What needs torch in a process of its own: its memory is gone before a session's is needed, and what it waits for
costs nobody else a core.

Parent and child speak in pickles over the child's standard streams: a request, then stages and an answer. Neither
outlives the other: the parent ends the child whatever happens, and the child ends when its input closes.
"""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from precast.export.prepared import Prepared, Request
from precast.runtime.artifact import ArtifactWriter
from precast.runtime.errors import DependencyError, ExportError
from precast.runtime.machine import own_peak

__all__ = ["possible", "prepare_apart", "serve"]

# With the parent's search path: the current folder is on it only where it was on that.
_START = "import sys; sys.path[:] = sys.argv[1:]; from precast.export.apart import serve; serve()"
# Threads that wait for each other sleep: between products of a small batch they would spin through half of the time,
# which is another's where cores are shared (BERT-base in float64, two threads on two busy cores: 8.8 s of CPU, not 18).
_ENVIRONMENT = {"OMP_WAIT_POLICY": "PASSIVE"}


def possible() -> bool:
    """Whether to: not where torch is loaded already, whose memory would be there twice; nor in a program that is no
    Python interpreter."""
    return "torch" not in sys.modules and bool(sys.executable) and not getattr(sys, "frozen", False)


def prepare_apart(request: Request, writer: ArtifactWriter, stage: Callable[[str], None]) -> tuple[Prepared, int]:
    """See `precast.export.preparation.prepare`; and the bytes of memory that both processes held at most.

    Raises:
        What preparing raises; ExportError where the process was killed.
    """
    with _child(writer.lock) as child:
        _send(child, (request, writer))
        while (answer := _received(child))[0] == "stage":
            stage(answer[1])
        kind, value = answer
        if kind == "failed":
            error, trace = value
            raise error from _InChild(trace)
        child.wait()
    prepared, written, peak = value
    writer.adopt(written)
    return prepared, peak + own_peak()


def _send(child: subprocess.Popen[bytes], request: Any) -> None:
    assert child.stdin is not None
    with suppress(BrokenPipeError):  # that it has ended is seen, with how, where its answer is missing
        pickle.dump(request, child.stdin)
        child.stdin.flush()


def _received(child: subprocess.Popen[bytes]) -> tuple[str, Any]:
    assert child.stdout is not None
    try:
        answer: tuple[str, Any] = pickle.load(child.stdout)
    except (EOFError, pickle.UnpicklingError):
        raise ExportError(_ended(child.wait())) from None
    return answer


class _InChild(Exception):
    """Where an error comes from, which its own traceback does not say."""

    def __str__(self) -> str:
        return f"\n{self.args[0]}"


@contextmanager
def _child(lock: int) -> Iterator[subprocess.Popen[bytes]]:
    """The other process, which is gone afterwards. ``lock`` guards what it writes to for as long as it lives."""
    command = [sys.executable, "-c", _START, *(path for path in sys.path if isinstance(path, str))]
    try:
        child = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**_ENVIRONMENT, **os.environ},
            pass_fds=(lock,),
        )
    except OSError as error:
        raise ExportError(f"An export needs a process for PyTorch, and none starts: {error}.") from None
    try:
        yield child
    finally:
        child.kill()
        for stream in (child.stdin, child.stdout):
            if stream is not None:
                with suppress(BrokenPipeError):
                    stream.close()
        child.wait()


def _ended(status: int) -> str:
    if status == -signal.SIGKILL:
        return (
            "The process that computes with PyTorch was killed, as systems do where memory runs out. Close other "
            "programs, or export on a machine with more."
        )
    how = f"signal {-status}" if status < 0 else f"status {status}"
    return (
        f"The process that computes with PyTorch ended with {how}, which is a defect of it or of PyTorch: report this "
        "with the output of `precast env`."
    )


def serve() -> None:
    """The child's side."""
    # An interrupt goes to both processes, and the parent's answer to it is to end this one.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints is no answer

    def tell(kind: str, value: Any) -> None:
        pickle.dump((kind, value), answers, protocol=pickle.HIGHEST_PROTOCOL)
        answers.flush()

    try:
        request, writer = pickle.load(sys.stdin.buffer)
        threading.Thread(target=_end_with_parent, daemon=True).start()
        prepared = _prepare()(request, writer, lambda name: tell("stage", name))
        tell("done", (prepared, writer, own_peak()))
    except BaseException as error:  # whatever it is, the parent is who says so
        tell("failed", (_portable(error), traceback.format_exc()))
    os._exit(0)  # torch takes its time to clean up what the system takes back anyway


def _prepare() -> Callable[[Request, ArtifactWriter, Callable[[str], None]], Prepared]:
    try:
        from precast.export.preparation import prepare
    except ImportError as error:
        if (error.name or "").partition(".")[0] == "precast":
            raise
        raise DependencyError(
            f'A package that exports cannot be imported: {error}. Install it anew: pip install "precast[export]".'
        ) from error
    return prepare


def _end_with_parent() -> None:
    with suppress(OSError):
        os.read(0, 1)  # nothing more is ever sent: this returns when the other end is closed
    os._exit(1)


def _portable(error: BaseException) -> BaseException:
    """The error as another process can have it."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error
