"""Decoded JSON read through types: every complaint names the file, the field, the rule and what was received.

The one way in which data that somebody else wrote becomes values here. Nothing is a path, a size or an index before it
was taken out of a `Fields` under a rule.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, NoReturn, TypeVar

from precast.runtime.errors import ArtifactError, PrecastError, closest, listing

__all__ = ["MOST", "MOST_BYTES", "Document", "Fields", "is_count", "is_number", "is_text", "refuse", "shown"]

T = TypeVar("T")

# The largest count and the largest number of bytes that a file may speak of: more is no model's.
MOST = (1 << 31) - 1
MOST_BYTES = 1 << 50


class Document(NamedTuple):
    """The file that fields come from: how messages call it, of what kind they are, and what they tell to do."""

    name: str
    error: type[PrecastError]
    advice: str = ""


_MANIFEST = Document("precast.json", ArtifactError)


class Fields:
    """One JSON object being read. A field is taken once; ``close`` refuses what nobody took.

    ``lenient`` is for manifests of a newer minor version, whose additional fields are none of our business.
    """

    def __init__(self, value: Any, where: str = "", *, document: Document = _MANIFEST, lenient: bool = False) -> None:
        self.where = where.strip(".")
        self.document = document
        self.lenient = lenient
        if not isinstance(value, dict):
            self.fail("", "an object", value)
        self._rest: dict[str, Any] = dict(value)
        self._known: list[str] = []

    def __contains__(self, key: str) -> bool:
        return key in self._rest

    def fail(self, key: str, rule: str, value: Any) -> NoReturn:
        refuse(f"{self.where}.{key}", rule, value, self.document)

    def inner(self, key: str, value: Any) -> Fields:
        """An object inside this one, at ``key``."""
        return Fields(value, f"{self.where}.{key}", document=self.document, lenient=self.lenient)

    def take(self, key: str, rule: str, accept: Callable[[Any], bool], *default: Any) -> Any:
        """The value of ``key``; ``default``, if given, stands for an absent one."""
        self._known.append(key)
        if key not in self._rest:
            if default:
                return default[0]
            near = closest(key, self._rest)
            raise self.document.error(
                f"{_subject(f'{self.where}.{key}', self.document)} is missing; it must be {rule}. "
                f"{near}{' ' if near else ''}{self.document.advice}".rstrip()
            )
        value = self._rest.pop(key)
        if not accept(value):
            self.fail(key, rule, value)
        return value

    def text(self, key: str, *default: str) -> str:
        value: str = self.take(key, "a non-empty string", lambda v: isinstance(v, str) and v != "", *default)
        return value

    def optional_text(self, key: str, *default: str | None) -> str | None:
        value: str | None = self.take(
            key, "a non-empty string or null", lambda v: v is None or (isinstance(v, str) and v != ""), *default
        )
        return value

    def choice(self, key: str, choices: Iterable[str], *default: str) -> str:
        known = sorted(choices)
        value: str = self.take(key, f"one of {listing(known)}", lambda v: isinstance(v, str) and v in known, *default)
        return value

    def count(self, key: str, *default: int, most: int = MOST) -> int:
        value: int = self.take(key, f"an integer from 0 to {most}", lambda v: is_count(v, most), *default)
        return value

    def optional_count(self, key: str, *default: int | None, least: int = 0) -> int | None:
        value: int | None = self.take(
            key,
            f"an integer from {least} to {MOST}, or null",
            lambda v: v is None or is_count(v, least=least),
            *default,
        )
        return value

    def number(self, key: str, *default: float | None) -> float:
        """A number, 0 or more."""
        value: float = self.take(key, "a number, 0 or more", lambda v: is_number(v) and v >= 0, *default)
        return value

    def flag(self, key: str, *default: bool) -> bool:
        value: bool = self.take(key, "true or false", lambda v: isinstance(v, bool), *default)
        return value

    def data(self, key: str, *default: Any) -> dict[str, Any]:
        """An object whose contents are free."""
        value: dict[str, Any] = self.take(key, "an object", lambda v: isinstance(v, dict), *default)
        return value

    def items(self, key: str, *default: list[Any]) -> list[Any]:
        value: list[Any] = self.take(key, "a list", lambda v: isinstance(v, list), *default)
        return value

    def texts(self, key: str, *default: list[str]) -> tuple[str, ...]:
        return tuple(
            self.take(
                key,
                "a list of strings",
                lambda v: isinstance(v, list) and all(isinstance(item, str) and item for item in v),
                *default,
            )
        )

    def mapping(self, key: str, rule: str, accept: Callable[[Any], bool], *default: Any) -> dict[str, Any]:
        """An object of which every value is accepted; ``rule`` says what a value must be."""
        value = self.data(key, *default)
        for name, item in value.items():
            if not accept(item):
                self.fail(f"{key}.{name}", rule, item)
        return value

    def counts(self, key: str, *default: Any) -> dict[str, int]:
        return self.mapping(key, f"an integer from 0 to {MOST}", is_count, *default)

    def each(self, key: str, read: Callable[[str, Fields], T], *default: Any) -> dict[str, T]:
        """An object of objects, each read by ``read(name, fields)``."""
        return {
            name: read(name, self.inner(f"{key}.{name}", value)) for name, value in self.data(key, *default).items()
        }

    def all(self, key: str, read: Callable[[Fields], T], *default: list[Any]) -> list[T]:
        """A list of objects, each read by ``read(fields)``."""
        return [read(self.inner(f"{key}[{index}]", value)) for index, value in enumerate(self.items(key, *default))]

    def close(self) -> None:
        if self._rest and not self.lenient:
            name = min(self._rest)
            hint = closest(name, self._known)
            raise self.document.error(
                f"{_subject(f'{self.where}.{name}', self.document)} is not a field of this format version. "
                f"{hint}".rstrip()
            )


def _subject(where: str, document: Document) -> str:
    where = where.strip(".")
    return f"{document.name}: {where}" if where else document.name


def shown(value: Any) -> str:
    """A value as messages show it: cut where it is long."""
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def refuse(where: str, rule: str, value: Any, document: Document = _MANIFEST) -> NoReturn:
    """Raise the document's error: what ``where`` must be, and what it is."""
    raise document.error(f"{_subject(where, document)} must be {rule}, got {shown(value)}. {document.advice}".rstrip())


def is_count(value: Any, most: int = MOST, *, least: int = 0) -> bool:
    # bool is a subclass of int; `true` is no count.
    return type(value) is int and least <= value <= most


def is_number(value: Any) -> bool:
    """A finite number; `true` is none, and neither is an integer beyond what a float holds."""
    if type(value) is int:
        return abs(value) < 1 << 1000
    return type(value) is float and math.isfinite(value)


def is_text(value: Any) -> bool:
    return isinstance(value, str)
