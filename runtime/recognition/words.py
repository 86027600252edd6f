"""Tokens as words."""

from __future__ import annotations

import string
from collections.abc import Callable, Sequence

__all__ = ["words_of"]

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
