"""Sizes in an image processor's file, read through types."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from precast.export.settings import value_or
from precast.runtime.fields import Fields
from precast.runtime.processors.image_steps import MOST_EDGE

__all__ = ["edge", "is_edge", "named_size"]


def is_edge(value: Any) -> bool:
    """Whether a picture may have an edge of so many pixels."""
    return type(value) is int and 1 <= value <= MOST_EDGE


def named_size(
    fields: Fields,
    key: str,
    default: Mapping[str, int] | None,
    *,
    square: bool,
    beside: Mapping[str, int] | None = None,
    across: bool = False,
) -> Mapping[str, int]:
    """A size by name; ``beside``: what goes with a shortest edge that is given as one number; ``across``: of two
    numbers the width comes first."""

    def accept(value: Any) -> bool:
        if isinstance(value, dict):
            return bool(value) and all(map(is_edge, value.values()))
        return is_edge(value) or (isinstance(value, list) and len(value) == 2 and all(map(is_edge, value)))

    found = value_or(fields, key, f"a size: 1 to {MOST_EDGE} pixels, or an object of these by name", accept, default)
    if found is None:
        fields.fail(key, "a size where do_center_crop is true", None)
    if isinstance(found, list):
        return {"height": found[across], "width": found[not across]}
    if isinstance(found, int):
        return {"height": found, "width": found} if square else {"shortest_edge": found, **(beside or {})}
    named: Mapping[str, int] = found
    return named


def edge(fields: Fields, key: str, default: int) -> int:
    """A number of pixels."""
    rule = f"a number of pixels, 1 to {MOST_EDGE}, or null"
    value: int = value_or(fields, key, rule, is_edge, default)
    return value
