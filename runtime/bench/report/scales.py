"""Ticks of an axis, chosen here and not in the browser: round, few enough for a phone, and never on each other."""

from __future__ import annotations

import math
from collections.abc import Sequence

from precast.runtime.bench.report.text import sig

__all__ = ["linear", "logarithmic"]

# Mantissas by how readily they are taken: a decade first, 3 before 1.5.
_MANTISSAS = ((1.0,), (2.0, 5.0), (3.0, 1.5, 7.0), (1.2, 4.0), (1.1, 1.3, 2.5, 6.0, 8.0, 9.0))


def linear(low: float, high: float, *, most: int = 5) -> list[tuple[float, str]]:
    """Round values from ``low`` to ``high``, at most ``most`` and evenly spaced, with their text."""
    if not high > low:
        return [(low, sig(low))]
    step = 10 ** math.floor(math.log10((high - low) / most))
    step *= next(factor for factor in (1, 2, 2.5, 5, 10, 20) if (high - low) / (step * factor) <= most - 1)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [(index * step, _short(index * step)) for index in range(first, last + 1)]


def logarithmic(
    low: float, high: float, *, most: int = 5, first: Sequence[float] = (), suffix: str = ""
) -> list[tuple[float, str]]:
    """Round values from ``low`` to ``high`` on a log axis, no two too close; ``first`` come before all others."""
    span = math.log10(high / low)
    least = span / most
    decades = range(math.floor(math.log10(low)), math.floor(math.log10(high)) + 1)
    stride = max(1, math.ceil(len(decades) / most))
    candidates = [
        *first,
        *(
            mantissa * 10.0**decade
            for group in _MANTISSAS
            for decade in sorted(decades, key=lambda decade: (decade % stride != 0, decade))
            for mantissa in group
        ),
    ]
    taken: list[float] = []
    for value in candidates:
        if low * 0.999 <= value <= high * 1.001 and all(abs(math.log10(value / other)) >= least for other in taken):
            taken.append(value)
    return [(value, _short(value) + suffix) for value in sorted(taken)]


def _short(value: float) -> str:
    """Without trailing zeros: 1, 1.5, 20, 1e-6."""
    if not value:
        return "0"
    decade = round(math.log10(abs(value)))
    if not -4 < decade < 5:
        mantissa, _, exponent = f"{value:.1e}".partition("e")
        return f"{mantissa.removesuffix('.0')}e{int(exponent)}"
    return f"{value:,.6f}".rstrip("0").rstrip(".")
