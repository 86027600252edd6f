"""torch eager: upstream's image classifiers."""

from __future__ import annotations

from shared.torch_call import ImageAdapter

__all__ = ["PACKAGES", "Adapter"]

PACKAGES = ("torch", "transformers")


class Adapter(ImageAdapter):
    """Nothing to add."""
