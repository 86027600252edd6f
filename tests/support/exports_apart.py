"""Exports in a process that has not loaded torch, and what is seen of them. Run by test_apart.py.

python -m support.exports_apart CHECKPOINT FOLDER
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from precast.export import exporter
from precast.runtime.artifact import Artifact
from precast.runtime.errors import PrecastError


def refusal(export: Callable[..., Any], *arguments: Any, **named: Any) -> str:
    try:
        export(*arguments, **named)
    except PrecastError as error:
        return f"{type(error).__name__}: {error}"
    return ""


def main(checkpoint: str, folder: Path) -> dict[str, Any]:
    stages: list[str] = []
    made = exporter.export_model(checkpoint, folder / "apart", progress=stages.append)
    artifact = Artifact.open(made)
    seen: dict[str, Any] = {
        "digest": artifact.digest,
        "stages": stages,
        "peak": artifact.manifest.cost["peak_memory_bytes"],
        "missing": refusal(exporter.export_model, str(folder / "absent"), folder / "other"),
        # The artifact added to goes to the other process and comes back with what is wrong.
        "added": [refusal(exporter.export_model, checkpoint, made, add=True).partition(":")[0]],
        "torch": sorted(name for name in sys.modules if name.partition(".")[0] in ("torch", "onnx", "onnx_ir")),
    }
    compare = exporter.compare

    def wrong(parts: Any, recorded: Any) -> Any:
        for item in compare(parts, recorded):
            yield replace(item, rms=1.0, error=1.0, excess=9.0)

    exporter.compare = wrong
    seen["refused"] = refusal(exporter.export_model, checkpoint, folder / "refused")
    return seen


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], Path(sys.argv[2]))))
