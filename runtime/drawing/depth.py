"""Depth as colours, beside the picture: what is near in a model's inverse depth is bright."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["draw"]

# Evenly spaced colours of a map that grows lighter throughout: magma, by Nathaniel Smith and Stéfan van der Walt (CC0).
_DARK = ((0, 0, 4), (28, 16, 68), (79, 18, 123), (129, 37, 129), (181, 54, 122))
_MAP = np.array((*_DARK, (229, 80, 100), (251, 135, 97), (254, 194, 135), (252, 253, 191)), np.float32)


def draw(picture: Image, result: Mapping[str, Any]) -> Image:
    """``{"depth": a picture of one channel}``, 0 to 255, in colours and at the picture's size, at its right."""
    from PIL import Image as images

    grey = result["depth"].convert("L").resize(picture.size, images.Resampling.BILINEAR)
    place = np.arange(256, dtype=np.float32) / 255 * (len(_MAP) - 1)
    table = np.stack([np.interp(place, np.arange(len(_MAP)), channel) for channel in _MAP.T], axis=-1)
    coloured = images.fromarray(table.round().astype(np.uint8)[np.asarray(grey)])
    whole = images.new("RGB", (2 * picture.width, picture.height))
    whole.paste(picture.convert("RGB"))
    whole.paste(coloured, (picture.width, 0))
    return whole
