"""optimum-onnx: encoder-decoders, exported with their cache."""

from __future__ import annotations

from shared.optimum_generator import OptimumGenerator

__all__ = ["PACKAGES", "Adapter"]

PACKAGES = ("optimum", "optimum-onnx", "onnxruntime", "transformers", "torch")


class Adapter(OptimumGenerator):
    TASK = "text2text-generation-with-past"
    CLASS = "ORTModelForSeq2SeqLM"
