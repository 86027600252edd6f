"""Pictures that are seen as a whole and in tiles: which feature stands at which of a picture's places.

A picture is fitted into the best of a few sizes, padded to it, and cut into tiles. Its places hold the features of the
whole picture, and behind them those of all tiles line by line, without what is padding alone, each line with one
learned feature at its end. https://llava-vl.github.io/blog/2024-01-30-llava-next/
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from precast.runtime.backends.base import Array
from precast.runtime.errors import InputError
from precast.runtime.fields import Fields, is_count
from precast.runtime.ports import Port

__all__ = ["SIZES", "Tiles", "tiles_of"]

SIZES = "image_sizes"
"""What a caller says of his pictures: the height and width each had, [N, 2]."""
_MOST = 1 << 16


class Tiles:
    """How pictures are cut.

    Args:
        tile: pixels of a tile's side. side: features of one; a tile has side * side. sizes: heights and widths that a
            picture may be fitted into, each so many whole tiles.
    """

    def __init__(self, tile: int, side: int, sizes: Sequence[tuple[int, int]]) -> None:
        self.tile, self.side = tile, side
        self.sizes = tuple((int(height), int(width)) for height, width in sizes)

    @classmethod
    def read(cls, fields: Fields) -> Tiles:
        """From ``processing["join"]["tiles"]`` of a manifest.

        Raises:
            ArtifactError: naming the field, its rule and its value.
        """
        rule = f"an integer from 1 to {_MOST}"
        tile, side = (fields.take(key, rule, lambda value: is_count(value, _MOST, least=1)) for key in ("tile", "side"))
        rule = f"a list of pairs of multiples of {tile}, one at the least"
        return cls(tile, side, fields.take("sizes", rule, lambda value: cls.are_sizes(value, tile)))

    @staticmethod
    def are_sizes(value: Any, tile: int) -> bool:
        """Whether these are pairs of whole tiles."""
        return (
            isinstance(value, (list, tuple))
            and bool(value)
            and all(isinstance(pair, (list, tuple)) and len(pair) == 2 for pair in value)
            and all(is_count(one, _MOST, least=tile) and one % tile == 0 for pair in value for one in pair)
        )

    def to_json(self) -> dict[str, Any]:
        return {"tile": self.tile, "side": self.side, "sizes": [list(size) for size in self.sizes]}

    @property
    def port(self) -> Port:
        """What a caller says of his pictures."""
        return Port(SIZES, "int64", ("pictures", 2), "number")

    @property
    def features(self) -> int:
        """Of a tile."""
        return self.side**2

    def best(self, height: int, width: int) -> tuple[int, int]:
        """The size that keeps most of a picture's pixels, and of those that keep as many the smallest."""

        def kept(size: tuple[int, int]) -> tuple[int, int]:
            scale = min(size[1] / width, size[0] / height)
            pixels = min(int(width * scale) * int(height * scale), height * width)
            return pixels, pixels - size[0] * size[1]

        return max(self.sizes, key=kept)

    def count(self, height: int, width: int) -> int:
        """Tiles of a picture, itself as a whole among them."""
        best = self.best(height, width)
        return 1 + (best[0] // self.tile) * (best[1] // self.tile)

    def order(self, height: int, width: int) -> Array:
        """Of each place of a picture the feature that stands there: counted from the first of the whole picture's, one
        tile's behind another's, and -1 for what ends a line."""
        best = self.best(height, width)
        down, across, side = best[0] // self.tile, best[1] // self.tile, self.side
        grid = np.arange(down * across * side * side).reshape(down, across, side, side).transpose(0, 2, 1, 3)
        lines = grid.reshape(down * side, across * side)
        rows, columns = lines.shape
        if width / height > columns / rows:
            edge = (rows - int(round(height * (columns / width), 7))) // 2
            lines = lines[edge : rows - edge]
        else:
            edge = (columns - int(round(width * (rows / height), 7))) // 2
            lines = lines[:, edge : columns - edge]
        ended = np.concatenate((self.features + lines, np.full((len(lines), 1), -1)), axis=1)
        return np.concatenate((np.arange(self.features), ended.reshape(-1)))

    def orders(self, sizes: Array, tiles: int) -> Array:
        """Of all pictures' places, where the feature that ends a line is the first of all.

        Args:
            sizes: their heights and widths, [N, 2]. tiles: how many there are of all.

        Raises:
            InputError: pictures of these sizes have other tiles.
        """
        if sizes.min() < 1:
            raise InputError(f"{SIZES} are heights and widths of pictures, 1 at the least; received {sizes.tolist()}.")
        made, first = [], 0
        for height, width in sizes.tolist():
            order = self.order(height, width)
            made.append(np.where(order < 0, 0, 1 + first * self.features + order))
            first += self.count(height, width)
        if first != tiles:
            raise InputError(
                f"pictures of the {SIZES} {sizes.tolist()} have {first} tiles, and {tiles} came with them. Pass what "
                "the processor makes, all of it."
            )
        return np.concatenate(made)


def tiles_of(join: Mapping[str, Any]) -> Tiles | None:
    """What a manifest says of them under ``processing.join``; None: pictures have none."""
    return Tiles.read(Fields(dict(join["tiles"]), "processing.join.tiles")) if "tiles" in join else None
