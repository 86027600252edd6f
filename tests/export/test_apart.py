"""The process that torch has for itself: what it answers, and how either of the two may end."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support import DATA, TESTS
from support.oracle import save_checkpoint, upstream

from precast.export import apart
from precast.export.heads import SEQUENCE_CLASSIFICATION
from precast.export.prepared import Request
from precast.runtime import errors
from precast.runtime.artifact import Artifact, ArtifactWriter
from precast.runtime.errors import DiskSpaceError, ExportError, InputError
from precast.runtime.machine import own_peak

REQUEST = Request("nowhere", None, "fp32", "cpu", None, None, None)
# A child as it is, but for what it does: BODY has `request`, `writer` and `stage`.
CHILD = """
import sys
sys.path[:] = sys.argv[1:]
from precast.export import apart

def prepare(request, writer, stage):
    {body}

apart._prepare = lambda: prepare
apart.serve()
"""


def speak(body: str, monkeypatch: pytest.MonkeyPatch, writer: ArtifactWriter, stage: Callable[[str], None]) -> Any:
    monkeypatch.setattr(apart, "_START", CHILD.format(body=body))
    return apart.prepare_apart(REQUEST, writer, stage)


@pytest.fixture
def writer(tmp_path: Path) -> Any:
    with ArtifactWriter(tmp_path / "out") as writer:
        yield writer
    assert not list(tmp_path.iterdir())


def gone(pid: int) -> bool:
    """Whether a process has ended, given time to."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            os.kill(pid, 0)
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except (ProcessLookupError, FileNotFoundError):
            return True
        time.sleep(0.02)
    return False


def test_what_the_child_writes_is_the_parents(writer: ArtifactWriter, monkeypatch: pytest.MonkeyPatch) -> None:
    stages: list[str] = []
    writer.write_bytes("before", b"1")
    body = (
        "stage('one'); print('what a library says'); writer.write_bytes('a/b', b'22'); stage('two'); "
        "return [writer.add_weight([b'333'])[0], request.source]"
    )
    (weight, source), peak = speak(body, monkeypatch, writer, stages.append)
    assert (stages, source) == (["one", "two"], "nowhere")
    assert [writer.path_of(name).read_bytes() for name in ("before", "a/b", weight)] == [b"1", b"22", b"333"]
    assert peak > own_peak()
    writer.write_bytes("after", b"4")  # and the parent writes on
    with pytest.raises(ExportError, match="a/b cannot be written"):
        writer.write_bytes("a/b", b"other")


def test_the_artifact_that_is_added_to_goes_along(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sample = next(path.parent for path in sorted((DATA / "artifacts").rglob("precast.json")))
    shutil.copytree(sample, tmp_path / "out")
    body = "writer.write_bytes('new', b'1'); return writer.base.digest"
    with ArtifactWriter(tmp_path / "out", mode="add") as writer:
        assert writer.base is not None
        assert speak(body, monkeypatch, writer, print)[0] == writer.base.digest
        assert writer.path_of("new").exists()


def test_an_error_is_what_it_was(writer: ArtifactWriter, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"^it is refused\.$") as caught:
        speak(
            "from precast.runtime.errors import InputError; raise InputError('it is refused.')",
            monkeypatch,
            writer,
            print,
        )
    assert "in prepare" in str(caught.value.__cause__)  # where it was raised
    with pytest.raises(ZeroDivisionError):
        speak("1 / 0", monkeypatch, writer, print)
    with pytest.raises(RuntimeError, match="Odd: 1"):
        speak(
            "exec('class Odd(BaseException): pass', globals()); Odd.__module__ = 'elsewhere'; raise Odd(1)",
            monkeypatch,
            writer,
            print,
        )


@pytest.mark.parametrize("name", sorted(name for name in errors.__all__ if name.endswith("Error")))
def test_every_error_of_ours_passes(name: str) -> None:
    kind = getattr(errors, name)
    sent = pickle.loads(pickle.dumps(kind("The rule. What to do.")))
    assert type(sent) is kind
    assert str(sent) == "The rule. What to do."


def test_a_full_disk_is_still_one() -> None:
    from precast.runtime.disk import full_disk

    error = full_disk(OSError(28, "No space left on device"), "the artifact", Path("/"), needed=10, ours=1)
    sent = apart._portable(error)
    assert sent is error
    assert isinstance(pickle.loads(pickle.dumps(error)), DiskSpaceError)
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("import os; os.kill(os.getpid(), 9)", "where memory runs out"),
        ("import os; os.kill(os.getpid(), 11)", "signal 11"),
        ("import os; os._exit(3)", "status 3"),
    ],
)
def test_a_child_that_dies(body: str, says: str, writer: ArtifactWriter, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises((ExportError, NameError, OSError), match=says):
        speak(body, monkeypatch, writer, print)


def test_a_child_that_does_not_start(writer: ArtifactWriter, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(apart, "_START", "raise SystemExit(7)")
    with pytest.raises(ExportError, match="status 7"):
        apart.prepare_apart(REQUEST, writer, print)
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with pytest.raises(ExportError, match="none starts"):
        apart.prepare_apart(REQUEST, writer, print)


def test_who_interrupts_the_parent_ends_the_child(writer: ArtifactWriter, monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[int] = []

    def interrupted(stage: str) -> None:
        found.append(int(stage))
        raise KeyboardInterrupt

    # An interrupt of both, as a terminal sends it, is for the parent to answer.
    body = "import os, signal, time; os.kill(os.getpid(), signal.SIGINT); stage(str(os.getpid())); time.sleep(600)"
    with pytest.raises(KeyboardInterrupt):
        speak(body, monkeypatch, writer, interrupted)
    assert gone(found[0])


def test_a_child_ends_with_its_parent_and_holds_the_lock_until_then(tmp_path: Path) -> None:
    body = "import os, time; stage(str(os.getpid())); time.sleep(600)"
    code = f"""
import os, sys, time
from precast.export import apart
from precast.export.prepared import Request
from precast.runtime.artifact import ArtifactWriter
apart._START = {CHILD.format(body=body)!r}
with ArtifactWriter({str(tmp_path / "out")!r}) as writer:
    request = Request("nowhere", None, "fp32", "cpu", None, None, None)
    apart.prepare_apart(request, writer, lambda stage: print(stage, flush=True))
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        os.kill(child, signal.SIGSTOP)  # it cannot end: what it writes to must stay
        parent.kill()
    with ArtifactWriter(tmp_path / "out"):
        assert len(list(tmp_path.iterdir())) == 2
    os.kill(child, signal.SIGCONT)
    assert gone(child)
    with ArtifactWriter(tmp_path / "out"):
        assert len(list(tmp_path.iterdir())) == 1
    assert not list(tmp_path.iterdir())


def test_an_export_without_torch_is_the_same(tmp_path: Path) -> None:
    """In a process that has no torch: the same bytes, nothing of torch afterwards, and a refusal, for which the
    reference is made anew."""
    from precast.export.exporter import export_model

    config, model = upstream("bert", SEQUENCE_CLASSIFICATION, {"num_hidden_layers": 1})
    source = save_checkpoint(tmp_path / "source", config, model)
    here = export_model(source, tmp_path / "here")
    command = [sys.executable, "-m", "support.exports_apart", str(source), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=TESTS)
    assert done.returncode == 0, done.stderr[-3000:]
    seen = json.loads(done.stdout)
    assert seen["digest"] == Artifact.open(here).digest
    assert seen["stages"][0] == "reading the checkpoint"
    assert seen["stages"][-1] == "publishing"
    assert seen["peak"] > 100 << 20  # what torch alone takes, in the other process
    assert seen["torch"] == []
    assert seen["refused"].startswith("ParityError")
    assert "the error starts at" in seen["refused"] or "no module's output breaks" in seen["refused"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["apart", "here", "source"]
