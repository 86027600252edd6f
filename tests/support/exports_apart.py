"""Exports in a process that has not loaded torch, and what is seen of them. Run by test_apart.py.

python -m support.exports_apart CHECKPOINT FOLDER
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from precast.export import exporter
from precast.runtime.artifact import Artifact
from precast.runtime.errors import PrecastError


def main(checkpoint: str, folder: Path) -> dict[str, Any]:
    stages: list[str] = []
    made = exporter.export_model(checkpoint, folder / "apart", progress=stages.append)
    artifact = Artifact.open(made)
    seen: dict[str, Any] = {
        "digest": artifact.digest,
        "stages": stages,
        "peak": artifact.manifest.cost["peak_memory_bytes"],
        "torch": sorted(name for name in sys.modules if name.partition(".")[0] in ("torch", "onnx", "onnx_ir")),
    }
    compare = exporter.compare

    def wrong(parts: Any, recorded: Any) -> Any:
        for item in compare(parts, recorded):
            yield replace(item, rms=1.0, error=1.0, excess=9.0)

    exporter.compare = wrong
    try:
        exporter.export_model(checkpoint, folder / "refused")
    except PrecastError as error:
        seen["refused"] = f"{type(error).__name__}: {error}"
    return seen


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], Path(sys.argv[2]))))
