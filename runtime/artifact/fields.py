"""Strict reading of decoded JSON: every complaint names the field, the rule and what was received."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, NoReturn, TypeVar

from precast.runtime.errors import ArtifactError, closest

__all__ = ["Fields", "check_file_name", "check_file_names", "check_label", "is_count", "is_text", "refuse"]

T = TypeVar("T")

_LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]{0,99}")
# A segment is plain ASCII, so that a name is the same name on every file system and in every shell.
_SEGMENT = re.compile(r"[A-Za-z0-9_+@=,(][A-Za-z0-9_.+@=,() ~-]{0,199}")
_CODE = (
    "bat",
    "class",
    "cmd",
    "com",
    "dll",
    "dylib",
    "exe",
    "jar",
    "js",
    "ps1",
    "py",
    "pyc",
    "pyd",
    "sh",
    "so",
    "wasm",
)
_EXECUTABLE = frozenset((*_CODE, "cubin", "ptx", "engine", "plan", "trt", "pickle", "pkl", "pt", "pth"))


class Fields:
    """One JSON object being read. A field is taken once; ``close`` refuses what nobody took.

    ``lenient`` is for manifests of a newer minor version, whose additional fields are none of our business.
    """

    def __init__(self, value: Any, where: str, *, lenient: bool = False) -> None:
        self.where = where
        self.lenient = lenient
        if not isinstance(value, dict):
            self.fail("", "an object", value)
        self._rest: dict[str, Any] = dict(value)
        self._known: list[str] = []

    def fail(self, key: str, rule: str, value: Any) -> NoReturn:
        refuse(f"{self.where}.{key}".strip("."), rule, value)

    def take(self, key: str, rule: str, accept: Callable[[Any], bool], *default: Any) -> Any:
        """The value of ``key``; ``default``, if given, stands for an absent one."""
        self._known.append(key)
        if key not in self._rest:
            if default:
                return default[0]
            raise ArtifactError(f"{_subject(f'{self.where}.{key}')} is missing; it must be {rule}.{self._near(key)}")
        value = self._rest.pop(key)
        if not accept(value):
            self.fail(key, rule, value)
        return value

    def text(self, key: str, *default: str) -> str:
        value: str = self.take(key, "a non-empty string", lambda v: isinstance(v, str) and v != "", *default)
        return value

    def optional_text(self, key: str) -> str | None:
        value: str | None = self.take(
            key, "a non-empty string or null", lambda v: v is None or (isinstance(v, str) and v != "")
        )
        return value

    def count(self, key: str) -> int:
        value: int = self.take(key, "an integer, 0 or more", is_count)
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

    def each(self, key: str, read: Callable[[str, Fields], T]) -> dict[str, T]:
        """An object of objects, each read by ``read(name, fields)``."""
        return {
            name: read(name, Fields(value, f"{self.where}.{key}.{name}".lstrip("."), lenient=self.lenient))
            for name, value in self.data(key).items()
        }

    def close(self) -> None:
        if self._rest and not self.lenient:
            name = min(self._rest)
            hint = closest(name, self._known)
            raise ArtifactError(
                f"{_subject(f'{self.where}.{name}')} is not a field of this format version. {hint}".rstrip()
            )

    def _near(self, key: str) -> str:
        hint = closest(key, self._rest)
        return f" {hint}" if hint else ""


def _subject(where: str) -> str:
    where = where.strip(".")
    return f"precast.json: {where}" if where else "precast.json"


def refuse(where: str, rule: str, value: Any) -> NoReturn:
    shown = repr(value)
    raise ArtifactError(f"{_subject(where)} must be {rule}, got {shown if len(shown) <= 80 else shown[:77] + '...'}.")


def is_count(value: Any) -> bool:
    # bool is a subclass of int; `true` is no count.
    return type(value) is int and value >= 0


def is_text(value: Any) -> bool:
    return isinstance(value, str)


def check_label(name: str, where: str) -> str:
    """A component or variant name: it becomes part of file names and command lines."""
    if not _LABEL.fullmatch(name):
        refuse(where, "named by letters, digits, '.', '_', '+', '-'", name)
    return name


def check_file_name(name: Any, where: str) -> str:
    """A relative POSIX path that stays in the folder, means the same everywhere, and names data."""
    rule = "a relative path inside the artifact ('/' between plain names; no '..', drive, backslash or hidden name)"
    if not isinstance(name, str) or len(name) > 400:
        refuse(where, rule, name)
    if not all(_SEGMENT.fullmatch(part) and part[-1] not in ". " for part in name.split("/")):
        refuse(where, rule, name)
    if name.rpartition(".")[2].lower() in _EXECUTABLE:
        refuse(where, "data: an artifact holds nothing executable (no code, pickles or engines)", name)
    return name


def check_file_names(names: Mapping[str, Any], where: str) -> None:
    seen: dict[str, str] = {}
    for name in names:
        check_file_name(name, f"{where}[{name!r}]")
        other = seen.setdefault(name.lower(), name)
        if other != name:
            raise ArtifactError(
                f"{_subject(where)}: {other!r} and {name!r} differ only in case; some file systems cannot hold both."
            )
