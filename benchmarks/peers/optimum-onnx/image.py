"""optimum-onnx: image classifiers, optimised where it knows the architecture; int8 by its quantiser."""

from __future__ import annotations

import json
from pathlib import Path

from shared.calibration import images
from shared.optimum_export import export, quantize
from shared.session_call import SessionAdapter

__all__ = ["PACKAGES", "Adapter"]

PACKAGES = ("optimum", "optimum-onnx", "onnxruntime", "transformers", "torch")

# Its names of what a class of upstream's is for.
_TASKS = {
    "ImageClassification": "image-classification",
    "ObjectDetection": "object-detection",
    "SemanticSegmentation": "semantic-segmentation",
}


class Adapter(SessionAdapter):
    INPUT = "pixel_values"

    def prepare(self, checkpoint: Path, out: Path) -> None:
        # Its dynamic quantiser cannot type the outputs of the fused operators in ViT's graph.
        export(
            checkpoint,
            out,
            task=_TASKS[self._workload["model_class"].rpartition("For")[2]],
            optimise=self._precision != "int8",
        )
        if self._precision == "int8":
            config = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
            # Its guide: dynamic quantisation for transformers, static (calibrated) for convolutional networks.
            quantize(out, None if "num_attention_heads" in config else images(self._workload))
