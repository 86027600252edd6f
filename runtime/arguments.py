"""What an argument of a public call may be, checked where it comes in, so that a wrong one is named and not stumbled
over later. Each check returns the value it lets through, as Python's own type."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from precast.runtime.errors import InputError, closest, listing

__all__ = [
    "article",
    "call",
    "choice",
    "entries",
    "flag",
    "listed",
    "mapping",
    "number",
    "path",
    "text",
    "threads",
    "whole",
]

_MOST_THREADS = 4096


def whole(name: str, value: Any, least: int = 1, *, most: int | None = None, instead: str = "") -> int:
    """A whole number of at least ``least``; ``instead`` tells what else may be given, as in ", or None"."""
    number = listed(value)
    if isinstance(number, bool) or not isinstance(number, int) or number < least:
        raise InputError(f"{name} must be an integer of at least {least}{instead}; received {value!r:.80}.")
    if most is not None and number > most:
        raise InputError(f"{name} may be {most} at most; received {number}.")
    return number


def number(name: str, value: Any) -> float:
    """A finite number."""
    found = listed(value)
    if isinstance(found, bool) or not isinstance(found, (int, float)) or not math.isfinite(found):
        raise InputError(f"{name} must be a number; received {value!r:.80}.")
    return float(found)


def threads(value: Any) -> int | None:
    """A number of threads, or None for as many as there are."""
    if value is None:
        return None
    count = whole("threads", value, instead=", or None")
    if count > _MOST_THREADS:
        raise InputError(f"threads must be at most {_MOST_THREADS}; received {value!r:.80}.")
    return count


def flag(name: str, value: Any) -> bool:
    """True or False; what merely counts as one is a mistake more often than not."""
    switch = listed(value)
    if not isinstance(switch, bool):
        raise InputError(f"{name} must be True or False; received {value!r:.80}.")
    return switch


def text(name: str, value: Any, *, instead: str = "") -> str:
    """A string."""
    if not isinstance(value, str):
        raise InputError(f"{name} must be a text{instead}; received {type(value).__name__}: {value!r:.80}.")
    return value


def article(noun: str) -> str:
    """The noun with its article."""
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def choice(name: str, value: Any, choices: Iterable[str]) -> str:
    """One of some names."""
    names = list(choices)
    if not isinstance(value, str) or value not in names:
        near = closest(value, names) if isinstance(value, str) else ""
        raise InputError(f"{name} must be one of {listing(names)}; received {value!r:.80}. {near}".rstrip())
    return value


def path(name: str, value: Any) -> Path:
    """A file or folder by its name, which need not be there, nor be possible."""
    try:
        found = os.fspath(value)
    except TypeError:
        found = b""
    if not isinstance(found, str):
        raise InputError(f"{name} must be a path, as a text or a Path; received {value!r:.80}.")
    return Path(found)


def call(name: str, value: Any) -> Any:
    """A function."""
    if not callable(value):
        raise InputError(f"{name} must be a function; received {type(value).__name__}: {value!r:.80}.")
    return value


def mapping(name: str, value: Any) -> Mapping[str, Any]:
    """A dictionary by names."""
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise InputError(f"{name} must be a dictionary by names; received {type(value).__name__}: {value!r:.80}.")
    return value


def entries(name: str, value: Any, kind: str) -> list[Any]:
    """A list of what ``kind`` says, in a word; one text alone is a mistake."""
    if isinstance(value, (str, bytes, Mapping)) or not isinstance(value, Iterable):
        raise InputError(f"{name} must be a list of {kind}; received {type(value).__name__}: {value!r:.80}.")
    return list(value)


def listed(value: Any) -> Any:
    """NumPy's arrays and numbers as Python's, whose truth and iteration have no surprises."""
    # Told by where its type is from: reading an artifact needs no NumPy.
    return value.tolist() if type(value).__module__ == "numpy" and hasattr(value, "tolist") else value
