"""Precast as its users call it: `precast.load`, then the model with named arrays, all its input checks included."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["PrecastAdapter"]


class PrecastAdapter:
    """Runs an artifact that the driver exported. ``VARIANT``: which one of its variants; None: the package chooses."""

    STREAMS = False
    VARIANT: str | None = None

    def __init__(self, *, threads: int, device: str, precision: str, workload: dict[str, Any]) -> None:
        self._threads, self._device = threads, device

    def prepare(self, checkpoint: Path, out: Path) -> None:
        raise NotImplementedError("an export needs torch, which this environment is without: the driver exports")

    def load(self, checkpoint: Path, prepared: Path) -> None:
        import precast

        self._model = precast.load(prepared, device=self._device, threads=self._threads, variant=self.VARIANT)

    def run(self, feed: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
        return self._model(**feed)
