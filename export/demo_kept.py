"""Artifacts of demos, which a second one finds where the first has left them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from precast.calibration.cost import Progress
from precast.export.exporter import export_model
from precast.runtime.artifact import Artifact
from precast.runtime.cache import cache_folder
from precast.runtime.errors import PrecastError

__all__ = ["kept"]


def kept(
    source: Path,
    out: str | os.PathLike[str] | None,
    *,
    name: str,
    model_type: str,
    precision: str,
    progress: Progress | None = None,
) -> tuple[Path, Mapping[str, Any] | None]:
    """The artifact of ``source``, and what its export cost; None where it was there already.

    Args:
        out: its folder; None: one in the cache, called ``name``, which the next call finds.
    """
    say = progress or (lambda stage: None)
    folder = Path(out) if out is not None else cache_folder() / "demo" / f"{name}-{precision}"
    if folder.exists():
        with suppress(PrecastError):
            say("checking the artifact that is there")
            if Artifact.open(folder).manifest.model_type == model_type:
                return folder, None
    folder.parent.mkdir(parents=True, exist_ok=True)
    artifact = export_model(source, folder, precision=precision, overwrite=folder.exists(), progress=progress)
    return artifact, Artifact.open(artifact, check="size").manifest.cost
