"""Precast: an artifact that names a token for every frame, the variant that the package chooses."""

from __future__ import annotations

from shared.precast_call import PrecastAdapter

__all__ = ["PACKAGES", "Adapter"]

PACKAGES = ("precast", "onnxruntime", "onnxruntime-gpu", "numpy")


class Adapter(PrecastAdapter):
    VARIANT = None
