"""Tokens as words, and when each token is said: by the attention that a decoder pays to what it hears."""

from __future__ import annotations

import string
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np

__all__ = ["times_of", "words_of"]

Array: TypeAlias = "np.ndarray[Any, Any]"

# Languages that part words by nothing.
_UNSPACED = frozenset(("chinese", "japanese", "thai", "lao", "myanmar", "cantonese"))
_BEFORE = "\"'“¡¿([{-"
_BEHIND = "\"'.。,，!！?？:：”)]}、"  # noqa: RUF001 - of Chinese, too
_BROKEN = "\ufffd"  # what a part of a character becomes


def words_of(
    tokens: Sequence[int], language: str | None, decode: Callable[[list[int]], str], end: int
) -> list[tuple[str, list[int]]]:
    """Words, and the places of their tokens; punctuation is part of the word that it stands at.

    Args:
        decode: makes text of ids. end: the id from which on all tokens are special.
    """
    pieces = _characters(tokens, decode)
    if language not in _UNSPACED:
        pieces = _spaced(pieces, tokens, end)
    return _punctuated(pieces)


def _characters(tokens: Sequence[int], decode: Callable[[list[int]], str]) -> list[tuple[str, list[int]]]:
    """The shortest runs of tokens that are whole characters."""
    whole = decode(list(tokens))
    made: list[tuple[str, list[int]]] = []
    places: list[int] = []
    done = 0
    for place in range(len(tokens)):
        places.append(place)
        text = decode([tokens[one] for one in places])
        broken = text.find(_BROKEN)
        # A character that the text itself has in this place is no broken one.
        if broken < 0 or done + broken >= len(whole) or whole[done + broken] == _BROKEN:
            made.append((text, places))
            places = []
            done += len(text)
    return made


def _spaced(pieces: list[tuple[str, list[int]]], tokens: Sequence[int], end: int) -> list[tuple[str, list[int]]]:
    """Runs between spaces; punctuation and special tokens stand alone."""
    made: list[tuple[str, list[int]]] = []
    for text, places in pieces:
        alone = tokens[places[0]] >= end or text.startswith(" ") or text.strip() in string.punctuation
        if alone or not made:
            made.append((text, places))
        else:
            made[-1] = (made[-1][0] + text, made[-1][1] + places)
    return made


def _punctuated(pieces: list[tuple[str, list[int]]]) -> list[tuple[str, list[int]]]:
    """Opening marks with the word behind them, closing ones with the word in front."""
    behind = len(pieces) - 1
    for place in range(len(pieces) - 2, -1, -1):
        text = pieces[place][0]
        if text.startswith(" ") and text.strip() in _BEFORE:
            pieces[behind] = (text + pieces[behind][0], pieces[place][1] + pieces[behind][1])
            pieces[place] = ("", [])
        else:
            behind = place
    front = 0
    for place in range(1, len(pieces)):
        text, places = pieces[place]
        if not pieces[front][0].endswith(" ") and text in _BEHIND:
            pieces[front] = (pieces[front][0] + text, pieces[front][1] + places)
            pieces[place] = ("", [])
        else:
            front = place
    return [(text, places) for text, places in pieces if text]


def times_of(weights: Array, *, width: int, precision: float) -> Array:
    """When each of T tokens begins to be said, seconds [T].

    Args:
        weights: attention of some heads to what is heard, [heads, T, frames]. https://arxiv.org/abs/2212.04356
        width: of the median that smooths them, over frames. precision: seconds of a frame.
    """
    weights = weights.astype(np.float64)
    scaled = (weights - weights.mean(axis=-2, keepdims=True)) / weights.std(axis=-2, keepdims=True)
    matrix = _median(scaled, width).mean(axis=0)
    rows, columns = _aligned(-matrix)
    first = np.concatenate([[True], np.diff(rows) > 0])
    times: Array = columns[first] * precision
    return times


def _median(values: Array, width: int) -> Array:
    """Over a window of so many of the last axis, which is reflected at its ends."""
    side = width // 2
    if values.shape[-1] <= side:
        return values
    padded = np.pad(values, [*[(0, 0)] * (values.ndim - 1), (side, side)], mode="reflect")
    windows = np.lib.stride_tricks.sliding_window_view(padded, width, axis=-1)
    made: Array = np.sort(windows, axis=-1)[..., side]
    return made


def _aligned(cost: Array) -> tuple[Array, Array]:
    """The cheapest way from the first to the last cell of [T, frames] that never goes back (dynamic time warping): rows
    and columns of its cells. https://doi.org/10.1109/TASSP.1978.1163055"""
    rows, columns = cost.shape
    total = np.full((rows + 1, columns + 1), np.inf, np.float32)
    total[0, 0] = 0
    way = np.full((rows + 1, columns + 1), -1, np.int8)
    # A cell's sum needs those left of it, above it and between: all of a diagonal at once.
    for diagonal in range(2, rows + columns + 1):
        row = np.arange(max(1, diagonal - columns), min(rows, diagonal - 1) + 1)
        column = diagonal - row
        both, down, right = total[row - 1, column - 1], total[row - 1, column], total[row, column - 1]
        step = np.where((both < down) & (both < right), 0, np.where((down < both) & (down < right), 1, 2))
        least = np.choose(step, [both, down, right])
        total[row, column] = cost[row - 1, column - 1] + least
        way[row, column] = step
    way[0, :], way[:, 0] = 2, 1
    path = []
    row_at, column_at = rows, columns
    while row_at > 0 or column_at > 0:
        path.append((row_at - 1, column_at - 1))
        step_at = way[row_at, column_at]
        row_at -= step_at != 2
        column_at -= step_at != 1
    found = np.asarray(path[::-1])
    return found[:, 0], found[:, 1]
