"""Kill a writer at many moments and say what is left: run by test_crash.py in a process of its own.

A line of writer.py, publisher.py or staging.py is the unit of "moment": between two system calls lies at least one.
Kills by the clock are added, for moments inside a call.
"""

from __future__ import annotations

import errno
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

from precast.runtime.artifact import Artifact
from precast.runtime.artifact import publisher as publisher_module
from precast.runtime.artifact import staging as staging_module
from precast.runtime.artifact import writer as writer_module
from precast.runtime.errors import OutputExistsError
from support import artifact_samples as samples

TRACED = (writer_module.__file__, publisher_module.__file__, staging_module.__file__)


def change(target: Path, mode: str) -> None:
    """What gets killed."""
    if mode == "add":
        samples.make(target, mode="add", precision="int8")
    else:
        samples.make(target, mode=mode, seed="new")


def traced(work: Callable[[], None], last: int | None) -> int:
    """Run, counting lines; SIGKILL this process at line ``last``."""
    count = 0

    def line(_frame: FrameType, event: str, _arg: Any) -> Any:
        nonlocal count
        if event == "line":
            count += 1
            if count == last:
                os.kill(os.getpid(), signal.SIGKILL)
        return line

    def call(frame: FrameType, _event: str, _arg: Any) -> Any:
        return line if frame.f_code.co_filename in TRACED else None

    sys.settrace(call)
    try:
        work()
    finally:
        sys.settrace(None)
    return count


def in_child(work: Callable[[], None], kill_after: float | None = None) -> bool:
    """Fork and run; True if the child was killed."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    if kill_after is not None:
        time.sleep(kill_after)
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0, "the writer failed before it was killed"
    return os.WIFSIGNALED(status)


def main(folder: Path, mode: str, plain: bool, moments: int) -> None:
    os.fsync = lambda _handle: None  # a killed process loses no page of the cache; syncing is tested elsewhere
    if plain:

        def refuse(*_: Any) -> None:
            raise OSError(errno.EINVAL, "no such flag")

        staging_module._renameat2 = refuse
    old = samples.make(folder / "old")
    names = {Artifact.open(old).digest: "old"}

    def prepare(name: str) -> Path:
        home = folder / name
        home.mkdir()
        if mode != "create":
            shutil.copytree(old, home / "tiny")
        return home / "tiny"

    target = prepare("measure")
    started = time.perf_counter()
    change(target, mode)
    duration = time.perf_counter() - started
    names[Artifact.open(target).digest] = "new"
    assert len(names) == 2
    lines = traced(
        lambda: change(prepare("count") if mode == "create" else shutil.copytree(old, folder / "count2"), mode), None
    )

    draw = random.Random(f"{mode}{plain}")
    found: dict[str, int] = {}
    by_clock = 0
    for turn in range(moments):
        target = prepare(f"turn{turn}")
        if turn % 3:
            # Every other one in the last quarter, where the renames are.
            first = lines * 3 // 4 if turn % 3 == 1 else 0
            line = 1 + first + int((turn + draw.random()) / moments * (lines - first))
            killed = in_child(lambda target=target, line=line: traced(lambda: change(target, mode), line) and None)
            assert killed, f"line {line} of {lines} was not reached"
        else:
            # A busy machine may have measured a duration that no longer holds: these may outlive their clock.
            killed = in_child(lambda target=target: change(target, mode), draw.random() * 1.2 * duration)
            by_clock += killed
        state = names[Artifact.open(target).digest] if target.exists() else "nothing"
        if plain and mode != "create" and state == "nothing":
            state = "set aside"
        else:
            assert state in (("nothing", "new") if mode == "create" else ("old", "new")), state
        leftovers = len(os.listdir(target.parent)) - target.exists()
        seen = f"{state}{' + leftovers' if leftovers else ''}"
        found[seen] = found.get(seen, 0) + 1
        # The next export succeeds, or says why not, and leaves its target alone beside nothing.
        try:
            change(target, mode)
        except OutputExistsError:
            assert state == "new"
            assert mode != "overwrite"
        assert names[Artifact.open(target).digest] == "new"
        assert os.listdir(target.parent) == ["tiny"], os.listdir(target.parent)
        shutil.rmtree(target.parent)
    sys.stdout.write(f"{lines} lines, {by_clock} killed by the clock: {sorted(found.items())}\n")
    assert by_clock
    assert any("leftovers" in state for state in found)
    assert any(state.startswith("new") for state in found)
    assert any(state.startswith("nothing" if mode == "create" else "old") for state in found)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3] == "fallback", int(sys.argv[4]))
