"""Figures as people read them: three significant digits, a unit, and an interval where there is one."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

__all__ = [
    "BYTES",
    "FLOPS",
    "SECONDS",
    "Unit",
    "amount",
    "capital",
    "count",
    "duration",
    "engineering",
    "esc",
    "finite",
    "joined",
    "plural",
    "rate_name",
    "shortened",
    "sig",
    "size",
    "times",
    "unit_of",
]

_UNITS = {"texts": "texts", "images": "images", "seconds_of_sound": "seconds of sound", "tokens": "tokens"}


@dataclass(frozen=True)
class Unit:
    """A figure in base units times ``factor`` is what is shown with ``name``."""

    factor: float
    name: str


SECONDS = (Unit(1.0, "s"), Unit(1e3, "ms"), Unit(1e6, "µs"), Unit(1e9, "ns"))
BYTES = (Unit(1e-12, "TB"), Unit(1e-9, "GB"), Unit(1e-6, "MB"), Unit(1e-3, "kB"), Unit(1.0, "bytes"))
FLOPS = (Unit(1e-12, "T"), Unit(1e-9, "G"), Unit(1e-6, "M"), Unit(1e-3, "k"), Unit(1.0, ""))


def finite(value: Any) -> float | None:
    """A number that can be drawn; None for everything else that a record may hold."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    if value == 0:
        return 0.0
    # Far outside of what is measured: quotients of such numbers overflow.
    return float(value) if 1e-100 < abs(value) < 1e100 else None


def sig(value: float, digits: int = 3) -> str:
    """``digits`` significant digits without an exponent where that stays readable: 0.0123, 1.23, 12,300."""
    if value == 0:
        return "0"
    size = math.floor(math.log10(abs(value)))
    if size < -4 or size >= 9:
        mantissa, _, exponent = f"{value:.{digits - 1}e}".partition("e")
        return f"{mantissa}e{int(exponent)}"
    rounded = round(value, digits - 1 - size)
    places = max(0, digits - 1 - math.floor(math.log10(abs(rounded))))
    return f"{rounded:,.{places}f}"


def unit_of(values: Iterable[float], units: Sequence[Unit]) -> Unit:
    """The unit in which the middle one of ``values`` is at least 1."""
    ordered = sorted(abs(value) for value in values if value)
    middle = ordered[len(ordered) // 2] if ordered else 0.0
    return next((unit for unit in units if middle * unit.factor >= 1), units[-1] if middle else units[0])


def amount(value: float, units: Sequence[Unit]) -> str:
    """``value`` in the unit that suits it."""
    unit = unit_of([value], units)
    return f"{sig(value * unit.factor)} {unit.name}".rstrip()


def duration(value: float) -> str:
    return amount(value, SECONDS)


def size(value: float) -> str:
    return amount(value, BYTES)


def engineering(value: float) -> str:
    """Large counts: 1.23 G."""
    return amount(value, FLOPS)


def times(value: float) -> str:
    """A ratio: 1.83 ×."""
    return f"{sig(value)} ×"


def count(value: float) -> str:
    """A whole number with its thousands apart; anything else to three digits."""
    return f"{value:,.0f}" if value == int(value) else sig(value)


def capital(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}"


def joined(parts: Sequence[str], word: str = "and") -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} {word} {parts[-1]}" if parts else ""


def plural(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def shortened(text: str, width: int, lines: int = 2) -> list[str]:
    """``text`` in at most ``lines`` lines of ``width`` characters, broken where words end; the last one may say …"""
    found: list[str] = []
    for word in text.split() or [""]:
        pieces = [word[at : at + width] for at in range(0, max(1, len(word)), width)]
        for piece in pieces:
            if found and len(found[-1]) + 1 + len(piece) <= width and piece is pieces[0]:
                found[-1] += f" {piece}"
            else:
                found.append(piece)
    if len(found) > lines:
        found = [*found[: lines - 1], f"{found[lines - 1][: width - 1]}…"]
    return found


def esc(value: Any) -> str:
    """Text from a record, for HTML and for Plotly's own markup."""
    return escape(str(value), quote=True)


def rate_name(key: str) -> str:
    """A throughput's key in words: texts a second."""
    name = key.removesuffix("_per_second")
    return f"{_UNITS.get(name, name.replace('_', ' '))} a second"
