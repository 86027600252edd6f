"""Checkpoints converted for CTranslate2 with numbers for a vocabulary: given and giving ids, never text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["TYPES", "convert", "ends", "ids", "words"]

TYPES = {"fp32": "float32", "int8": "int8"}


def convert(checkpoint: Path, out: Path, precision: str) -> None:
    from ctranslate2.converters import TransformersConverter

    class Converter(TransformersConverter):
        def load_tokenizer(self, *args: Any, **options: Any) -> Any:
            return _Numbers(_read(checkpoint / "config.json"))

    Converter(str(checkpoint)).convert(str(out), quantization=TYPES[precision], force=True)


def words(feed: Any) -> list[list[str]]:
    """The tokens of each row, without padding: CTranslate2 pads itself."""
    pairs = zip(feed["input_ids"], feed["attention_mask"], strict=True)
    return [[str(number) for number in row[mask != 0]] for row, mask in pairs]


def ids(rows: list[list[str]]) -> np.ndarray:
    return np.array([[int(word) for word in row] for row in rows], dtype=np.int64)


def ends(checkpoint: Path) -> list[str]:
    """What ends a text, as upstream's ``generate`` understands it."""
    path = checkpoint / "generation_config.json"
    found = _read(path if path.exists() else checkpoint / "config.json")["eos_token_id"]
    return [str(number) for number in (found if isinstance(found, list) else [found])]


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


class _Numbers:
    """What the converter asks a tokenizer."""

    chat_template = None

    def __init__(self, config: dict[str, Any]) -> None:
        first = {name: config.get(f"{name}_token_id") for name in ("bos", "eos", "pad")}
        first = {name: value[0] if isinstance(value, list) else value for name, value in first.items()}
        # Marian's <pad> is the last word, which the converter leaves out, as Marian itself does.
        self._pad = first["pad"] if config["model_type"] == "marian" else None
        self._size = config["vocab_size"]
        self.eos_token = self.unk_token = self._word(first["eos"])
        self.bos_token = self.eos_token if first["bos"] is None else self._word(first["bos"])
        self.pad_token = self.eos_token if first["pad"] is None else self._word(first["pad"])

    def get_vocab(self) -> dict[str, int]:
        return {self._word(number): number for number in range(self._size)}

    def convert_ids_to_tokens(self, number: int) -> str:
        return self._word(number)

    def _word(self, number: int) -> str:
        return "<pad>" if number == self._pad else str(number)
