"""Candidate labels of zero-shot tasks, and the sentence each is put into."""

from __future__ import annotations

from typing import Any

from precast.runtime import arguments
from precast.runtime.errors import InputError

__all__ = ["read_labels", "read_template"]


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
