"""The vocabulary of a checkpoint that spells what it hears, frame by frame, as an artifact lists it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from precast.export.settings import switch, value_or
from precast.runtime.errors import ConfigError, UnsupportedModelError
from precast.runtime.fields import Document, Fields, is_text
from precast.runtime.processors.spelling import Spelling

__all__ = ["FILES", "spelling"]

FILES = ("vocab.json", "tokenizer_config.json", "added_tokens.json", "special_tokens_map.json")
_ADVICE = "Correct it in the checkpoint, and export that again."
_MOST_ID = 1 << 20
_SPECIAL = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}


def spelling(read: Callable[[str], Any]) -> dict[str, Any]:
    """What an artifact says of a checkpoint's vocabulary (`Spelling`).

    Args:
        read: the parsed JSON of one of `FILES`; None where there is no such file.

    Raises:
        UnsupportedModelError: there is none, or it is of several languages and none is chosen.
        ConfigError: a file holds something else.
    """
    said = read("vocab.json")
    if said is None:
        raise UnsupportedModelError("its checkpoint came without vocab.json")
    settings = _fields(read, "tokenizer_config.json")
    older = _fields(read, "special_tokens_map.json")  # of a checkpoint whose tokenizer_config.json is silent
    vocabulary = Fields(said, document=Document("vocab.json", ConfigError, _ADVICE))
    language = settings.optional_text("target_lang", None)
    if any(isinstance(value, dict) for value in said.values()):
        if language is None:
            raise UnsupportedModelError(
                "its vocab.json has several languages, and tokenizer_config.json chooses none (target_lang)"
            )
        vocabulary = vocabulary.inner(language, said.get(language))
        said = said[language]
    ids: dict[str, int] = {name: vocabulary.count(name, most=_MOST_ID) for name in said}
    tokens: list[str | None] = [None] * (1 + max(ids.values(), default=-1))
    for token, number in ids.items():
        tokens[number] = token
    special = {key: _token(settings, older, key, default) for key, default in _SPECIAL.items()}
    added = _fields(read, "added_tokens.json")
    for token in read("added_tokens.json") or {}:
        number = added.count(token, most=_MOST_ID)
        tokens += [None] * (number + 1 - len(tokens))
        tokens[number] = token if tokens[number] is None else tokens[number]
    blank, unknown = special["pad_token"], special["unk_token"]
    if not blank:
        raise UnsupportedModelError("its tokenizer has no pad_token, which stands for no token")
    made = {
        "tokens": tokens,
        "blank": blank,
        "unknown": unknown or "<unk>",
        "delimiter": _token(settings, older, "word_delimiter_token", "|"),
        "space": value_or(settings, "replace_word_delimiter_char", "a string", is_text, " "),
        "lower": switch(settings, "do_lower_case", False),
        "special": sorted({token for token in special.values() if token}),
    }
    Spelling.from_data(made)  # as it will be read
    return made


def _fields(read: Callable[[str], Any], name: str) -> Fields:
    return Fields(read(name) or {}, document=Document(name, ConfigError, _ADVICE))


def _token(settings: Fields, older: Fields, key: str, default: str) -> str | None:
    """A token's text; files hold it as such, or in an object with more about it."""

    def accept(value: Any) -> bool:
        return value is None or is_text(value) or (isinstance(value, dict) and is_text(value.get("content")))

    for fields in (settings, older):
        if key in fields:
            value = fields.take(key, "a token, or null", accept)
            return value["content"] if isinstance(value, dict) else value
    return default
