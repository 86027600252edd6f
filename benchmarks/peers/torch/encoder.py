"""torch eager: upstream's text encoders."""

from __future__ import annotations

from shared.torch_encoder import EncoderAdapter

__all__ = ["PACKAGES", "Adapter"]

PACKAGES = ("torch", "transformers")


class Adapter(EncoderAdapter):
    pass
