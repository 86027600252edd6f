"""Precast: a text encoder's artifact on ONNX Runtime's own operators."""

from __future__ import annotations

from shared.precast_call import PrecastAdapter

__all__ = ["PACKAGES", "Adapter"]

PACKAGES = ("precast", "onnxruntime", "onnxruntime-gpu", "numpy")


class Adapter(PrecastAdapter):
    VARIANT = "cpu-fp32"
