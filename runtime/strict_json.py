"""JSON as RFC 8259 has it, and no more: no repeated keys, no NaN, no infinities, bounded in size and in nesting.

Every JSON file of the product is parsed here; ``precast.runtime.fields`` then reads its fields through types.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any, NoReturn

__all__ = ["MAX_DEPTH", "MAX_JSON", "parse_object", "parse_value"]

MAX_JSON = 256 << 20
# What walks through a value may recurse: so deep, and no deeper, is every value that gets past the parser.
MAX_DEPTH = 64
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


def _constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is not JSON")


def _number(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"the number {text:.40} does not fit a float64")
    return value


def _whole(text: str) -> int:
    # Python refuses some thousands of digits in its own words; a number so long is nowhere a size, an id or a count.
    if len(text) > 40:
        raise ValueError(f"the number {text:.40}... has {len(text)} digits")
    return int(text)


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise ValueError(f"the key {key!r:.80} appears twice")
            seen.add(key)
    return found


def _check_depth(value: Any) -> None:
    level = [value]
    for _ in range(MAX_DEPTH + 1):
        level = [
            child
            for item in level
            if isinstance(item, (dict, list))
            for child in (item.values() if isinstance(item, dict) else item)
            if isinstance(child, (dict, list))
        ]
        if not level:
            return
    raise ValueError(f"it is nested too deeply: more than {MAX_DEPTH} objects and lists in one another")


def parse_value(data: bytes | str) -> Any:
    """The value ``data`` spells. Raises ``ValueError`` with a one-line reason, and no other type."""
    if len(data) > MAX_JSON:
        raise ValueError(f"it takes {len(data)} bytes; at most {MAX_JSON} are read")
    try:
        text = data if isinstance(data, str) else data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"it is not UTF-8 (byte {error.start})") from None
    try:
        value = json.loads(
            text, object_pairs_hook=_pairs, parse_constant=_constant, parse_float=_number, parse_int=_whole
        )
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    _check_depth(value)
    if _SURROGATE.search(text):
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise ValueError("it holds half of a surrogate pair, which is no character") from None
    return value


def parse_object(data: bytes | str) -> dict[str, Any]:
    """As ``parse_value``; the value must be an object."""
    value = parse_value(data)
    if not isinstance(value, dict):
        raise ValueError(f"it holds a {type(value).__name__} where an object belongs")
    return value
