"""Maps of numbers at the size of a picture, in float32: what torch makes of them by ``interpolate``.

The outer edges of the first and last places stay where they are, and nothing is smoothed where a map is made smaller.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeAlias

import numpy as np

__all__ = [
    "antialiased",
    "banded",
    "bicubic",
    "bilinear",
    "bilinear_weights",
    "likeliest",
    "nearest",
    "smallest_integers",
    "smoothed",
]

Array: TypeAlias = "np.ndarray[Any, Any]"

_BAND = 1 << 22  # numbers at most that are held at a picture's size, of all classes
_SLOPE = np.float32(-0.75)  # of the cubic kernel at its first zero
_REACH = 4.0  # standard deviations from which on a normal distribution is cut


def likeliest(scores: Array, height: int, width: int) -> Array:
    """Scores of classes [L, H, W] -> the number of the largest at every place of the map at another size
    [height, width], resampled bilinearly."""
    made = np.empty((height, width), smallest_integers(len(scores)))
    for rows, values in banded(np.asarray(scores, np.float32), height, width):
        made[rows] = values.argmax(0)
    return made


def smallest_integers(count: int) -> np.dtype[Any]:
    """The smallest type of the numbers 0 to ``count - 1``."""
    return np.min_scalar_type(max(count - 1, 0))


def bilinear(values: Array, height: int, width: int) -> Array:
    """Maps [L, H, W] -> [L, height, width]."""
    made = np.empty((len(values), height, width), np.float32)
    for rows, wide in banded(np.asarray(values, np.float32), height, width):
        made[:, rows] = wide
    return made


def nearest(count: int, size: int) -> Array:
    """Which of ``count`` places each of ``size`` new ones has the value of: the one nearest before it."""
    scale = np.float32(count) / np.float32(size)
    return np.minimum((np.arange(size, dtype=np.float32) * scale).astype(np.int64), count - 1)


def bicubic(values: Array, height: int, width: int) -> Array:
    """[H, W] -> [height, width]."""
    values = np.asarray(values, np.float32)
    for size, axis in ((width, 1), (height, 0)):
        count = values.shape[axis]
        where = _centres(count, size)
        first = np.floor(where)
        weights = _cubic(where - first)
        shape = (-1, 1) if axis == 0 else (1, -1)
        near = (np.clip(first.astype(np.int64) + offset, 0, count - 1) for offset in (-1, 0, 1, 2))
        parts = [values.take(index, axis) * weight.reshape(shape) for index, weight in zip(near, weights, strict=True)]
        values = parts[0] + parts[1] + parts[2] + parts[3]
    return values


def bilinear_weights(count: int, size: int) -> Array:
    """How much each of ``size`` new places has of each of ``count`` old ones, [size, count]."""
    before, behind, share = _neighbours(count, size)
    weights = np.zeros((size, count), np.float32)
    rows = np.arange(size)
    np.add.at(weights, (rows, before), 1 - share)
    np.add.at(weights, (rows, behind), share)
    return weights


def smoothed(values: Array, size: int) -> Array:
    """[N, ...] -> [size, ...], bilinearly; where that is fewer, of values that are blurred: by a normal distribution
    whose deviation is half of what the factor is above 1. Beyond its ends a row is mirrored at the last value.

    Sums are of float64, a few rows of them at a time.
    """
    count = len(values)
    factor = count / size
    deviation = max(0.0, (factor - 1) / 2)
    reach = int(_REACH * deviation + 0.5)
    offsets = np.arange(-reach, reach + 1)
    blur = np.exp(-0.5 * np.square(offsets / deviation)) if reach else np.ones(1)
    blur /= blur.sum()
    where = (np.arange(size) + 0.5) * factor - 0.5
    first = np.floor(where)
    share = (where - first)[:, None]
    weights = np.pad(blur, (0, 1)) * (1 - share) + np.pad(blur, (1, 0)) * share
    places = first.astype(np.int64)[:, None] + np.arange(-reach, reach + 2)
    places = np.abs((places + count - 1) % max(1, 2 * count - 2) - (count - 1))
    made = np.empty((size, *values.shape[1:]), np.float32)
    step = max(1, _BAND // max(1, values[0].size))
    for start in range(0, size, step):
        rows = slice(start, start + step)
        total = np.zeros(made[rows].shape)
        for place, weight in zip(places[rows].T, weights[rows].T, strict=True):
            total += values[place] * weight.reshape(-1, *[1] * (values.ndim - 1))
        made[rows] = total
    return made


def antialiased(values: Array, size: int) -> Array:
    """[N, ...] -> [size, ...]: each new place is a mean of all old ones that a triangle around it covers, which is as
    wide as two old places, or as two new ones where these are wider. As torch rounds it, in float32."""
    count = len(values)
    scale = np.float32(count / size)
    wide = max(scale, np.float32(1))
    centres = (np.float64(scale) * (np.arange(size) + 0.5)).astype(np.float32)
    first = np.maximum((centres - wide + 0.5).astype(np.int64), 0)
    behind = np.minimum((centres + wide + 0.5).astype(np.int64), count)
    made = np.zeros((size, *values.shape[1:]), np.float32)
    taps = first[:, None] + np.arange(int((behind - first).max()))
    apart = (((taps.astype(np.float32) - centres[:, None]) + 0.5) * (np.float32(1) / wide)).astype(np.float32)
    weights = np.where(taps < behind[:, None], np.maximum(np.float32(1) - np.abs(apart), np.float32(0)), np.float32(0))
    weights /= weights.sum(axis=1, keepdims=True, dtype=np.float32)
    places = np.minimum(taps, count - 1)
    for place, weight in zip(places.T, weights.T, strict=True):
        made += values[place] * weight.reshape(-1, *[1] * (values.ndim - 1))
    return made


def banded(maps: Array, height: int, width: int) -> Iterator[tuple[slice, Array]]:
    """Maps [L, H, W] at another size, a few rows [L, R, width] at a time."""
    up, low, down = _neighbours(maps.shape[1], height)
    left, right, across = _neighbours(maps.shape[2], width)
    step = max(1, _BAND // (len(maps) * width))
    for start in range(0, height, step):
        rows = slice(start, min(start + step, height))
        first = int(up[rows.start])
        seen = maps[:, first : int(low[rows.stop - 1]) + 1]
        wide = seen[:, :, left] * (1 - across) + seen[:, :, right] * across
        share = down[rows, None]
        yield rows, wide[:, up[rows] - first] * (1 - share) + wide[:, low[rows] - first] * share


def _centres(count: int, size: int) -> Array:
    """Where the middles of ``size`` places lie among ``count`` ones."""
    scale = np.float32(count) / np.float32(size)
    return scale * (np.arange(size, dtype=np.float32) + np.float32(0.5)) - np.float32(0.5)


def _neighbours(count: int, size: int) -> tuple[Array, Array, Array]:
    """The place before each of ``size`` new ones, the one behind it, and the share of the latter."""
    where = np.maximum(_centres(count, size), np.float32(0))
    before = np.minimum(where.astype(np.int64), count - 1)
    return before, np.minimum(before + 1, count - 1), np.clip(where - before.astype(np.float32), 0, 1)


def _cubic(beyond: Array) -> list[Array]:
    """Weights of the four places around one that lies ``beyond`` the second of them."""

    def inner(x: Array) -> Array:
        return ((_SLOPE + 2) * x - (_SLOPE + 3)) * x * x + 1

    def outer(x: Array) -> Array:
        return ((_SLOPE * x - 5 * _SLOPE) * x + 8 * _SLOPE) * x - 4 * _SLOPE

    return [outer(beyond + 1), inner(beyond), inner(1 - beyond), outer(2 - beyond)]
