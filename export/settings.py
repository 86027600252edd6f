"""Settings of a processor's file, read through types; null stands for none, as it does to upstream's classes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from precast.runtime.fields import Fields

__all__ = ["switch", "value_or"]


def switch(fields: Fields, key: str, default: bool) -> bool:
    """True or false."""
    return bool(value_or(fields, key, "true, false or null", lambda v: isinstance(v, bool), default))


def value_or(fields: Fields, key: str, rule: str, accept: Callable[[Any], bool], default: Any) -> Any:
    """The value of a key; a default where there is none, or null, which upstream's classes take for none."""
    value = fields.take(key, rule, lambda v: v is None or accept(v), None)
    return default if value is None else value
