"""Pairs of pictures as pixel values, by the artifact's image processor."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from precast.runtime.errors import InputError
from precast.runtime.processors.image import is_picture, open_picture
from precast.runtime.readers.base import Row
from precast.runtime.readers.image import PATCH, ImageReader

__all__ = ["PairReader", "PairRow"]


@dataclass(frozen=True)
class _Pair:
    """One pair: what a list of two pictures was, so that a list is several inputs."""

    pictures: Sequence[Any]


class PairRow(dict[str, np.ndarray]):
    """A row that knows the ``sizes`` of the pictures it was made of, upright: height, width."""

    sizes: tuple[tuple[int, int], tuple[int, int]] = ((0, 0), (0, 0))


class PairReader(ImageReader):
    """A pair of pictures: a list of two files' names, Pillow images or uint8 arrays. A list of pairs is several, and
    one of one pair is that pair, as upstream takes it."""

    window = 8  # two pictures of 640 x 480 in three channels take 7 MB
    together = 2

    def plain(self, inputs: Any) -> Any:
        if _is_pair(inputs):
            return _Pair(inputs)
        if isinstance(inputs, (list, tuple)) and len(inputs) == 1 and _is_pair(inputs[0]):
            return _Pair(inputs[0])
        if isinstance(inputs, (list, tuple)) and inputs and all(map(is_picture, inputs)):
            raise InputError(f"{self.task} takes pictures in pairs; received {len(inputs)} of them. {_FORM}")
        return inputs

    def single(self, inputs: Any) -> bool:
        whole = isinstance(inputs, (_Pair, np.ndarray, Mapping))
        return whole or is_picture(inputs) or not isinstance(inputs, Iterable)

    def row(self, item: Any) -> Row:
        """Two pictures as model inputs, [2, C, H, W]."""
        return self.sized_row(item)

    def sized_row(self, item: Any) -> PairRow:  # type: ignore[override]
        """The same, and how large they are."""
        item = item.pictures if isinstance(item, _Pair) else item
        if not _is_pair(item):
            raise InputError(
                f"{self.task} takes pictures in pairs; received {type(item).__name__}: {item!r:.80}. {_FORM}"
            )
        pictures = [open_picture(one, upright=True) for one in item]
        pixels = [self.image_processor.pixels(picture) for picture in pictures]
        if pixels[0].shape != pixels[1].shape:
            raise InputError(
                f"Pictures of a pair become one size; received some that become {[p.shape for p in pixels]}."
            )
        row = PairRow({self.image_processor.port: np.stack(pixels)})
        first, second = ((picture.height, picture.width) for picture in pictures)
        row.sizes = first, second
        return row

    def cost(self, row: Row) -> int:
        count, _, height, width = row[self.image_processor.port].shape
        return max(1, int(count * height * width) // PATCH)


_FORM = "Give a list of two pictures, or a list of such lists."


def _is_pair(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and len(value) == 2 and all(map(is_picture, value))
