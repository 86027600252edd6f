"""Recordings at another sampling rate: band-limited interpolation with a windowed sinc, as the pipelines of upstream
resample what they are given (torchaudio's formula and its defaults: https://ccrma.stanford.edu/~jos/resample)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import Any, TypeAlias

import numpy as np

__all__ = ["resampled", "resampled_blocks"]

Array: TypeAlias = "np.ndarray[Any, Any]"

_ZEROS = 6  # crossings of zero on each side
_ROLLOFF = 0.99  # of the lower rate's Nyquist frequency
_BLOCK = 1 << 16  # samples that are made at once


def resampled(samples: Array, rate: int, to: int) -> Array:
    """Samples [S] at ``rate`` as [ceil(S * to / rate)] at ``to``, float32."""
    made = list(resampled_blocks([samples], rate, to))
    return np.concatenate(made) if made else np.zeros(0, np.float32)


def resampled_blocks(blocks: Iterable[Array], rate: int, to: int) -> Iterator[Array]:
    """The same of one recording that comes in blocks, in memory that does not grow with it."""
    if rate == to:
        yield from (block.astype(np.float32, copy=False) for block in blocks)
        return
    divisor = math.gcd(rate, to)
    old, new = rate // divisor, to // divisor
    width, weights = _weights(old, new)
    held = np.zeros(width, np.float32)  # silence in front of the first sample
    start, received, made = -width, 0, 0  # where what is held begins; what came, and what was made
    for block in blocks:
        held = np.concatenate([held, block.astype(np.float32, copy=False)])
        received += len(block)
        # Every sample in reach of one that is made has come.
        ready = max(made, ((received - width - 2) * new) // old)
        yield from _made(held, start, made, ready, old, new, width, weights)
        made = ready
        keep = (made * old) // new - width
        held, start = held[keep - start :], keep
    end = -(-received * new // old)
    held = np.concatenate([held, np.zeros(2 * width + 3, np.float32)])
    yield from _made(held, start, made, end, old, new, width, weights)


def _made(
    held: Array, start: int, first: int, end: int, old: int, new: int, width: int, weights: Array
) -> Iterator[Array]:
    """Samples ``first`` to ``end`` of the new rate, of what is held of the old one from ``start`` on."""
    if end <= first:
        return
    windows = np.lib.stride_tricks.sliding_window_view(held, weights.shape[1])
    for begin in range(first, end, _BLOCK):
        number = np.arange(begin, min(begin + _BLOCK, end), dtype=np.int64)
        places = number * old // new - width - start
        yield np.einsum("ot,ot->o", windows[places], weights[number % new])


@lru_cache(maxsize=4)
def _weights(old: int, new: int) -> tuple[int, Array]:
    """Samples that reach to each side, and [new, 2 * width + 2]: what a sample of each phase is made of."""
    band = min(old, new) * _ROLLOFF
    width = math.ceil(_ZEROS * old / band)
    phase = np.arange(new, dtype=np.int64)
    taps = np.arange(2 * width + 2, dtype=np.int64) - width
    place = (phase * old // new)[:, None] + taps  # of a sample of the old rate, counted from the phase 0
    time = np.clip((place / old - phase[:, None] / new) * band, -_ZEROS, _ZEROS)
    window = np.cos(time * np.pi / _ZEROS / 2) ** 2
    weights = np.sinc(time) * window * band / old
    return width, weights.astype(np.float32)
