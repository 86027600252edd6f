"""torch eager: upstream's encoder-decoders, with its dynamic cache."""

from __future__ import annotations

from shared.torch_generator import TorchGenerator

__all__ = ["PACKAGES", "Adapter"]

PACKAGES = ("torch", "transformers")


class Adapter(TorchGenerator):
    pass
