"""Text of tokens as they come, never breaking a character, with nothing but the tokenizer's ``decode``."""

from __future__ import annotations

from collections.abc import Callable, Sequence

__all__ = ["Detokenizer"]

_HELD_TOKENS = 16
"""A character is at most four bytes and a byte at most one token: whatever is broken for longer stays broken."""


class Detokenizer:
    """Decodes a window of the last tokens, not the whole text, at every step.

    Tokens before the window's end are decoded again with the new ones, for how a token reads may depend on the token
    before it (a word's leading space). A window that ends in U+FFFD may be the beginning of a character: it waits for
    the next token.
    """

    def __init__(self, decode: Callable[[list[int]], str]) -> None:
        self._decode = decode
        self._window: list[int] = []
        self._given = 0
        """Tokens of the window whose text has been given out."""
        self._text = ""
        """The text of those."""

    def push(self, tokens: Sequence[int]) -> str:
        """The text that is now certain; empty while a character is incomplete."""
        self._window.extend(int(token) for token in tokens)
        return self._take(final=False)

    def finish(self) -> str:
        """Whatever was held back; ready for another text afterwards."""
        rest = self._take(final=True)
        self._window, self._given, self._text = [], 0, ""
        return rest

    def _take(self, *, final: bool) -> str:
        pending = len(self._window) - self._given
        if not pending:
            return ""
        text = self._decode(self._window)
        fresh = text[len(self._text) :]
        # Nothing to see (a special token, a space that only the next token shows) is decoded with what follows, too.
        if (not fresh or text.endswith("\ufffd")) and not final and pending < _HELD_TOKENS:
            return ""
        self._window = self._window[self._given :]
        self._given = len(self._window)
        self._text = self._decode(self._window)
        return fresh
