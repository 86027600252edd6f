"""The record of a benchmark: one JSON document that the report, the comparison and the documentation are made from."""

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
from precast.runtime.fields import MOST_BYTES, Document, Fields, is_number, is_text
from precast.runtime.strict_json import parse_value

__all__ = ["FORMAT", "key", "machine", "new", "read", "write"]

FORMAT = "precast-bench/1"
_SECONDS = ("floors", "first_tokens", "per_tokens")
_RULE = "1e-9 to 1e9 each"
_LARGEST = 1e30
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
        BenchmarkError: the file is no record, one of another format, or holds a field of another type.
    """
    name = os.fspath(path)
    try:
        document = parse_value(Path(path).read_bytes())
    except ValueError as error:
        raise BenchmarkError(f"{name} is no JSON document: {error!s:.200}.") from None
    except OSError as error:
        raise BenchmarkError(f"{name} cannot be read: {error.strerror}.") from error
    found = document.get("format") if isinstance(document, dict) else None
    if found != FORMAT:
        raise BenchmarkError(
            f"{os.fspath(path)} is no record of this precast: its format is {found!r}, and {FORMAT!r} is read here. "
            "Make one with: precast bench ARTIFACT --json > record.json"
        )
    fields = Fields(document, document=Document(name, BenchmarkError, "Measure again: precast bench ARTIFACT --json."))
    for key in ("machine", "settings"):
        document[key] = fields.data(key, {})
    for key in ("engines", "workloads"):
        document[key] = fields.mapping(key, "an object", lambda v: isinstance(v, dict), {})
    fields.take("calibration", "an object or null", lambda v: v is None or isinstance(v, dict), None)
    for key in ("absent", "exports", "installs"):
        fields.all(key, lambda entry: None, [])
    fields.all("rows", _check_row)
    return dict(document)


def _check_row(row: Fields) -> None:
    """What a measurement is named by and compared with; its other figures are shown where they are figures."""
    row.text("scenario")
    for name in _KEY:
        if name in row:
            row.take(name, "a string, a number or null", lambda v: v is None or is_text(v) or is_number(v))
    for name in _SECONDS:
        row.take(name, f"a list of seconds, {_RULE}", lambda v: v is None or _are_seconds(v), None)
    launches = row.take("rounds", "a list of lists", lambda v: v is None or isinstance(v, list), None)
    for index, launch in enumerate(launches or ()):
        if not (_are_seconds(launch) and launch):
            row.fail(f"rounds[{index}]", f"a list of one number of seconds or more, {_RULE}", launch)
    for name, figure, most in (("memory", "peak_bytes", float(MOST_BYTES)), ("error", "max_abs", _LARGEST)):
        found = row.take(name, "an object or null", lambda v: v is None or isinstance(v, dict), None)
        if found is not None:
            value = row.inner(name, found).take(figure, "a number or null", lambda v: v is None or is_number(v), None)
            if value is not None and not (value == 0 or 1 / _LARGEST <= value <= most):
                row.fail(f"{name}.{figure}", f"0 to {most:g}", value)


def _are_seconds(value: Any) -> bool:
    return isinstance(value, list) and all(is_number(one) and 1e-9 <= one <= 1e9 for one in value)


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
