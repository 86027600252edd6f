"""The vocabulary in a GGUF file's metadata: tokens, their kinds, and the ids with a meaning.

llama.cpp's defaults for what a file leaves out, and the names by which it knows the end of a turn: llama-vocab.cpp."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from precast.export.checkpoints.gguf.metadata import Metadata
from precast.runtime.errors import CheckpointError, ConfigError

__all__ = ["BYTE", "CONTROL", "NORMAL", "UNKNOWN", "UNUSED", "USER_DEFINED", "Vocabulary", "read_vocabulary"]

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
_MODEL_KEY = "tokenizer.ggml.model"
# Tokens that end a turn whether or not the metadata says so.
_ENDS: Final = frozenset(
    "<|eot_id|> <|im_end|> <|end|> <end_of_turn> <|endoftext|> <|eom_id|> <EOT> _<EOT> <|end_of_text|>".split()
)
# sentencepiece's places for the ids that a file with its tokens need not state.
_SENTENCEPIECE: Final = {"bos": 1, "eos": 2, "unknown": 0}
_ABSENT: Final = (-1, 0xFFFF_FFFF)
_PRIVATE: Final = range(0xE000, 0x10FFFE)  # from the first character that Unicode gives no meaning


@dataclass(frozen=True, kw_only=True)
class Vocabulary:
    """``tokens`` and ``kinds`` in order of id; ``ends`` are the ids that end a generation, the file's own one first.

    Several ids may have one text, which then stands for the last of them, as in llama.cpp. ``names`` are unlike each
    other: a text, and ``mark``, the id and ``mark`` behind it where a later id has the text. ``mark`` is None where no
    text is there twice.
    """

    tokens: list[str]
    names: list[str]
    mark: str | None
    kinds: np.ndarray
    bos: int | None = None
    eos: int | None = None
    unknown: int | None = None
    pad: int | None = None
    mask: int | None = None
    sep: int | None = None
    ends: tuple[int, ...] = ()


def read_vocabulary(metadata: Metadata) -> Vocabulary:
    """Empty where the file has none. Raises ``CheckpointError`` where it is no vocabulary."""
    file = metadata.file
    tokens = metadata.texts("tokenizer.ggml.tokens", [])
    # As llama.cpp names them: an id needs a text of its own.
    tokens = [token or f"[EMPTY_{index}]" for index, token in enumerate(tokens)]
    names, mark = _names(tokens)
    kinds = metadata.array("tokenizer.ggml.token_type", None)
    if kinds is None:
        kinds = np.full(len(tokens), NORMAL)
    elif len(kinds) != len(tokens):
        raise CheckpointError(
            f"{file}: tokenizer.ggml.token_type must have one entry for each of {len(tokens)} tokens; it has "
            f"{len(kinds)}. Download it again."
        )
    ids = {
        "bos": _id(metadata, "bos", len(tokens)),
        "eos": _id(metadata, "eos", len(tokens)),
        "unknown": _id(metadata, "unknown", len(tokens)),
        "pad": _id(metadata, "padding", len(tokens)),
        "mask": _id(metadata, "mask", len(tokens)),
        # The key is misspelt in the format itself.
        "sep": _id(metadata, "seperator", len(tokens)),
    }
    if metadata.text(_MODEL_KEY, None) == "llama":
        for name, place in _SENTENCEPIECE.items():
            stated = metadata.has(f"tokenizer.ggml.{name}_token_id")
            if not stated and place < len(tokens) and kinds[place] in (CONTROL, UNKNOWN):
                ids[name] = place
    ends = [ids["eos"], _id(metadata, "eot", len(tokens)), _id(metadata, "eom", len(tokens))]
    ends += [index for index, token in enumerate(tokens) if token in _ENDS]
    return Vocabulary(
        tokens=tokens,
        names=names,
        mark=mark,
        kinds=kinds,
        ends=tuple(dict.fromkeys(index for index in ends if index is not None)),
        **ids,
    )


def _names(tokens: list[str]) -> tuple[list[str], str | None]:
    last = {token: index for index, token in enumerate(tokens)}
    if len(last) == len(tokens):
        return tokens, None
    used = set().union(*tokens)
    mark = next(chr(code) for code in _PRIVATE if chr(code) not in used)
    return [
        token if last[token] == index else f"{token}{mark}{index}{mark}" for index, token in enumerate(tokens)
    ], mark


def _id(metadata: Metadata, name: str, count: int) -> int | None:
    key = f"tokenizer.ggml.{name}_token_id"
    if metadata.values.get(key) in _ABSENT:
        return None
    value = metadata.whole(key, None)
    if value is not None and count and value >= count:
        raise ConfigError(
            f"{metadata.file}: {key} must be below the number of tokens, {count}; it is {value}. "
            "Convert the model anew."
        )
    return value
