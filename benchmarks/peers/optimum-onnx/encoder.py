"""optimum-onnx: text encoders, optimised; int8 by its dynamic quantisation."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from shared.optimum_export import export, quantize
from shared.session import session_options

__all__ = ["PACKAGES", "Adapter"]

PACKAGES = ("optimum", "optimum-onnx", "onnxruntime", "transformers", "torch")


class Adapter:
    STREAMS = False

    def __init__(self, *, threads: int, device: str, precision: str, workload: dict[str, Any]) -> None:
        self._threads, self._precision = threads, precision

    def prepare(self, checkpoint: Path, out: Path) -> None:
        # Its quantiser cannot type the operators that its optimiser makes; the session fuses what is quantised.
        export(checkpoint, out, task="feature-extraction", optimise=self._precision == "fp32")
        if self._precision == "int8":
            quantize(out, None)

    def load(self, checkpoint: Path, prepared: Path) -> None:
        from optimum.onnxruntime import ORTModelForFeatureExtraction

        self._model = ORTModelForFeatureExtraction.from_pretrained(
            prepared, file_name="model.onnx", session_options=session_options(self._threads)
        )

    def run(self, feed: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {"last_hidden_state": self._model(**feed).last_hidden_state}
