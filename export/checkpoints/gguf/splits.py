"""How byte-level vocabularies cut text before merging, by the name GGUF files give it (tokenizer.ggml.pre).

The patterns are those of the models' own tokenizer.json; llama.cpp writes some differently, to the same effect."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

__all__ = ["SPLITS", "Split"]


@dataclass(frozen=True)
class Split:
    """Patterns applied one after the other, each to what the one before it left.

    ``ignore_merges``: a piece that is a token is taken whole. ``add_bos``: unless the file says otherwise.
    ``nfc``: the text is composed first (llama.cpp leaves that out; the models' own tokenizers have it)."""

    patterns: tuple[str, ...]
    ignore_merges: bool = False
    add_bos: bool = False
    nfc: bool = False


_SPACES = r"|\s*[\r\n]+|\s+(?!\S)|\s+"
_ENGLISH = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_CASED = (rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+", rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*")
_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"


def _words(digits: str) -> str:
    """The pattern of cl100k and its kin; they differ in how many digits go together."""
    return rf"{_ENGLISH}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|{digits}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*{_SPACES}"


_KINDS: Final[tuple[tuple[str, Split], ...]] = (
    ("gpt-2 phi-2 mpt olmo jais trillion exaone4 gigachat a.x-4.0 mellum", Split((_GPT2,))),
    ("llama3 llama-v3 llama-bpe falcon3 pixtral", Split((_words(r"\p{N}{1,3}"),), ignore_merges=True, add_bos=True)),
    ("dbrx smaug-bpe", Split((_words(r"\p{N}{1,3}"),))),
    ("qwen2", Split((_words(r"\p{N}"),), nfc=True)),
    ("deepseek-r1-qwen megrez stablelm2 hunyuan", Split((_words(r"\p{N}"),))),
    ("starcoder refact command-r smollm codeshell exaone minerva-7b", Split((r"\p{N}", _GPT2))),
    (
        "tekken",
        Split(
            (rf"{_CASED[0]}|{_CASED[1]}|\p{{N}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*{_SPACES}",),
            ignore_merges=True,
            add_bos=True,
        ),
    ),
    (
        "gpt-4o llama4",
        Split(
            (
                rf"{_CASED[0]}{_ENGLISH}?|{_CASED[1]}{_ENGLISH}?|\p{{N}}{{1,3}}"
                rf"| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*{_SPACES}",
            )
        ),
    ),
    # What llama.cpp falls back to for a file without the key.
    ("default", Split((r"[\p{P}\$\+<=>\^~\|]+", _GPT2, r"\p{N}+", r"[0-9][0-9][0-9]"))),
)
SPLITS: Final[Mapping[str, Split]] = {name: split for names, split in _KINDS for name in names.split()}
