"""How strongly the channels of each norm are made alike: what leaves the least error in the products."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from precast.graphs.block_feedback import error_of
from precast.graphs.block_rounding import quantized
from precast.runtime.backends.base import Array

__all__ = ["smoothing"]

# Strengths: channels are divided by that power of their root mean square; 0 leaves them as they are.
_STRENGTHS = (0.25, 0.5, 0.75, 1.0)
_GAIN = 0.98  # of the error at least: a norm is left alone for less


def smoothing(weights: Sequence[Array], second: Array, bits: int, block: int, symmetric: bool) -> Array | None:
    """What the channels of weights [N, K] are multiplied by, [K]; None: nothing is gained by it.

    Args:
        weights: all that read one norm. second: the mean of x x^T [K, K] over what it gives.
    """
    own = np.sqrt(np.diagonal(second).astype(np.float64))
    if not own.any():
        return None
    own = np.maximum(own, own[own > 0].min())
    best, found = _GAIN * _error(weights, np.ones(len(own), np.float32), second, bits, block, symmetric), None
    for strength in _STRENGTHS:
        powers = own**strength
        # Powers of two: what a norm gives is then divided, and a weight multiplied, without rounding.
        scales = np.exp2(np.rint(np.log2(powers / np.exp(np.log(powers).mean())))).astype(np.float32)
        error = _error(weights, scales, second, bits, block, symmetric)
        if error < best:
            best, found = error, scales
    return found


def _error(weights: Sequence[Array], scales: Array, second: Array, bits: int, block: int, symmetric: bool) -> float:
    """Mean squared error that rounding leaves in the products with one row, summed over outputs."""
    scaled, divided = [weight * scales for weight in weights], second / np.outer(scales, scales)
    return sum(error_of(weight, quantized(weight, bits, block, symmetric), divided, bits) for weight in scaled)
