"""optimum-onnx's export with a cache, driven by upstream's ``generate``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from shared.generation import generate
from shared.session import session_options

__all__ = ["OptimumGenerator"]


class OptimumGenerator:
    """``TASK`` is what is exported, ``CLASS`` the class of optimum.onnxruntime that opens it."""

    STREAMS = True
    TASK: str
    CLASS: str

    def __init__(self, *, threads: int, device: str, precision: str, workload: dict[str, Any]) -> None:
        self._threads, self._workload = threads, workload

    def prepare(self, checkpoint: Path, out: Path) -> None:
        from optimum.exporters.onnx import main_export

        main_export(checkpoint, out, task=self.TASK, library_name="transformers", do_validation=False)

    def load(self, checkpoint: Path, prepared: Path) -> None:
        import optimum.onnxruntime
        import torch

        torch.set_num_threads(self._threads)
        opener = getattr(optimum.onnxruntime, self.CLASS)
        self._model = opener.from_pretrained(prepared, session_options=session_options(self._threads), use_cache=True)

    def run(self, feed: Mapping[str, np.ndarray], mark: Callable[[], None]) -> dict[str, np.ndarray]:
        import torch

        with torch.inference_mode():
            given = {name: torch.from_numpy(value) for name, value in feed.items()}
            return generate(self._model, given, self._workload, mark)
