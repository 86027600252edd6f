"""Pictures as pixel values, by the artifact's image processor."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from precast.runtime.processors.image import is_picture, open_picture
from precast.runtime.readers.base import Reader, Row

__all__ = ["PATCH", "ImageReader", "PictureRow"]

# A patch of so many pixels takes a model about as long as a token.
PATCH = 16 * 16


class PictureRow(dict[str, np.ndarray]):
    """A row that knows the ``size`` of the picture it was made of, upright: height, width."""

    size: tuple[int, int] = (0, 0)


class ImageReader(Reader):
    """A picture: a file's name or http address, a Pillow image, or a uint8 array; a list of arrays may be one array
    [N, H, W, 3].

    Raises:
        InputError: there is no image processor.
    """

    parts: ClassVar[tuple[str, ...]] = ("image_processor",)
    window = 32  # a picture of 224 x 224 takes 600 kB
    together: ClassVar[int] = 1
    """Files that are one input of a command line."""

    def __init__(self, model: Any, *, task: str, too_long: str = "", image_processor: Any = None) -> None:
        super().__init__(model, task=task, too_long=too_long)
        self.image_processor = self.processor(model, "image_processor", image_processor)

    def plain(self, inputs: Any) -> Any:
        return list(inputs) if isinstance(inputs, np.ndarray) and inputs.ndim in (1, 4) else inputs

    def single(self, inputs: Any) -> bool:
        return is_picture(inputs) or isinstance(inputs, (np.ndarray, Mapping)) or not isinstance(inputs, Iterable)

    def row(self, item: Any) -> Row:
        """One picture as model inputs."""
        row: Row = self.image_processor.row(open_picture(item, upright=True))
        return row

    def sized_row(self, item: Any) -> PictureRow:
        """The same, and how large that picture is."""
        picture = open_picture(item, upright=True)
        row = PictureRow(self.image_processor.row(picture))
        row.size = (picture.height, picture.width)
        return row

    def collate(self, rows: Sequence[Row]) -> dict[str, np.ndarray]:
        return {name: np.stack([row[name] for row in rows]) for name in rows[0]}

    def cost(self, row: Row) -> int:
        values = row[self.image_processor.port]
        if values.ndim < 3:  # numbers of colours, as many as tokens, or patches
            return len(values)
        height, width = values.shape[1:]
        return max(1, int(height * width) // PATCH)

    def group(self, row: Row) -> Hashable:
        return row[self.image_processor.port].shape
