"""What an NVIDIA device says of itself, read through nvidia-smi; nothing is ever set.

Query names: ``nvidia-smi --help-query-gpu`` and https://docs.nvidia.com/deploy/nvidia-smi/index.html.
"""

from __future__ import annotations

import csv
import shutil
import subprocess
from collections.abc import Callable, Mapping
from typing import Any

__all__ = ["device_state", "process_memory", "throttled", "why_no_device"]

_SECONDS = 20.0
_MIB = 2**20
_HOLDING_BACK = {
    # NVML's nvmlClocksEventReasons: bits that mean less speed than the device has. Idle (1) and clocks that an
    # application or its administrator chose (2) are no such thing.
    0x4: "the power cap",
    0x8: "a hardware slowdown",
    0x10: "a device it runs in step with",
    0x20: "its temperature (software)",
    0x40: "its temperature (hardware)",
    0x80: "an external power brake",
}
# Clocks settle in steps; less than this is no change.
_SAME_CLOCK = 0.03


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None  # [N/A], [Not Supported], [Unknown Error]
    return value if value == value and abs(value) != float("inf") else None


def _text(text: str) -> str | None:
    return None if not text or text.startswith("[") else text


def _mebibytes(text: str) -> int | None:
    value = _number(text)
    return None if value is None else int(value * _MIB)


def _mask(text: str) -> int | None:
    try:
        return int(text, 16)
    except ValueError:
        return None


_Reader = Callable[[str], Any]
# Query -> (field of the state, its reader). Older drivers know the last one by its former name.
_FIELDS: tuple[tuple[str, str, _Reader], ...] = (
    ("name", "name", _text),
    ("driver_version", "driver", _text),
    ("memory.total", "memory_bytes", _mebibytes),
    ("memory.used", "memory_used_bytes", _mebibytes),
    ("clocks.sm", "sm", _number),
    ("clocks.mem", "memory", _number),
    ("clocks.max.sm", "sm_most", _number),
    ("temperature.gpu", "temperature", _number),
    ("power.draw", "power", _number),
    ("pstate", "performance_state", _text),
    ("clocks_event_reasons.active", "held_back", _mask),
)
_FORMER = {"clocks_event_reasons.active": "clocks_throttle_reasons.active"}
_CLOCKS = ("sm", "memory", "sm_most")


def device_state(index: int = 0) -> dict[str, Any] | None:
    """The state of one device, or None where there is none to read.

    Returns:
        ``name``, ``driver``, ``memory_bytes``, ``memory_used_bytes``, ``clocks`` (``sm``, ``memory`` and ``sm_most`` in
        MHz), ``temperature`` (degrees Celsius), ``power`` (watts), ``performance_state`` and ``held_back`` (NVML's bits
        for why clocks are below what they may be). What the device does not tell is None.
    """
    return _state(index)[0]


def process_memory(pid: int) -> int | None:
    """Bytes a process holds on all devices together; None where nobody tells (in a container, process ids differ)."""
    rows, _ = _ask("--query-compute-apps=pid,used_memory")
    held = [_mebibytes(row[1]) for row in rows if len(row) == 2 and row[0] == str(pid)]
    known = [size for size in held if size is not None]
    return sum(known) if known else None


def why_no_device() -> str | None:
    """Why `device_state` has nothing to say, in a line; None where it has."""
    return _state(0)[1]


def _state(index: int) -> tuple[dict[str, Any] | None, str | None]:
    """The state, or why there is none."""
    names = [name for name, _, _ in _FIELDS]
    rows, why = _ask(f"--query-gpu={','.join(names)}", f"--id={index}")
    if why is not None and "not a valid field" in why:
        rows, why = _ask(f"--query-gpu={','.join(_FORMER.get(name, name) for name in names)}", f"--id={index}")
    if why is not None:
        return None, why
    if not rows:
        return None, "nvidia-smi lists no device."
    cells = rows[0]
    if len(cells) != len(_FIELDS) or _text(cells[0]) is None:
        return None, "nvidia-smi's answer was not understood: its first line is no device's."
    found = {key: read(cell) for (_, key, read), cell in zip(_FIELDS, cells, strict=True)}
    clocks = {key: found.pop(key) for key in _CLOCKS}
    return {**found, "clocks": clocks}, None


def throttled(before: Mapping[str, Any] | None, after: Mapping[str, Any] | None) -> str | None:
    """Whether the device was held back, or changed its speed, between two states: a line, or None.

    Both should be taken while it works: clocks of an idle device are low by design.
    """
    if before is None or after is None:
        return None
    bits = after.get("held_back") or 0
    reasons = [reason for bit, reason in _HOLDING_BACK.items() if bits & bit]
    if reasons:
        return f"The device was held back by {' and '.join(reasons)}{_clocks(before, after)}."
    slower = _change(before, after)
    if slower is not None and slower < -_SAME_CLOCK:
        return f"The device became slower{_clocks(before, after)}."
    return None


def _clocks(before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    pair = [(state.get("clocks") or {}).get("sm") for state in (before, after)]
    return "" if None in pair else f": {pair[0]:.0f} MHz before, {pair[1]:.0f} MHz after"


def _change(before: Mapping[str, Any], after: Mapping[str, Any]) -> float | None:
    first, last = ((state.get("clocks") or {}).get("sm") for state in (before, after))
    return None if not first or last is None else (last - first) / first


def _ask(*arguments: str) -> tuple[list[list[str]], str | None]:
    """Rows of nvidia-smi's answer, and why there are none."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return [], "nvidia-smi is not installed: no NVIDIA driver, or a container without access to it."
    command = [program, *arguments, "--format=csv,noheader,nounits"]
    try:
        # Nothing but nvidia-smi's own words: a driver that hangs is a driver that has no answer.
        done = subprocess.run(command, capture_output=True, timeout=_SECONDS, check=False, stdin=subprocess.DEVNULL)
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        return [], f"nvidia-smi could not be run: {error}"
    answer = done.stdout.decode("utf-8", errors="replace")
    if done.returncode:
        words = (answer.strip() or done.stderr.decode("utf-8", errors="replace").strip()).splitlines()
        return [], f"nvidia-smi failed with status {done.returncode}: {words[0] if words else 'it said nothing'}"
    try:
        rows = [[cell.strip() for cell in row] for row in csv.reader(answer.splitlines())]
    except csv.Error as error:
        return [], f"nvidia-smi's answer is no table: {error}"
    return [row for row in rows if row], None
