"""Precast: a decoder that reads a picture, the variant that the package chooses."""

from __future__ import annotations

from shared.precast_generator import PrecastGenerator

__all__ = ["PACKAGES", "Adapter"]

PACKAGES = ("precast", "onnxruntime", "onnxruntime-gpu", "numpy")


class Adapter(PrecastGenerator):
    VARIANT = None
