"""Weights rounded to blocks of 4 bits with what they are multiplied by in mind: GPTQ, https://arxiv.org/abs/2210.17323.

Channels are rounded one after the other; what rounding one of them changes in the products is made up for by those that
are not rounded yet, as far as inputs of the kind that was seen go together. The scale of a block is searched for when
its turn comes, of the weights as they are by then.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from precast.graphs.block_rounding import quantized, ranges
from precast.graphs.block_weight import Parts
from precast.graphs.dialects.blocks import dequantized, pack_bits

__all__ = ["Rounded", "error_of", "quantized_with_feedback"]

Array = np.ndarray[Any, Any]

# Of the mean second moment, added to each channel's own: moments of few inputs have no inverse.
_DAMPING = 0.01
_SMALL = 96  # rows of a matrix that is inverted as any other


@dataclass(frozen=True)
class Rounded:
    """A rounded weight. ``plain`` and ``error``: what rounding by itself, and this, change in the products."""

    parts: Parts
    plain: float
    error: float


def quantized_with_feedback(weight: Array, moments: Array, bits: int, block: int, symmetric: bool) -> Rounded:
    """As `quantized`, for rows x of which ``moments`` [K, K] is the mean of x x^T; plainly rounded where that is nearer
    to the products.

    Raises:
        ValueError: the weight holds infinities or NaN, or numbers too large for a scale.
    """
    parts = quantized(weight, bits, block, symmetric)
    if not np.isfinite(moments).all() or not moments.any():
        return Rounded(parts, 0.0, 0.0)
    plain = error_of(weight, parts, moments, bits)
    found = _with_feedback(weight, _upper(moments), bits, block, symmetric)
    error = error_of(weight, found, moments, bits)
    return Rounded(found, plain, error) if error < plain else Rounded(parts, plain, plain)


def error_of(weight: Array, parts: Parts, moments: Array, bits: int) -> float:
    """Mean squared error that rounding leaves in the products with one row, summed over outputs."""
    left = weight - dequantized(*parts, bits, weight.shape[1])
    return float(np.einsum("nk,nk->", left @ moments.astype(np.float32), left, dtype=np.float64))


def _upper(moments: Array) -> Array:
    """The upper Cholesky factor of the damped moments' inverse."""
    damped = moments.astype(np.float64)
    own = np.diagonal(damped).copy()
    own[own <= 0] = 0
    np.fill_diagonal(damped, np.where(own > 0, own, own[own > 0].mean()) + _DAMPING * own.mean())
    # inv(M) = U^T U: the factor of the reversed matrix, reversed, is that of the inverse.
    lower = np.linalg.cholesky(damped[::-1, ::-1])[::-1, ::-1]  # M = lower lower^T, lower upper triangular
    return _inverse(lower).astype(np.float32)


def _inverse(upper: Array) -> Array:
    """The inverse of an upper triangular matrix, a sixth of the work that any matrix takes: by halves."""
    size = len(upper)
    if size <= _SMALL:
        return np.asarray(np.linalg.inv(upper))
    half = size // 2
    first, last = _inverse(upper[:half, :half]), _inverse(upper[half:, half:])
    made = np.zeros_like(upper)
    made[:half, :half], made[half:, half:] = first, last
    made[:half, half:] = -(first @ upper[:half, half:]) @ last
    return made


def _with_feedback(weight: Array, factor: Array, bits: int, block: int, symmetric: bool) -> Parts:
    rows, depth = weight.shape
    blocks, most = -(-depth // block), 2**bits - 1
    # Channels first: what is done to one of them for all rows runs along memory.
    left = np.zeros((blocks * block, rows), np.float32)
    left[:depth] = weight.T
    if not np.isfinite(left).all():
        raise ValueError("it holds infinities or NaN")
    wide = np.zeros((blocks * block, blocks * block), np.float32)
    wide[:depth, :depth] = factor
    np.fill_diagonal(wide[depth:, depth:], 1)
    codes = np.empty((blocks * block, rows), np.uint8)
    scales = np.empty((rows, blocks), np.float32)
    zeros = None if symmetric else np.empty((rows, blocks), np.uint8)
    for index in range(blocks):
        start, end = index * block, (index + 1) * block
        here = left[start:end]
        scale, zero = ranges(here, bits, symmetric)
        if (scale >= 65520).any():
            raise ValueError(f"it holds numbers up to {np.abs(here).max():.3g}")
        inverse = np.divide(1, scale, out=np.zeros_like(scale), where=scale > 0)
        wrong = np.empty_like(here)
        for channel in range(block):
            values, at = here[channel], start + channel
            steps = np.clip(np.rint(values * inverse), -zero, most - zero)
            codes[at] = steps + zero
            wrong[channel] = (values - steps * scale) / wide[at, at]
            here[channel + 1 :] -= wide[at, at + 1 : end, None] * wrong[channel]
        left[end:] -= wide[start:end, end:].T @ wrong
        scales[:, index] = scale
        if zeros is not None:
            zeros[:, index] = zero
    packed = pack_bits(codes.T.reshape(rows, blocks, block), bits)
    return packed, scales, None if zeros is None else pack_bits(zeros, bits)
