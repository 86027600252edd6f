"""Values of each kind of port, made up without knowing the model: random ones, and those that are rare and legal."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import numpy as np

from precast.runtime.backends.base import Array
from precast.runtime.ports import Port

__all__ = ["KINDS", "PADDINGS", "Kind", "absent", "edges", "kind_of", "sample"]

Rng = np.random.Generator
Sizes = tuple[int, ...]

_PICTURE = 1024  # pixels of a picture's side that points lie in
PADDINGS = ("none", "right", "left")


class Kind(NamedTuple):
    """A kind of port.

    Args:
        sample: random values of a shape; what of rows is padding is said by one of `PADDINGS`, and ``least`` is the
            length of the shortest row a model takes.
        edges: values that are rare and legal, by name.
        pad: what fills a row that is shorter than its batch; None: rows of another size share no batch.
    """

    sample: Callable[[Rng, Sizes, Port, str, int], Array]
    edges: Callable[[Sizes], Iterator[tuple[str, Array]]] = lambda sizes: iter(())
    pad: float | None = 0


def _ids(rng: Rng, sizes: Sizes, port: Port, padding: str, least: int = 1) -> Array:
    return rng.integers(0, port.below or 2, size=sizes, dtype=np.int64)


def _rows(rng: Rng, sizes: Sizes, port: Port, padding: str, least: int = 1) -> Array:
    """Numbers of rows of another input, which has one at least, or -1 for none."""
    return rng.integers(-1, 1, size=sizes, dtype=np.int64)


def _mask(rng: Rng, sizes: Sizes, port: Port, padding: str, least: int = 1) -> Array:
    rows, length = int(np.prod(sizes[:-1])), sizes[-1]
    mask = np.ones((rows, length), dtype=np.int64)
    if padding != "none":
        for row in range(rows if rows == 1 else rows - 1):  # the last row of a batch is full
            real = int(rng.integers(1, length + 1)) if row else max(1, length // 2)
            mask[row, real:] = 0
            if padding == "left":
                mask[row] = mask[row, ::-1]
    return mask.reshape(sizes)


def _pixel_mask(rng: Rng, sizes: Sizes, port: Port, padding: str, least: int = 1) -> Array:
    """Pictures that are smaller than their batch, but for the last one; padding is at the right and at the bottom."""
    mask = np.ones(sizes, dtype=np.int64)
    if padding != "none":
        for row in mask[: max(1, len(mask) - 1)]:
            height, width = (int(rng.integers(max(1, size // 2), size + 1)) for size in row.shape)
            row[height:], row[:, width:] = 0, 0
    return mask


def _sample_mask(rng: Rng, sizes: Sizes, port: Port, padding: str, least: int = 1) -> Array:
    """Recordings of at least ``least`` samples that are shorter than their batch, but for the last one; padding is at
    the right."""
    mask = np.ones(sizes, dtype=np.int64)
    if padding != "none":
        for row in mask[: max(1, len(mask) - 1)]:
            row[int(rng.integers(min(least, len(row)), len(row) + 1)) :] = 0
    return mask


def _counts(rng: Rng, sizes: Sizes, port: Port, padding: str, least: int = 1) -> Array:
    return np.ones(sizes, dtype=np.int64)


def _normal(rng: Rng, sizes: Sizes, port: Port, padding: str, least: int = 1) -> Array:
    return rng.standard_normal(sizes, dtype=np.float32)


def _patches(rng: Rng, sizes: Sizes, port: Port, padding: str, least: int = 1) -> Array:
    """Rows and columns are counted from 1."""
    made = _normal(rng, sizes, port, padding)
    made[..., :2] = rng.integers(1, port.below or 2, size=(*sizes[:-1], 2))
    return made


def _quiet(rng: Rng, sizes: Sizes, port: Port, padding: str, least: int = 1) -> Array:
    return 0.1 * _normal(rng, sizes, port, padding)


def _points(rng: Rng, sizes: Sizes, port: Port, padding: str, least: int = 1) -> Array:
    return _PICTURE * rng.random(sizes, dtype=np.float32)


def _boxes(rng: Rng, sizes: Sizes, port: Port, padding: str, least: int = 1) -> Array:
    shape = (*sizes[:-1], 2, sizes[-1] // 2)
    whole = port.below is not None and not np.issubdtype(port.dtype, np.floating)
    corners = rng.integers(0, port.below, size=shape) if whole else rng.random(shape, dtype=np.float32)
    return np.sort(corners, axis=-2).reshape(sizes)


def _zeros(rng: Rng, sizes: Sizes, port: Port, padding: str, least: int = 1) -> Array:
    return np.zeros(sizes, dtype=np.float32)


def _pictures(sizes: Sizes) -> Iterator[tuple[str, Array]]:
    """A black picture, one colour, and the brightest there is after a common normalisation."""
    yield "black", np.full(sizes, -2.0, np.float32)
    yield "grey", np.zeros(sizes, np.float32)
    yield "white", np.full(sizes, 2.5, np.float32)


def _sounds(sizes: Sizes) -> Iterator[tuple[str, Array]]:
    """No sound at all, and as loud a one as a recording holds."""
    yield "silence", np.zeros(sizes, np.float32)
    yield "loud", np.broadcast_to(np.where(np.arange(sizes[-1]) // 20 % 2, -1, 1), sizes).astype(np.float32)


KINDS: Mapping[str, Kind] = {
    "ids": Kind(_ids),
    "types": Kind(_ids),
    "labels": Kind(_ids),
    "codes": Kind(_ids, pad=None),
    "mask": Kind(_mask),
    "positions": Kind(_ids),
    "rows": Kind(_rows),
    "number": Kind(_counts),
    "pixels": Kind(_normal, _pictures, pad=None),
    "pixel_mask": Kind(_pixel_mask),
    "waveform": Kind(_quiet, _sounds),
    "sample_mask": Kind(_sample_mask),
    "features": Kind(_normal),
    "patches": Kind(_patches),
    "boxes": Kind(_boxes),
    "points": Kind(_points),
    "state": Kind(_zeros),
}
_UNKNOWN = Kind(lambda rng, sizes, port, padding, least: np.ones(sizes, dtype=port.dtype))


def kind_of(port: Port) -> Kind:
    """What is known of the port's kind."""
    return KINDS.get(port.kind, _UNKNOWN)


def sample(rng: Rng, port: Port, sizes: Mapping[str, int], padding: str = "none", least: int = 1) -> Array:
    """Random values of a port at named sizes; no row of a mask of samples has fewer than ``least`` real ones."""
    return kind_of(port).sample(rng, _at(port, sizes), port, padding, least).astype(port.dtype, copy=False)


def edges(port: Port, sizes: Mapping[str, int]) -> Iterator[tuple[str, Array]]:
    """Values of a port that are rare and legal, at named sizes."""
    yield from kind_of(port).edges(_at(port, sizes))


def absent(port: Port, sizes: Mapping[str, int]) -> Array:
    """What stands for a port that is left out."""
    return np.full(_at(port, sizes), port.default, dtype=port.dtype)


def _at(port: Port, sizes: Mapping[str, int]) -> Sizes:
    return tuple(dim if isinstance(dim, int) else sizes[dim] for dim in port.shape)
