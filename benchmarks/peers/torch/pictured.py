"""torch eager: upstream's decoders that read pictures, with their dynamic cache."""

from __future__ import annotations

from shared.torch_generator import TorchGenerator

__all__ = ["PACKAGES", "Adapter"]

PACKAGES = ("torch", "transformers")


class Adapter(TorchGenerator):
    pass
