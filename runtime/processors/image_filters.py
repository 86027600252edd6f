"""Ways to resample a picture, by name."""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["FILTERS"]

# Pillow's numbers of them.
FILTERS: Mapping[str, int] = {"nearest": 0, "lanczos": 1, "bilinear": 2, "bicubic": 3, "box": 4, "hamming": 5}
