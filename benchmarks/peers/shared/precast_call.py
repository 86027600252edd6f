"""Precast as its users call it, by the adapter that `precast bench` uses itself; the driver exports the artifact."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from precast.runtime.bench.adapter import PACKAGES
from precast.runtime.bench.adapter import Adapter as Precast

__all__ = ["PACKAGES", "PrecastAdapter"]


class PrecastAdapter(Precast):
    """``VARIANT``: which one of the artifact's variants; None: the package chooses."""

    VARIANT: str | None = None

    def __init__(self, *, threads: int, device: str, precision: str, workload: Mapping[str, Any]) -> None:
        chosen = {**workload, "variant": self.VARIANT}
        super().__init__(threads=threads, device=device, precision=precision, workload=chosen)

    def prepare(self, checkpoint: Path, out: Path) -> None:
        raise NotImplementedError("an export needs torch, which this environment is without: the driver exports")
