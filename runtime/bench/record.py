"""The record of a benchmark: one JSON document that the report, the comparison and the README's table are made from."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from precast.runtime.bench import device
from precast.runtime.errors import BenchmarkError

__all__ = ["FORMAT", "key", "machine", "new", "read", "write"]

FORMAT = "precast-bench/1"
_KEY = ("workload", "engine", "precision", "device", "threads", "scenario", "batch", "length")


def new(*, command: str, settings: Mapping[str, Any], calibration: Mapping[str, Any] | None) -> dict[str, Any]:
    """An empty record of this machine, now."""
    return {
        "format": FORMAT,
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "command": command,
        "machine": machine(),
        "settings": dict(settings),
        "calibration": calibration,
        "engines": {},
        "workloads": {},
        "rows": [],
        "absent": [],
        "exports": [],
        "installs": [],
    }


def machine() -> dict[str, Any]:
    """What was measured on."""
    from precast.runtime.backends.onnxruntime import default_threads
    from precast.runtime.machine import cpu_features, cpu_name, memory_bytes

    return {
        "cpu": cpu_name(),
        "cores": default_threads(),
        "features": cpu_features(),
        "memory_bytes": memory_bytes(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "device": device.device_state(),
    }


def key(row: Mapping[str, Any]) -> tuple[Any, ...]:
    """What makes two rows of two records the same measurement."""
    return tuple(row.get(name) for name in _KEY)


def read(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Open a record.

    Raises:
        BenchmarkError: the file is no record, or one of another format.
    """
    try:
        document = json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise BenchmarkError(f"{os.fspath(path)} is no JSON document: {error}.") from error
    found = document.get("format") if isinstance(document, dict) else None
    if found != FORMAT:
        raise BenchmarkError(
            f"{os.fspath(path)} is no record of this precast: its format is {found!r}, and {FORMAT!r} is read here. "
            "Make one with: precast bench ARTIFACT --json > record.json"
        )
    rows = document.get("rows")
    if not isinstance(rows, list) or not all(isinstance(row, dict) and row.get("scenario") for row in rows):
        raise BenchmarkError(f"{os.fspath(path)} is damaged: its rows are not a list of measurements.")
    return dict(document)


def write(record: Mapping[str, Any], path: str | os.PathLike[str]) -> None:
    """Write a record whole or not at all; numbers that a list repeats stay on one line."""
    target = Path(path)
    temporary = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        temporary.write_text(text(record), encoding="utf-8")
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def text(record: Mapping[str, Any]) -> str:
    """A record as JSON whose diffs can be read: one line an entry of its lists."""
    parts = []
    for name, value in record.items():
        if isinstance(value, list) and value:
            body = f"[\n{_lines(value)}\n ]"
        else:
            body = json.dumps(value, ensure_ascii=False, allow_nan=False)
        parts.append(f" {json.dumps(name)}: {body}")
    return "{\n" + ",\n".join(parts) + "\n}\n"


def _lines(values: Iterable[Any]) -> str:
    return ",\n".join(f"  {json.dumps(value, ensure_ascii=False, allow_nan=False)}" for value in values)
