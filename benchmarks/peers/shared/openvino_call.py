"""One array in, logits out, through OpenVINO: converted from torch, int8 by NNCF's calibrated quantisation."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from shared.torch_model import open_model

__all__ = ["OpenVINOAdapter"]


class OpenVINOAdapter:
    """``INPUT`` names the feed's only array."""

    STREAMS = False
    INPUT: str

    def __init__(self, *, threads: int, device: str, precision: str, workload: dict[str, Any]) -> None:
        self._threads, self._precision, self._workload = threads, precision, workload

    def _samples(self, config: dict[str, Any]) -> Iterable[dict[str, np.ndarray]]:
        raise NotImplementedError

    def _shape(self, sample: np.ndarray) -> list[int]:
        """-1 where a dimension differs from call to call."""
        raise NotImplementedError

    def prepare(self, checkpoint: Path, out: Path) -> None:
        import openvino
        import torch

        model = open_model(checkpoint, self._workload)
        config = model.config.to_dict()
        sample = next(iter(self._samples(config)))[self.INPUT]
        example = {self.INPUT: torch.from_numpy(sample)}
        converted = openvino.convert_model(model, example_input=example, input=self._shape(sample))
        if self._precision == "int8":
            import nncf

            # NNCF's guide: its scheme for transformers, its mixed preset (asymmetric activations) elsewhere.
            scheme = (
                {"model_type": nncf.ModelType.TRANSFORMER}
                if "num_attention_heads" in config
                else {"preset": nncf.QuantizationPreset.MIXED}
            )
            calibration = list(self._samples(config))
            converted = nncf.quantize(converted, nncf.Dataset(calibration), subset_size=len(calibration), **scheme)
        openvino.save_model(converted, out / "model.xml", compress_to_fp16=False)

    def load(self, checkpoint: Path, prepared: Path) -> None:
        import openvino

        settings = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": self._threads,
            "INFERENCE_PRECISION_HINT": "f32",
        }
        self._request = openvino.Core().compile_model(prepared / "model.xml", "CPU", settings).create_infer_request()

    def run(self, feed: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {"logits": self._request.infer([feed[self.INPUT]], share_inputs=True)[0]}
