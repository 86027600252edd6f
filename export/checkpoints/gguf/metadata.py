"""What a GGUF file says about its model, by key, with the type each reader expects."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, TypeVar

import numpy as np

from precast.runtime.errors import ConfigError, closest

__all__ = ["Metadata"]

T = TypeVar("T")


class Metadata:
    """Values by key. Every getter takes a default for a missing key, and raises ``ConfigError`` without one.

    ``{arch}`` in a key stands for general.architecture. ``asked`` are the keys that somebody wanted to know of."""

    def __init__(self, file: str, values: Mapping[str, Any]) -> None:
        self.file = file
        self.values = values
        self.asked: set[str] = set()

    @property
    def architecture(self) -> str:
        return self.text("general.architecture")

    def has(self, key: str) -> bool:
        return self._key(key) in self.values

    def value(self, key: str) -> Any:
        """Of whatever type; None where there is none."""
        key = self._key(key)
        self.asked.add(key)
        return self.values.get(key)

    def text(self, key: str, *default: T) -> str | T:
        return self._get(key, lambda value: isinstance(value, str), "a text", *default)

    def flag(self, key: str, *default: T) -> bool | T:
        return self._get(key, lambda value: isinstance(value, bool), "true or false", *default)

    def whole(self, key: str, *default: T) -> int | T:
        """A whole number, not negative."""
        return self._get(key, lambda value: type(value) is int and value >= 0, "a whole number", *default)

    def number(self, key: str, *default: T) -> float | T:
        """A finite number."""
        fits = self._get(
            key,
            lambda value: type(value) in (int, float) and math.isfinite(value),
            "a finite number",
            *default,
        )
        return fits

    def texts(self, key: str, *default: T) -> list[str] | T:
        return self._get(key, lambda value: isinstance(value, list), "an array of texts", *default)

    def array(self, key: str, *default: T) -> np.ndarray | T:
        """An array of numbers or flags."""
        return self._get(key, lambda value: isinstance(value, np.ndarray), "an array of numbers", *default)

    def _key(self, key: str) -> str:
        return key.replace("{arch}", str(self.values.get("general.architecture")))

    def _get(self, key: str, fits: Any, what: str, *default: Any) -> Any:
        key = self._key(key)
        self.asked.add(key)
        if key not in self.values:
            if default:
                return default[0]
            raise ConfigError(
                f"{self.file} must state {key}, and does not. {closest(key, self.values)} Convert the model anew."
            )
        value = self.values[key]
        if not fits(value):
            raise ConfigError(f"{self.file}: {key} must be {what}; it is {value!r:.80}. Convert the model anew.")
        return value
