"""transformers' own ONNX exporter: image classifiers, with its fusions for ONNX Runtime."""

from __future__ import annotations

from pathlib import Path

from shared.calibration import images
from shared.session_call import SessionAdapter
from shared.torch_model import open_model

__all__ = ["PACKAGES", "Adapter"]

PACKAGES = ("transformers", "torch", "onnxruntime", "onnxscript")


class Adapter(SessionAdapter):
    INPUT = "pixel_values"

    def prepare(self, checkpoint: Path, out: Path) -> None:
        import torch
        from transformers.exporters import OnnxConfig, OnnxExporter

        sample = torch.from_numpy(next(images(self._workload))["pixel_values"]).repeat(2, 1, 1, 1)
        exported = OnnxExporter().export(
            open_model(checkpoint, self._workload),
            {"pixel_values": sample},
            config=OnnxConfig(
                dynamic_shapes={"pixel_values": {0: torch.export.Dim("batch")}},
                ort_fusions="cpu" if self._device == "cpu" else "cuda",
            ),
        )
        exported.save_pretrained(out)
