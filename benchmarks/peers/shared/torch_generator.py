"""A generating model through upstream's ``generate`` in torch, on a CPU or a GPU."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from shared.generation import generate
from shared.torch_model import open_model, set_threads

__all__ = ["TorchGenerator"]


class TorchGenerator:
    """Inference mode, scaled dot product attention, ``OPTIONS`` for ``generate``."""

    STREAMS = True
    OPTIONS: Mapping[str, Any] = {}

    def __init__(self, *, threads: int, device: str, precision: str, workload: dict[str, Any]) -> None:
        self._threads, self._device, self._precision, self._workload = threads, device, precision, workload

    def prepare(self, checkpoint: Path, out: Path) -> None:
        return

    def load(self, checkpoint: Path, prepared: Path) -> None:
        set_threads(self._threads)
        self._model = open_model(checkpoint, self._workload, precision=self._precision, device=self._device)

    def run(self, feed: Mapping[str, np.ndarray], mark: Callable[[], None]) -> dict[str, np.ndarray]:
        import torch

        with torch.inference_mode():
            given = {name: torch.from_numpy(value).to(self._device) for name, value in feed.items()}
            return generate(self._model, given, self._workload, mark, **self.OPTIONS)
