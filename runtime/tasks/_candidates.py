"""Candidate labels of zero-shot tasks, the sentence each is put into, and what a model makes of these."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from precast.runtime import arguments, batching
from precast.runtime.errors import InputError
from precast.runtime.readers.text import TextReader

__all__ = ["EncodedTexts", "read_labels", "read_template"]

_KEPT = 8  # sets of texts


class EncodedTexts:
    """What a model makes of sets of texts alone, a row each: inputs of what compares them with pictures or sounds. The
    last few sets are kept. Safe to call from many threads.

    Args:
        options: of the tokenizer.
    """

    def __init__(self, model: Any, reader: TextReader, options: Mapping[str, Any] | None = None) -> None:
        self._model, self._reader, self._options = model, reader, options or {}
        self._made: Mapping[tuple[str, ...], dict[str, np.ndarray]] = {}  # replaced whole

    def __call__(self, texts: Sequence[str]) -> dict[str, np.ndarray]:
        key, known = tuple(texts), self._made
        if key not in known:
            made = self._encoded(key)
            self._made = dict([*list(known.items())[1 - _KEPT :], (key, made)])
            return made
        return known[key]

    def _encoded(self, texts: tuple[str, ...]) -> dict[str, np.ndarray]:
        reader, model = self._reader, self._model
        rows = reader.rows(reader.encode(texts, self._options))
        found: list[Mapping[str, np.ndarray]] = [{}] * len(rows)
        for places in batching.plan([reader.cost(row) for row in rows], **batching.limits(model, None)):
            outputs = model(**reader.collate([rows[place] for place in places]))
            for index, place in enumerate(places):
                found[place] = {name: value[index] for name, value in outputs.items() if name in model.input_names}
        return {name: np.stack([one[name] for one in found]) for name in found[0]}


def read_labels(value: Any, missing: str) -> list[str]:
    """``candidate_labels``: a list of texts, or one text with commas; ``missing`` tells of none."""
    if isinstance(value, str):
        value = [label.strip() for label in value.split(",") if label.strip()]
    labels = arguments.entries("candidate_labels", value, "texts")
    if not labels:
        raise InputError(missing)
    if not all(isinstance(label, str) for label in labels):
        raise InputError(f"candidate_labels must be texts; received {labels!r}.")
    return labels


def read_template(value: Any) -> str:
    """``hypothesis_template``: a text with a place for a label."""
    template = arguments.text("hypothesis_template", value)
    try:
        filled = template.format("label")
    except (AttributeError, IndexError, KeyError, ValueError):
        filled = template
    if filled == template:
        raise InputError(
            f'The provided hypothesis_template "{template}" was not able to be formatted with the target labels. Make '
            "sure the passed template includes formatting syntax such as {} where the label should go."
        )
    return template
