"""What one call of a variant costs in operations and bytes.

The manifest holds the cost as terms in the dimensions of a call; ``precast.graphs.work`` counted them at export.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from precast.runtime.artifact import Variant
from precast.runtime.errors import ArtifactError, InputError, listing

__all__ = ["evaluate", "work_of"]

_KINDS = ("flops", "bytes", "activations")
# Dimensions that are computed from others: ``precast.graphs.polynomials``.
_CAPPED = re.compile(r"min\(([0-9]{1,9}),([a-z][a-z0-9_]*(?:\*[a-z][a-z0-9_]*){0,7})\)")
_FLOORED = re.compile(r"floor\(\((?:([0-9]{1,9})\*)?([a-z][a-z0-9_]*)(?:\+([0-9]{1,9}))?\)/([1-9][0-9]{0,8})\)")
# Beside these a term is no polynomial of ours, and could take forever to compute.
_HIGHEST_POWER, _LARGEST = 8, 2**31


def work_of(variant: Variant, **dimensions: int) -> dict[str, int] | None:
    """``{"flops", "bytes", "activations"}`` of one call at e.g. ``batch=8, sequence=128``.

    ``bytes`` must move in any case; ``activations`` are the values between operators, which a cache may keep. Both
    are lower bounds where ``variant.work["uncounted"]`` names operators. Dimensions the variant does not have are
    ignored. None: the artifact says nothing of it (format 1.0).

    Raises:
        InputError: a dimension the cost depends on is not given.
        ArtifactError: the manifest's terms are malformed.
    """
    if not variant.work:
        return None
    return {kind: evaluate(variant.work.get(kind, []), dimensions) for kind in _KINDS}


def evaluate(terms: Any, dimensions: Mapping[str, int]) -> int:
    """The sum of ``{"coefficient": 2, "dimensions": {"batch": 1, "min(16,sequence)": 2}}`` at a point."""
    try:
        values: list[float] = [_term(term["coefficient"], term["dimensions"], dimensions) for term in terms]
        return round(sum(values))
    except InputError:
        raise
    except (TypeError, KeyError, AttributeError, ValueError, OverflowError) as error:
        raise ArtifactError(
            "The manifest's 'work' must be terms of a number and dimensions; this one cannot be computed "
            f"({type(error).__name__}: {error}). Export the model again."
        ) from error


def _term(coefficient: float, powers: Mapping[str, Any], dimensions: Mapping[str, int]) -> float:
    value = coefficient
    for name, power in powers.items():
        for _ in range(_power(power)):
            value *= _size(name, dimensions)
    return value


def _power(power: Any) -> int:
    if not isinstance(power, int) or not 0 <= power <= _HIGHEST_POWER:
        raise ValueError(f"power {power!r}")
    return power


def _size(name: str, dimensions: Mapping[str, int]) -> int:
    capped = _CAPPED.fullmatch(name)
    if capped:
        return min(int(capped[1]), math.prod(_size(part, dimensions) for part in capped[2].split("*")))
    floored = _FLOORED.fullmatch(name)
    if floored:
        factor, source, offset, divisor = floored.groups()
        return (int(factor or 1) * _size(source, dimensions) + int(offset or 0)) // int(divisor)
    if name not in dimensions:
        raise InputError(
            f"the cost of a call depends on its dimension {name!r}, which was not given "
            f"(given: {listing(sorted(dimensions))})."
        )
    size = dimensions[name]
    if not 0 <= size <= _LARGEST:
        raise InputError(f"dimension {name!r} must be 0 to {_LARGEST}, got {size}.")
    return size
