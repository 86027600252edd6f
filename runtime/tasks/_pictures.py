"""What tasks of one picture share: how they are called, and a row for each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from precast.runtime.errors import InputError
from precast.runtime.readers.image import ImageReader, PictureRow
from precast.runtime.tasks.base import Request, Row, Task

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["PictureTask", "SizedPictureTask", "grey"]


class PictureTask(Task[ImageReader]):
    """Called with a picture or several, which upstream also takes as ``images``."""

    reads = ImageReader

    def __call__(self, inputs: Any = None, *, images: Any = None, **parameters: Any) -> Any:
        inputs = images if inputs is None else inputs
        if inputs is None:
            raise InputError(f"{self.name} needs a picture, or a list of them.")
        return super().__call__(inputs, **parameters)

    def prepare(self, items: Sequence[Any], parameters: Mapping[str, Any]) -> list[Request]:
        return [Request([self.reader.row(item)]) for item in items]


class SizedPictureTask(PictureTask):
    """Whose results lie upon the picture: its rows know how large that was."""

    def prepare(self, items: Sequence[Any], parameters: Mapping[str, Any]) -> list[Request]:
        return [Request([self.reader.sized_row(item)]) for item in items]

    @staticmethod
    def size_of(row: Row) -> tuple[int, int]:
        """Height and width of the picture a row was made of, upright."""
        assert isinstance(row, PictureRow), "rows are made by `prepare`"
        return row.size


def grey(values: np.ndarray) -> Image:
    """uint8 [H, W] as a picture."""
    from PIL import Image

    return Image.fromarray(values)
