"""Tokenizer classes of words that stand on pages."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from precast.export.tokenizers.kinds import KINDS, Kind
from precast.runtime.processors.tokenizer_settings import BOXES_KEY

__all__ = ["PAGE_KINDS"]

# What special tokens' boxes are called, there and here.
_BOXES = {
    **{f"{name}_token_box": name for name in ("cls", "sep", "pad")},
    "pad_token_label": "label",
    "only_label_first_subword": "first",
}


def _prepare(arguments: dict[str, Any]) -> None:
    arguments[BOXES_KEY] = {ours: arguments.pop(theirs) for theirs, ours in _BOXES.items() if theirs in arguments}


_ROBERTA = KINDS["RobertaTokenizer"]

PAGE_KINDS: dict[str, Kind] = {
    "LayoutLMv3Tokenizer": replace(
        _ROBERTA,
        arguments={**_ROBERTA.arguments, "add_prefix_space": True},
        prepare=_prepare,
        input_names=("input_ids", "attention_mask", "bbox"),
    ),
}
