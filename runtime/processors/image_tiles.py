"""A picture as tiles of one size and a small picture of the whole, so that a model of small pictures sees details.
https://arxiv.org/abs/2408.12637"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

from precast.runtime.fields import Fields, is_count
from precast.runtime.generation.tiles import Tiles as Cut
from precast.runtime.processors.image_filters import FILTERS

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["Fitted", "Grid", "Tiling"]

_LARGEST = 4096  # of a side, before it is cut
_SMALLEST, _MOST = 16, 64  # of a tile; tiles of a side


class Grid(NamedTuple):
    """Rows and columns of tiles; none: the picture is one by itself."""

    rows: int
    columns: int


class Tiling(NamedTuple):
    """Resized so that the longest edge is ``longest`` (None: as it is), made whole squares of ``tile``, and cut into
    these, row by row, with the whole picture as one more behind them; a picture no larger than one is that alone.

    Args:
        split: otherwise each picture becomes one square.
    """

    filter: str
    tile: int
    longest: int | None = None
    split: bool = True

    @classmethod
    def read(cls, fields: Fields) -> Tiling:
        tile: int = fields.take(
            "tile", f"an integer from {_SMALLEST} to {_LARGEST}", lambda v: is_count(v, _LARGEST, least=_SMALLEST)
        )
        most = min(_LARGEST, _MOST * tile)
        longest = fields.take(
            "longest",
            f"an integer from 1 to {most}, the side of {_MOST} tiles at most, or null",
            lambda v: v is None or is_count(v, most, least=1),
            None,
        )
        return cls(fields.choice("filter", FILTERS), tile, longest, fields.flag("split", True))

    def to_json(self) -> dict[str, Any]:
        return {"op": "tiles", "filter": self.filter, "tile": self.tile, "longest": self.longest, "split": self.split}

    def grid(self, size: tuple[int, int]) -> Grid:
        """Of a picture of so many columns and rows of pixels."""
        if not self.split:
            return Grid(0, 0)
        width, height = self._whole(self._resized(size))
        if max(width, height) <= self.tile:
            return Grid(0, 0)
        return Grid((height - self.tile) // self.tile + 1, (width - self.tile) // self.tile + 1)

    def __call__(self, picture: Image) -> list[Image]:
        square = (self.tile, self.tile)
        picture = self._to(picture, self._resized(picture.size))
        if not self.split:
            return [self._to(picture, square)]
        picture = self._to(picture, self._whole(picture.size))
        if max(picture.size) <= self.tile:
            return [picture]
        rows, columns = ((side - self.tile) // self.tile + 1 for side in reversed(picture.size))
        places = [(row * self.tile, column * self.tile) for row in range(rows) for column in range(columns)]
        tiles = [picture.crop((left, top, left + self.tile, top + self.tile)) for top, left in places]
        return [*tiles, self._to(picture, square)]

    def _to(self, picture: Image, size: tuple[int, int]) -> Image:
        return picture.resize(size, resample=FILTERS[self.filter])

    def _resized(self, size: tuple[int, int]) -> tuple[int, int]:
        if self.longest is None:
            return size
        width, height = size
        share = width / height
        if width >= height:
            width, height = self.longest, int(self.longest / share)
            height += height % 2
        else:
            width, height = int(self.longest * share), self.longest
            width += width % 2
        return max(width, 1), max(height, 1)

    def _whole(self, size: tuple[int, int]) -> tuple[int, int]:
        """The next size up that is whole squares, as the longer edge makes the shorter one."""
        width, height = size
        share = width / height
        if width >= height:
            width = math.ceil(width / self.tile) * self.tile
            height = math.ceil(int(width / share) / self.tile) * self.tile
        else:
            height = math.ceil(height / self.tile) * self.tile
            width = math.ceil(int(height * share) / self.tile) * self.tile
        return max(width, self.tile), max(height, self.tile)


class Fitted(NamedTuple):
    """The whole picture as a square of ``tile``, and behind it the tiles, row by row, of the picture in its own
    proportions in the middle of the best of a few sizes. https://llava-vl.github.io/blog/2024-01-30-llava-next/"""

    filter: str
    tile: int
    sizes: tuple[tuple[int, int], ...]

    @classmethod
    def read(cls, fields: Fields) -> Fitted:
        rule = f"an integer from 1 to {_LARGEST}"
        tile: int = fields.take("tile", rule, lambda v: is_count(v, _LARGEST, least=1))
        rule = f"1 to {_MOST} pairs of multiples of {tile}, each at most {_LARGEST}"
        sizes = fields.take("sizes", rule, lambda value: cls._are_sizes(value, tile))
        return cls(fields.choice("filter", FILTERS), tile, tuple((height, width) for height, width in sizes))

    @staticmethod
    def _are_sizes(value: Any, tile: int) -> bool:
        return Cut.are_sizes(value, tile) and len(value) <= _MOST and max(map(max, value)) <= _LARGEST

    def to_json(self) -> dict[str, Any]:
        return {"op": "fitted", "filter": self.filter, "tile": self.tile, "sizes": [list(size) for size in self.sizes]}

    def __call__(self, picture: Image) -> list[Image]:
        from PIL import Image

        width, height = picture.size
        down, across = Cut(self.tile, 1, self.sizes).best(height, width)
        if across / width < down / height:
            size = across, min(math.ceil(height * (across / width)), down)
        else:
            size = min(math.ceil(width * (down / height)), across), down
        filter_ = FILTERS[self.filter]
        sheet = Image.new(picture.mode, (across, down))
        sheet.paste(picture.resize(size, resample=filter_), ((across - size[0]) // 2, (down - size[1]) // 2))
        places = [(top, left) for top in range(0, down, self.tile) for left in range(0, across, self.tile)]
        tiles = [sheet.crop((left, top, left + self.tile, top + self.tile)) for top, left in places]
        return [picture.resize((self.tile, self.tile), resample=filter_), *tiles]
