"""Names that a manifest may hold: what becomes part of a path or of a command line is checked here first."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from precast.runtime.fields import refuse

__all__ = ["check_file_name", "check_file_names", "check_label"]

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
            refuse(
                f"{where}[{name!r}]", f"unlike {other!r} in more than case: some file systems cannot hold both", name
            )
