"""What a tokenizer returns: a dict of ids and masks that also answers questions about tokens, words and characters.

Names and answers are those of transformers' ``BatchEncoding``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from tokenizers import Encoding

from precast.runtime.errors import InputError

__all__ = ["BatchEncoding", "CharSpan", "TokenSpan"]


class CharSpan(NamedTuple):
    """Characters ``start`` to ``end`` (exclusive) of the original text."""

    start: int
    end: int


class TokenSpan(NamedTuple):
    """Tokens ``start`` to ``end`` (exclusive) of the encoded row."""

    start: int
    end: int


class BatchEncoding(dict[str, Any]):
    """``input_ids``, ``attention_mask`` ... by name, also as attributes; one ``tokenizers.Encoding`` a row behind them.

    The encodings are made when they are first asked for: most callers only want the arrays. An integer key gives
    the encoding of that row, as upstream."""

    _encodings: list[Encoding] | Callable[[], list[Encoding]] | None

    def __init__(
        self,
        data: Mapping[str, Any] | None = None,
        encodings: Sequence[Encoding] | Callable[[], list[Encoding]] | None = None,
    ) -> None:
        super().__init__(data or {})
        self._encodings = encodings if encodings is None or callable(encodings) else list(encodings)

    def __getitem__(self, item: Any) -> Any:
        if isinstance(item, str):
            return super().__getitem__(item)
        if self._encodings is not None:
            return self._rows()[item]
        if isinstance(item, slice):
            return {key: value[item] for key, value in self.items()}
        raise KeyError(f"a key is a name, or the index of a row that was encoded from text; got {item!r}")

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getitem__(name)
        except KeyError:
            raise AttributeError(f"this encoding has no {name!r}; it has: {', '.join(self)}") from None

    def __reduce__(self) -> tuple[Any, ...]:
        return BatchEncoding, (dict(self), self.encodings)

    @property
    def data(self) -> dict[str, Any]:
        return dict(self)

    @property
    def is_fast(self) -> bool:
        return self._encodings is not None

    @property
    def encodings(self) -> list[Encoding] | None:
        return None if self._encodings is None else self._rows()

    @property
    def n_sequences(self) -> int | None:
        rows = self.encodings
        return rows[0].n_sequences if rows else None

    def tokens(self, batch_index: int = 0) -> list[str]:
        tokens: list[str] = self._rows()[batch_index].tokens
        return tokens

    def word_ids(self, batch_index: int = 0) -> list[int | None]:
        """Per token the index of its word in its sequence; None for special tokens."""
        words: list[int | None] = self._rows()[batch_index].word_ids
        return words

    def sequence_ids(self, batch_index: int = 0) -> list[int | None]:
        """Per token 0 for the first text, 1 for the second, None for special tokens."""
        sequences: list[int | None] = self._rows()[batch_index].sequence_ids
        return sequences

    def token_to_sequence(self, batch_or_token_index: int, token_index: int | None = None) -> int | None:
        row, token = self._locate(batch_or_token_index, token_index)
        sequence: int | None = row.token_to_sequence(token)
        return sequence

    def token_to_word(self, batch_or_token_index: int, token_index: int | None = None) -> int | None:
        row, token = self._locate(batch_or_token_index, token_index)
        word: int | None = row.token_to_word(token)
        return word

    def token_to_chars(self, batch_or_token_index: int, token_index: int | None = None) -> CharSpan | None:
        row, token = self._locate(batch_or_token_index, token_index)
        span = row.token_to_chars(token)
        return None if span is None else CharSpan(*span)

    def word_to_tokens(
        self, batch_or_word_index: int, word_index: int | None = None, sequence_index: int = 0
    ) -> TokenSpan | None:
        row, word = self._locate(batch_or_word_index, word_index)
        span = row.word_to_tokens(word, sequence_index)
        return None if span is None else TokenSpan(*span)

    def word_to_chars(
        self, batch_or_word_index: int, word_index: int | None = None, sequence_index: int = 0
    ) -> CharSpan | None:
        row, word = self._locate(batch_or_word_index, word_index)
        span = row.word_to_chars(word, sequence_index)
        return None if span is None else CharSpan(*span)

    def char_to_token(
        self, batch_or_char_index: int, char_index: int | None = None, sequence_index: int = 0
    ) -> int | None:
        row, char = self._locate(batch_or_char_index, char_index)
        token: int | None = row.char_to_token(char, sequence_index)
        return token

    def char_to_word(
        self, batch_or_char_index: int, char_index: int | None = None, sequence_index: int = 0
    ) -> int | None:
        row, char = self._locate(batch_or_char_index, char_index)
        word: int | None = row.char_to_word(char, sequence_index)
        return word

    def _rows(self) -> list[Encoding]:
        rows = self._encodings
        if rows is None:
            raise InputError(
                "tokens, words and characters are known only for the result of calling a tokenizer on text; "
                "this one was made from ids"
            )
        if callable(rows):
            rows = self._encodings = rows()
        return rows

    def _locate(self, first: int, second: int | None) -> tuple[Encoding, int]:
        """``(index)`` means row 0, ``(row, index)`` that row."""
        rows = self._rows()
        row, index = (0, first) if second is None else (first, second)
        if not -len(rows) <= row < len(rows):
            raise InputError(f"row {row} is outside this batch of {len(rows)}")
        if index < 0:
            raise InputError(f"an index into a row counts from 0; got {index}")
        return rows[row], index
