"""Pictures of any size among the tokens of a prompt: how patches of them are given, and where their places stand in
height and width. https://arxiv.org/abs/2409.12191"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from precast.runtime.backends.base import Array
from precast.runtime.errors import InputError
from precast.runtime.fields import Fields, is_count
from precast.runtime.ports import Port

__all__ = ["AXES", "GRID", "KINDS", "Grids", "grids_of", "walked"]

AXES = 3
"""Of a position: its time, its height and its width; those of words are one number."""
GRID = "image_grid_thw"
"""What a caller says of his pictures: patches in time, in height and in width, [N, 3]."""
KINDS = "mm_token_type_ids"
"""What upstream's processors say of tokens beside their ids, and these say themselves."""
_MOST = 1 << 12


class Grids:
    """How pictures are patches.

    Args:
        patch: pixels of a patch's side. merge: of so many by so many patches a feature is made. channels: of pixels.
        frames: of a patch; a picture is as many of them that are alike.
    """

    def __init__(self, patch: int, merge: int, channels: int, frames: int) -> None:
        self.patch, self.merge, self.channels, self.frames = patch, merge, channels, frames

    @classmethod
    def read(cls, fields: Fields) -> Grids:
        """From ``processing["join"]["grid"]`` of a manifest.

        Raises:
            ArtifactError: naming the field, its rule and its value.
        """
        rule = f"an integer from 1 to {_MOST}"
        names = ("patch", "merge", "channels", "frames")
        return cls(*(fields.take(name, rule, lambda value: is_count(value, _MOST, least=1)) for name in names))

    def to_json(self) -> dict[str, Any]:
        return {"patch": self.patch, "merge": self.merge, "channels": self.channels, "frames": self.frames}

    @property
    def unit(self) -> int:
        """Pixels of a feature's side."""
        return self.patch * self.merge

    @property
    def ports(self) -> tuple[Port, ...]:
        """What a caller gives: patches of all pictures, each line by line of squares of those that are merged; and how
        many each has."""
        width = self.channels * self.frames * self.patch**2
        return (
            Port("pixel_values", "float32", ("patches", width), "pixels"),
            Port(GRID, "int64", ("images", 3), "number"),
        )

    def features(self, grid: Array) -> list[tuple[int, int]]:
        """Rows and columns of each picture's features."""
        return [(height // self.merge, width // self.merge) for _, height, width in grid.tolist()]

    def patches(self, pictures: Array) -> dict[str, Array]:
        """Pictures of one size, [N, C, H, W], as `ports` have them.

        Raises:
            InputError: they are no whole features.
        """
        count, channels, height, width = pictures.shape
        if channels != self.channels or not height * width or height % self.unit or width % self.unit:
            raise InputError(
                f"pixel_values are pictures of {self.channels} channels, whose sides are multiples of {self.unit}, or "
                f"patches of pictures with {GRID} beside them; received shape {list(pictures.shape)}."
            )
        rows, columns = height // self.unit, width // self.unit
        split = pictures.reshape(count, channels, rows, self.merge, self.patch, columns, self.merge, self.patch)
        ordered = split.transpose(0, 2, 5, 3, 6, 1, 4, 7)[..., None, :, :]
        whole = np.broadcast_to(ordered, (*ordered.shape[:-3], self.frames, self.patch, self.patch))
        grid = np.array([[1, rows * self.merge, columns * self.merge]] * count, np.int64)
        return {"pixel_values": whole.reshape(-1, self.channels * self.frames * self.patch**2), GRID: grid}

    def check(self, grid: Array, patches: int) -> None:
        """Raises InputError where pictures have no such patches."""
        if (grid < 1).any() or (grid[:, 1:] % self.merge).any():
            raise InputError(
                f"{GRID} are patches of pictures in time, height and width, the last two multiples of {self.merge}; "
                f"received {grid.tolist()}."
            )
        if (grid[:, 0] != 1).any():
            raise InputError(f"this artifact reads pictures, of 1 patch in time each; received {GRID} {grid.tolist()}.")
        if int(grid.prod(axis=1).sum()) != patches:
            raise InputError(
                f"pictures of {GRID} {grid.tolist()} have {int(grid.prod(axis=1).sum())} patches, and {patches} came "
                "with them. Pass what the processor makes, all of it."
            )

    def pictures(self, patches: Array, grid: Array) -> Iterator[Array]:
        """Pictures [N, C, H, W], those of one size together that follow one another."""
        first, sizes = 0, [tuple(size) for size in grid[:, 1:].tolist()]
        while sizes:
            size = sizes[0]
            count = next((number for number, other in enumerate(sizes) if other != size), len(sizes))
            rows, columns = size[0] // self.merge, size[1] // self.merge
            last = first + count * size[0] * size[1]
            side = (self.merge, self.merge, self.channels, self.frames, self.patch, self.patch)
            split = patches[first:last].reshape(count, rows, columns, *side)[..., 0, :, :]
            ordered = split.transpose(0, 5, 1, 3, 6, 2, 4, 7)
            yield np.ascontiguousarray(ordered.reshape(count, self.channels, rows * self.unit, columns * self.unit))
            first, sizes = last, sizes[count:]


def walked(first: int, count: int, stands: Sequence[tuple[int, int, int]]) -> Array:
    """Positions [S, 3] of so many tokens of a row from its ``first`` on.

    Args:
        stands: of its pictures, in order: which token the first place of each is, and the rows and columns of its
            features. Behind a picture positions go on from the largest that it has.
    """
    index = np.arange(first, first + count)
    made = np.repeat(index[:, None], AXES, axis=1)
    saved = 0
    for start, rows, columns in stands:
        inside = (index >= start) & (index < start + rows * columns)
        place = index[inside] - start
        made[inside] = (start - saved) + np.stack((np.zeros_like(place), place // columns, place % columns), axis=1)
        saved += rows * columns - max(rows, columns)
        behind = index >= start + rows * columns
        made[behind] = (index[behind] - saved)[:, None]
    return made


def grids_of(join: Mapping[str, Any]) -> Grids | None:
    """What a manifest says of them under ``processing.join``; None: pictures have one size."""
    return Grids.read(Fields(dict(join["grid"]), "processing.join.grid")) if "grid" in join else None
