"""Sizes that are known up to the dimensions of a call: polynomials in ``batch``, ``sequence`` and the like.

A dimension is a name; or ``min(16,sequence)`` for a size that stops growing: ``min(NUMBER,NAME*NAME...)``; or
``floor((2*height+5)/16)`` for what strides leave of one: ``floor((NUMBER*NAME+NUMBER)/NUMBER)``, ``1*`` and ``+0`` left
out.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from fractions import Fraction
from typing import Any

__all__ = ["ONE", "ZERO", "Polynomial", "product"]

_FLOOR = re.compile(r"floor\(\((?:([0-9]+)\*)?([^*+()]+)(?:\+([0-9]+))?\)/([0-9]+)\)")

# Dimension names with their powers, sorted by name.
_Monomial = tuple[tuple[str, int], ...]


class Polynomial:
    """Immutable; ``+ - *`` with polynomials and integers, equality by value."""

    __slots__ = ("_terms",)

    def __init__(self, terms: Mapping[_Monomial, Fraction]) -> None:
        self._terms = {key: terms[key] for key in sorted(terms) if terms[key]}

    @classmethod
    def of(cls, size: int | Fraction | str) -> Polynomial:
        """A number, or the dimension of a name."""
        return cls({((size, 1),): Fraction(1)}) if isinstance(size, str) else cls({(): Fraction(size)})

    @property
    def number(self) -> int | None:
        """The value, where it is a whole number and depends on nothing."""
        if set(self._terms) - {()}:
            return None
        value = self._terms.get((), Fraction(0))
        return int(value) if value.denominator == 1 else None

    def __add__(self, other: Polynomial | int) -> Polynomial:
        terms = dict(self._terms)
        for key, coefficient in _as(other)._terms.items():
            terms[key] = terms.get(key, Fraction(0)) + coefficient
        return Polynomial(terms)

    def __sub__(self, other: Polynomial | int) -> Polynomial:
        return self + _as(other) * -1

    def __mul__(self, other: Polynomial | int | Fraction) -> Polynomial:
        terms: dict[_Monomial, Fraction] = {}
        for key, coefficient in self._terms.items():
            for other_key, factor in _as(other)._terms.items():
                joined = _join(key, other_key, 1)
                terms[joined] = terms.get(joined, Fraction(0)) + coefficient * factor
        return Polynomial(terms)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, (Polynomial, int)) and self._terms == _as(other)._terms

    def __hash__(self) -> int:
        return hash(tuple(self._terms.items()))

    def __repr__(self) -> str:
        parts = ["*".join([str(c), *(f"{name}^{power}" for name, power in key)]) for key, c in self._terms.items()]
        return " + ".join(parts) or "0"

    def divided(self, by: Polynomial) -> Polynomial | None:
        """The exact quotient, or None where there is none (long division by the leading term)."""
        if not by._terms:
            return None
        rest, quotient = self, ZERO
        lead = max(by._terms, key=_degree)
        while rest._terms:
            top = max(rest._terms, key=_degree)
            key = _join(top, lead, -1)
            if any(power < 0 for _, power in key):
                return None
            step = Polynomial({key: rest._terms[top] / by._terms[lead]})
            quotient, rest = quotient + step, rest - step * by
        return quotient

    def at_most(self, bound: int) -> Polynomial | None:
        """min(bound, self), or None where that has no spelling."""
        number = self.number
        if number is not None:
            return Polynomial.of(min(bound, number))
        if len(self._terms) != 1:
            return None
        ((key, coefficient),) = self._terms.items()
        limit = bound / coefficient
        if coefficient <= 0 or limit.denominator != 1 or any("(" in name for name, _ in key):
            return None
        names = "*".join(name for name, power in key for _ in range(power))
        return Polynomial.of(f"min({int(limit)},{names})") * coefficient

    def floored(self, by: int) -> Polynomial | None:
        """floor(self / by), or None where that has no spelling: of one dimension, multiples of ``by`` beside it."""
        outside, inside = Polynomial({}), Polynomial({})
        for key, coefficient in self._terms.items():
            if coefficient.denominator != 1:
                return None
            rest = coefficient % by
            outside, inside = outside + Polynomial({key: (coefficient - rest) / by}), inside + Polynomial({key: rest})
        offset = int(inside._terms.get((), 0))
        named = [(key, int(coefficient)) for key, coefficient in inside._terms.items() if key]
        if not named:
            return outside
        [(key, factor), *others] = named
        [(name, power), *more] = key
        if others or more or power != 1:
            return None
        if (within := _FLOOR.fullmatch(name)) is not None:
            # floor((floor(x / a) + b) / c) = floor((x + a * b) / (a * c))
            if factor != 1:
                return None
            inner = int(within[4])
            size = Polynomial.of(within[2]) * int(within[1] or 1) + int(within[3] or 0) + offset * inner
            made = size.floored(by * inner)
            return None if made is None else outside + made
        if "(" in name:
            return None
        common = math.gcd(factor, by)
        factor, offset, by = factor // common, offset // common, by // common
        spelled = f"{f'{factor}*' if factor > 1 else ''}{name}{f'+{offset}' if offset else ''}"
        return outside + Polynomial.of(f"floor(({spelled})/{by})")

    def to_json(self) -> list[dict[str, Any]]:
        """``[{"coefficient": 2, "dimensions": {"batch": 1, "sequence": 2}}]``, in a fixed order."""
        return [
            {"coefficient": int(c) if c.denominator == 1 else float(c), "dimensions": dict(key)}
            for key, c in self._terms.items()
        ]


def _as(value: Polynomial | int | Fraction) -> Polynomial:
    return value if isinstance(value, Polynomial) else Polynomial.of(value)


def _join(a: _Monomial, b: _Monomial, sign: int) -> _Monomial:
    powers = dict(a)
    for name, power in b:
        powers[name] = powers.get(name, 0) + sign * power
    return tuple(sorted((name, power) for name, power in powers.items() if power))


def _degree(key: _Monomial) -> tuple[int, _Monomial]:
    """Graded lexicographic order, which products respect: what long division needs."""
    return sum(power for _, power in key), key[::-1]


def product(sizes: Iterable[Polynomial | int]) -> Polynomial:
    """The number of elements of a shape."""
    total = ONE
    for size in sizes:
        total = total * size
    return total


ZERO, ONE = Polynomial({}), Polynomial.of(1)
