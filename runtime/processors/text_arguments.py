"""What a call of a tokenizer may be given, checked and put into one form; and what to say where it may not."""

from __future__ import annotations

import operator
from typing import Any, NoReturn, TypeVar

from precast.runtime.errors import InputError, closest

__all__ = ["choice", "count", "explain", "extended", "padded_length", "refuse_ragged", "rows_of"]

_T = TypeVar("_T")


def rows_of(text: Any, text_pair: Any, is_split_into_words: bool) -> tuple[list[Any], bool, bool]:
    """The rows to encode; whether a batch was asked for; whether every row is one plain text."""
    if not isinstance(text, (str, list, tuple)):
        hint = "; decode bytes first" if isinstance(text, bytes) else ""
        raise InputError(f"text is a str or a list of them; got {type(text).__name__}{hint}")
    if text_pair is not None and not isinstance(text_pair, (str, list, tuple)):
        raise InputError(f"text_pair is a str or a list of them; got {type(text_pair).__name__}")
    batched = isinstance(text, (list, tuple))
    if is_split_into_words:
        if isinstance(text, str):
            raise InputError("with is_split_into_words, text is a list of words; got one str")
        batched = bool(text) and isinstance(text[0], (list, tuple))
    if not batched:
        return ([(text, text_pair)], False, False) if text_pair else ([text], False, isinstance(text, str))
    if not text:
        raise InputError("text holds no rows; pass at least one text")
    if text_pair is None:
        return list(text), True, not is_split_into_words and isinstance(text[0], str)
    if isinstance(text_pair, str) or len(text) != len(text_pair):
        got = "one str" if isinstance(text_pair, str) else f"{len(text_pair)} for {len(text)} texts"
        raise InputError(f"a batch of texts needs as many text_pair as text; got {got}")
    return list(zip(text, text_pair, strict=True)), True, False


def explain(error: BaseException, batch: list[Any], is_split_into_words: bool) -> NoReturn:
    """Say in the caller's words what the library refused."""
    if isinstance(error, TypeError):
        unit: Any = (list, tuple) if is_split_into_words else (str, list, tuple)
        wrong = next((i for i, row in enumerate(batch) if not isinstance(row, unit)), None)
        if wrong is not None:
            wanted = "a list of words" if is_split_into_words else "a str, or a pair of them"
            raise InputError(f"every text is {wanted}; text {wrong} is {type(batch[wrong]).__name__}") from error
        raise InputError(
            f"a row is a text or a pair of texts (lists of words with is_split_into_words=True); {error}"
        ) from error
    if isinstance(error, UnicodeError):
        raise InputError(f"text must be valid Unicode, without lone surrogates: {error}") from error
    if "too short" in str(error):
        raise InputError(
            "truncating only one text of the pair cannot reach max_length: the other one alone is too long. Use "
            "truncation='longest_first', or a larger max_length"
        ) from error
    if "stride" in str(error):
        raise InputError(f"stride must be smaller than the room max_length leaves for the truncated text: {error}")
    raise InputError(f"the tokenizer refused the text: {error}") from error


def padded_length(pad: str | None, lengths: list[int], max_length: int | None, multiple: int | None) -> int:
    """The length all rows are padded to; 0 where they stay as they are."""
    if pad is None:
        return 0
    length = max_length if pad == "max_length" and max_length is not None else max(lengths)
    return length if not multiple else -(-length // multiple) * multiple


def extended(row: list[_T], filling: list[_T], direction: str) -> list[_T]:
    return filling + row if direction == "left" else row + filling


def refuse_ragged(lengths: list[int]) -> None:
    if min(lengths) != max(lengths):
        raise InputError(
            f"arrays need rows of one length; these have {min(lengths)} to {max(lengths)} tokens. Pass padding=True, "
            "and truncation=True where texts may be too long"
        )


def choice(name: str, value: bool | str | None, choices: tuple[str, ...], neither: str) -> str | None:
    if value is None or value is False or (isinstance(value, str) and value == neither):
        return None
    if value is True:
        return choices[0]
    if not isinstance(value, str) or value not in choices:
        near = closest(value, (*choices, neither)) if isinstance(value, str) else ""
        options = ", ".join(map(repr, choices))
        raise InputError(f"{name} is True, False, {options} or {neither!r}; got {value!r}. {near}".rstrip(". ") + ".")
    return value


def count(name: str, value: Any, least: int) -> int:
    try:
        number = operator.index(value)
    except TypeError:
        number = least - 1
    if number < least or isinstance(value, bool) or number >= 2**63:
        raise InputError(f"{name} is a whole number of at least {least}; got {value!r}")
    return number
