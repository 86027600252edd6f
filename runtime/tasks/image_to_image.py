"""Image to image: a picture, enlarged or restored."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from precast.runtime.tasks._pictures import PictureTask
from precast.runtime.tasks.base import Request, Row

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["PIPELINE", "ImageToImage"]


class ImageToImage(PictureTask):
    """A picture -> a Pillow image of what the model makes of it, with what its image processor added at the edges."""

    name = "image-to-image"

    def keep(self, outputs: Mapping[str, np.ndarray], index: int, span: slice, row: Row) -> np.ndarray:
        made = np.clip(np.asarray(outputs["reconstruction"][index], np.float32), 0, 1)
        return (made * np.float32(255)).round().astype(np.uint8)

    def finish(self, request: Request, kept: list[Any], parameters: Mapping[str, Any]) -> Image:
        from PIL import Image

        made = kept[0]
        return Image.fromarray(np.ascontiguousarray(made[0] if len(made) == 1 else np.moveaxis(made, 0, -1)))


PIPELINE = ImageToImage
