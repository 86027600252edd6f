"""What an argument of a public call may be, checked where it comes in, so that a wrong one is named and not stumbled
over later. Each check returns the value it lets through, as Python's own type."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from precast.runtime.errors import InputError, closest, listing

__all__ = ["choice", "flag", "path", "text", "whole"]


def whole(name: str, value: Any, least: int = 1, *, instead: str = "") -> int:
    """A whole number of at least ``least``; ``instead`` tells what else may be given, as in ", or None"."""
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, np.integer)) or value < least:
        raise InputError(f"{name} must be an integer of at least {least}{instead}; received {value!r:.80}.")
    return int(value)


def flag(name: str, value: Any) -> bool:
    """True or False; what merely counts as one is a mistake more often than not."""
    if not isinstance(value, (bool, np.bool_)):
        raise InputError(f"{name} must be True or False; received {value!r:.80}.")
    return bool(value)


def text(name: str, value: Any, *, instead: str = "") -> str:
    """A string."""
    if not isinstance(value, str):
        raise InputError(f"{name} must be a text{instead}; received {type(value).__name__}: {value!r:.80}.")
    return value


def choice(name: str, value: Any, choices: Iterable[str]) -> str:
    """One of some names."""
    names = list(choices)
    if not isinstance(value, str) or value not in names:
        near = closest(value, names) if isinstance(value, str) else ""
        raise InputError(f"{name} must be one of {listing(names)}; received {value!r:.80}. {near}".rstrip())
    return value


def path(name: str, value: Any) -> Path:
    """A file or folder by its name, which need not be there."""
    try:
        found = os.fspath(value)
    except TypeError:
        found = b""
    if not isinstance(found, str) or not found or "\0" in found:
        raise InputError(f"{name} must be a path, as a text or a Path; received {value!r:.80}.")
    return Path(found)
