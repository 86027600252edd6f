"""Kill real exports at random moments and look at what is left. Run by test_export_killed.py in a process of its own.

    python -m support.killed_exports CHECKPOINT FOLDER COUNT SEED

The process imports torch and traces something once, and forks for every export: a kill costs a second and not ten, and
the moments to choose from are those of the export itself.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import torch

from precast.export.exporter import export_model
from precast.export.trace import trace
from precast.runtime.artifact import Artifact
from support.torch_translations import remember


class _Doubled(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"y": x + x}


def warm() -> None:
    """What a first trace imports and reads, for the children to inherit."""
    remember()
    torch.set_num_threads(1)
    trace(_Doubled(), {"x": torch.ones(2, 3)}, {"x": {0: "batch"}}, ("y",), "doubled")


def export(checkpoint: str, target: Path, overwrite: bool) -> int:
    """Start an export in a child; returns its pid."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            export_model(checkpoint, target, overwrite=overwrite)
            status = 0
        finally:
            os._exit(status)
    return pid


def main(checkpoint: str, folder: Path, count: int, seed: int) -> dict[str, int]:
    target = folder / "artifact"
    warm()
    start = time.perf_counter()
    assert os.waitpid(export(checkpoint, target, False), 0)[1] == 0, "the export itself fails"
    length = time.perf_counter() - start
    digest = Artifact.open(target).digest
    rng = random.Random(seed)
    seen = {"kills": 0, "finished": 0, "absent": 0, "whole": 0}
    for index in range(count):
        overwrite = index % 2 == 1
        if not overwrite and target.exists():
            os.rename(target, folder / f"old-{index}")
        pid = export(checkpoint, target, overwrite and target.exists())
        time.sleep(rng.uniform(0, length * 1.05))
        os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        seen["kills" if os.WIFSIGNALED(status) else "finished"] += 1
        if target.exists():
            # What stands in the target's place is whole: every digest is checked.
            assert Artifact.open(target).digest == digest, "another artifact in the target's place"
            seen["whole"] += 1
        else:
            assert not overwrite or not any(entry.name == "artifact" for entry in folder.iterdir())
            seen["absent"] += 1
    # The next export cleans up after all of the killed ones.
    assert os.waitpid(export(checkpoint, target, target.exists()), 0)[1] == 0
    left = [entry.name for entry in folder.iterdir() if entry.name != "artifact" and not entry.name.startswith("old-")]
    assert not left, f"left behind: {left}"
    return seen


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))))
