"""JSON as RFC 8259 has it, and no more: one object, no repeated keys, no NaN, no infinities, bounded size."""

from __future__ import annotations

import json
import math
from typing import Any, NoReturn

__all__ = ["MAX_JSON", "parse_object", "parse_value"]

MAX_JSON = 256 << 20


def _constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is not JSON")


def _number(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"the number {text:.40} does not fit a float64")
    return value


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"the key {key!r:.80} appears twice")
        found[key] = value
    return found


def parse_value(data: bytes) -> Any:
    """The value ``data`` spells. Raises ``ValueError`` with a one-line reason, and no other type."""
    if len(data) > MAX_JSON:
        raise ValueError(f"it takes {len(data)} bytes; at most {MAX_JSON} are read")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"it is not UTF-8 (byte {error.start})") from None
    try:
        return json.loads(text, object_pairs_hook=_pairs, parse_constant=_constant, parse_float=_number)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def parse_object(data: bytes) -> dict[str, Any]:
    """As ``parse_value``; the value must be an object."""
    value = parse_value(data)
    if not isinstance(value, dict):
        raise ValueError(f"it holds a {type(value).__name__} where an object belongs")
    return value
