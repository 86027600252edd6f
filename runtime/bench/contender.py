"""The driver's side of runtime/bench/worker.py: a contender, and its process."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from precast.runtime.errors import BenchmarkError

__all__ = ["WORKER", "Contender", "Process"]

WORKER = Path(__file__).with_name("worker.py")
_LAST_LINES = 3
_PATIENCE = 900.0  # seconds; compilers and quantisers take minutes


class Contender(NamedTuple):
    """Something that can be timed: an adapter file, the Python it runs on, and what it loads.

    ``options`` go to the adapter as they are (threads, device, precision, workload); ``about`` into the record's
    ``engines``.
    """

    engine: str
    python: str
    adapter: Path
    checkpoint: Path
    prepared: Path
    options: Mapping[str, Any]
    about: Mapping[str, Any] = {}


class Process:
    """A worker: start, ask, close. An answer that is an error, and a death, raise BenchmarkError with the reason."""

    def __init__(self, contender: Contender) -> None:
        self.engine = contender.engine
        self._contender = contender
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the process
        # Libraries that would otherwise phone home or draw progress; and each in its own thread settings.
        environment = {
            **os.environ,
            "HF_HUB_OFFLINE": "1",
            "TOKENIZERS_PARALLELISM": "false",
            "PYTHONWARNINGS": "ignore",
        }
        for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
            environment[name] = str(contender.options.get("threads") or os.cpu_count())
        self.began = time.perf_counter()
        self._process = subprocess.Popen(
            [contender.python, os.fspath(WORKER), os.fspath(contender.adapter)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env=environment,
            text=True,
            encoding="utf-8",
        )

    @property
    def pid(self) -> int:
        return self._process.pid

    def ask(self, op: str, *, patience: float = _PATIENCE, **request: Any) -> dict[str, Any]:
        """One request, one answer; a process that has none after ``patience`` seconds is ended."""
        assert self._process.stdin is not None and self._process.stdout is not None
        late = threading.Event()

        def end() -> None:
            late.set()
            self._process.kill()

        watch = threading.Timer(patience, end)
        watch.start()
        try:
            self._process.stdin.write(json.dumps({"op": op, **request}) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        finally:
            watch.cancel()
        if late.is_set():
            raise BenchmarkError(f"{self.engine} did not {op} within {patience:g} s and was ended.")
        answer: dict[str, Any] = json.loads(line) if line else {"error": self._death()}
        if "error" in answer:
            raise BenchmarkError(f"{self.engine} could not {op}: {answer['error']}")
        return answer

    def load(self) -> dict[str, Any]:
        """Make it ready to run."""
        checkpoint, prepared = os.fspath(self._contender.checkpoint), os.fspath(self._contender.prepared)
        return self.ask("load", checkpoint=checkpoint, prepared=prepared, **self._contender.options)

    def prepare(self) -> dict[str, Any]:
        """Convert the checkpoint into the folder ``prepared``."""
        checkpoint, out = os.fspath(self._contender.checkpoint), os.fspath(self._contender.prepared)
        return self.ask("prepare", checkpoint=checkpoint, out=out, **self._contender.options)

    def close(self) -> None:
        """End the process; its log goes with it."""
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._log):
            if stream is not None:
                with suppress(BrokenPipeError):  # a pipe whose reader is gone
                    stream.close()

    def _death(self) -> str:
        status = self._process.wait()
        self._log.seek(0)
        lines = [line for line in self._log.read().decode("utf-8", "replace").splitlines() if line.strip()]
        said = " | ".join(lines[-_LAST_LINES:]) or "nothing said"
        reason = f"signal {-status}" if status < 0 else f"exit status {status}"
        return f"its process ended ({reason}): {said}"
