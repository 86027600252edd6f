"""transformers' own ONNX exporter: text encoders of any batch and length, with its fusions for ONNX Runtime."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from shared.session_call import SessionAdapter
from shared.torch_model import open_model

__all__ = ["PACKAGES", "Adapter"]

PACKAGES = ("transformers", "torch", "onnxruntime", "onnxscript")


class Adapter(SessionAdapter):
    INPUT = "input_ids"

    def prepare(self, checkpoint: Path, out: Path) -> None:
        import torch
        from transformers.exporters import OnnxConfig, OnnxExporter

        ids = torch.randint(1, 1000, (2, 16))
        exported = OnnxExporter().export(
            open_model(checkpoint, self._workload),
            {"input_ids": ids, "attention_mask": torch.ones_like(ids)},
            config=OnnxConfig(dynamic=True, ort_fusions="cpu"),
        )
        exported.save_pretrained(out)

    def run(self, feed: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        (states,) = self._session.run(["last_hidden_state"], dict(feed))
        return {"last_hidden_state": states}
