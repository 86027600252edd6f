"""optimum-onnx: wav2vec2 with its CTC head."""

from __future__ import annotations

from pathlib import Path

from shared.optimum_export import export, quantize
from shared.session_call import SessionAdapter

__all__ = ["PACKAGES", "Adapter"]

PACKAGES = ("optimum", "optimum-onnx", "onnxruntime", "transformers", "torch")


class Adapter(SessionAdapter):
    INPUT = "input_values"

    def prepare(self, checkpoint: Path, out: Path) -> None:
        export(checkpoint, out, task="automatic-speech-recognition")
        if self._precision == "int8":
            quantize(out, None)
