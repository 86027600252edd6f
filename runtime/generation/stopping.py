"""Stop strings, found across the borders of tokens, and cut off.

End tokens, lengths, time and cancelling are the loop's own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from precast.runtime.backends.base import Array
from precast.runtime.errors import InputError
from precast.runtime.generation.history import History
from precast.runtime.generation.token_bytes import TokenBytes

__all__ = ["StopStrings", "UntilStop"]


class StopStrings:
    """Which rows have just completed a stop string: it begins anywhere, and ends inside the last token.

    Equal to upstream's ``StopStringCriteria``: a string may begin in the prompt, special tokens count by their names,
    and a string that ended before the last token does not count."""

    def __init__(self, strings: Sequence[str], tokenizer: Any) -> None:
        """:param tokenizer: ours, or one of the tokenizers library.

        :raises InputError: there is no tokenizer, or a string is empty."""
        if tokenizer is None:
            raise InputError(
                f"stop_strings are looked for in text, which needs a tokenizer, and this model has none; got "
                f"{list(strings)}. Pass tokenizer=, or stop at tokens with eos_token_id"
            )
        if not strings or not all(strings):
            raise InputError(f"stop_strings must be one string or more, none empty; got {list(strings)}")
        self._strings = [string.encode() for string in strings]
        self._longest = max(map(len, self._strings))
        self._bytes = TokenBytes(getattr(tokenizer, "backend_tokenizer", tokenizer))

    def __call__(self, history: History) -> Array:
        """[R] bool, to be asked after each token."""
        return np.array([self._completed(history.row(index)) for index in range(history.rows)], dtype=bool)

    def _completed(self, tokens: Array) -> bool:
        if not len(tokens):
            return False
        last = self._bytes[int(tokens[-1])]
        pieces, missing = [last], self._longest - 1
        position = len(tokens) - 2
        while missing > 0 and position >= 0:
            piece = self._bytes[int(tokens[position])]
            pieces.append(piece)
            missing -= len(piece)
            position -= 1
        text = b"".join(reversed(pieces))
        before = len(text) - len(last)
        # A match may not end before the last token's first byte.
        return bool(last) and any(text.find(string, max(0, before - len(string) + 1)) >= 0 for string in self._strings)


class UntilStop:
    """Pieces of a text up to the stop string that ends it, which itself is left out.

    What may be the beginning of one is held back until the next piece tells."""

    def __init__(self, strings: Sequence[str]) -> None:
        self._strings = tuple(strings)
        self._held = ""
        self._over = False

    def push(self, piece: str) -> str:
        """The text that is now known to come before any stop string."""
        if self._over:
            return ""
        text = self._held + piece
        found = [place for string in self._strings if (place := text.find(string)) >= 0]
        if found:
            self._over, self._held = True, ""
            return text[: min(found)]
        keep = max((_overlap(text, string) for string in self._strings), default=0)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def finish(self, *, stopped: bool) -> str:
        """What was held back; part of a stop string if one ``stopped`` the text, by a special token in its middle."""
        held, self._held = self._held, ""
        return "" if stopped else held


def _overlap(text: str, string: str) -> int:
    """How many of the last characters of ``text`` begin ``string``."""
    return next((size for size in range(min(len(text), len(string) - 1), 0, -1) if text.endswith(string[:size])), 0)
