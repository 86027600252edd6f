"""Weights rounded to blocks of 4 or 8 bits.

Each block of a row has a scale and, where it is not symmetric, a zero point. In 4 bits they are searched for: of
several ranges the one wins whose least-squares scale leaves the smallest squared error of the weights. That is the
clipping of https://arxiv.org/abs/2306.00978 with the weights' own error in place of the layer's, which would need data.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from precast.graphs.block_weight import Parts
from precast.graphs.dialects.blocks import dequantized, pack_bits, packed_size, rounded_scales

__all__ = ["quantized", "quantized_rest", "ranges"]

Array = np.ndarray[Any, Any]

# Shares of a block's range that 4 bits are tried on. For normally distributed weights the error they leave is within
# 0.2 % of that of forty-one shares and seven zero points each.
_SHARES = (1.06, 1.03, 1.0, 0.97, 0.94, 0.91, 0.88, 0.84, 0.8)
_CHUNK = 1 << 16  # elements quantised at a time: they stay in a processor's cache


def quantized(weight: Array, bits: int, block: int, symmetric: bool) -> Parts:
    """A weight [N, K] in the canonical layout: (uint8 [N, blocks, bytes], scales [N, blocks], zero points or None).

    Raises:
        ValueError: the weight holds infinities or NaN, or numbers too large for a scale below 2^16.
    """
    rows, depth = weight.shape
    blocks = -(-depth // block)
    values = np.empty((rows, blocks, packed_size(block, bits)), np.uint8)
    scales = np.empty((rows, blocks), np.float32)
    zeros = None if symmetric else np.empty((rows, packed_size(blocks, bits)), np.uint8)
    step = max(1, _CHUNK // (blocks * block))
    for start in range(0, rows, step):
        part = slice(start, start + step)
        x = np.zeros((len(weight[part]), blocks * block), np.float32)
        x[:, :depth] = weight[part]
        if not np.isfinite(x).all():
            raise ValueError("it holds infinities or NaN")
        # Channels of a block first: what is done to all of them at once then runs along memory.
        x = np.ascontiguousarray(x.reshape(-1, block).T)
        scale, zero = ranges(x, bits, symmetric)
        if (scale >= 65520).any():
            raise ValueError(f"it holds numbers up to {np.abs(x).max():.3g}")
        codes = (_steps(x, scale, zero, 2**bits - 1) + zero).astype(np.uint8)
        values[part] = pack_bits(codes.T, bits).reshape(-1, *values.shape[1:])
        scales[part] = scale.reshape(-1, blocks)
        if zeros is not None:
            zeros[part] = pack_bits(zero.astype(np.uint8).reshape(-1, blocks), bits)
    return values, scales, zeros


def quantized_rest(weight: Array, bits: int, block: int, symmetric: bool, rest: int) -> Parts:
    """What `quantized` leaves of a weight [N, K], in symmetric blocks of ``rest`` bits."""
    step = max(1, _CHUNK * 16 // weight.shape[1])
    made = []
    for start in range(0, len(weight), step):
        part = weight[start : start + step]
        held = dequantized(*quantized(part, bits, block, symmetric), bits, weight.shape[1])
        made.append(quantized(part - held, rest, block, True)[:2])
    values, scales = (np.concatenate(parts) for parts in zip(*made, strict=True))
    return values, scales, None


# Below: x [block, M] of M blocks; scales and zero points [M].


def _ratio(above: Array, below: Array) -> Array:
    """above / below, 0 where below is."""
    return np.asarray(np.divide(above, below, out=np.zeros_like(below), where=below > 0))


def _steps(x: Array, scale: Array, zero: Array, most: int) -> Array:
    """x in steps of the scale, as far as codes from 0 to ``most`` reach."""
    steps = x * _ratio(np.ones_like(scale), scale)
    np.rint(steps, out=steps)
    np.maximum(steps, -zero, out=steps)
    np.minimum(steps, most - zero, out=steps)
    return np.asarray(steps)


def ranges(x: Array, bits: int, symmetric: bool) -> tuple[Array, Array]:
    """Scales and zero points [M] of blocks x [block, M]."""
    return _range_of_8(x, symmetric) if bits == 8 else _search(x, symmetric)


def _range_of_8(x: Array, symmetric: bool) -> tuple[Array, Array]:
    """Scales and zero points that cover the block: with 8 bits nothing is gained by cutting it."""
    if symmetric:
        scale = rounded_scales(np.abs(x).max(0) / np.float32(127), up=True)
        return scale, np.full_like(scale, 128)
    low, high = np.minimum(x.min(0), 0), np.maximum(x.max(0), 0)
    # The zero point is rounded: one code more than the range needs.
    scale = rounded_scales((high - low) / np.float32(254), up=True)
    return scale, np.clip(np.rint(_ratio(-low, scale)), 0, 255)


def _search(x: Array, symmetric: bool) -> tuple[Array, Array]:
    """Scales and zero points of 4 bits with the smallest squared error found."""
    low, high = np.minimum(x.min(0), 0), np.maximum(x.max(0), 0)
    largest = np.maximum(high, -low)
    best, best_scale, best_zero = np.full_like(low, -1), np.zeros_like(low), np.full_like(low, 8)
    for share in _SHARES:
        if symmetric:
            scale, zero = largest * np.float32(share / 7), best_zero
        else:
            scale = (high - low) * np.float32(share / 15)
            zero = np.clip(np.rint(np.float32(7.5) - _ratio(low + high, 2 * scale)), 0, 15)
        steps = _steps(x, scale, zero, 15)
        along = (x * steps).sum(0)
        fitted = _ratio(along, np.square(steps, out=steps).sum(0))
        # |x - s d|^2 is smallest at s = x.d / d.d, and smaller there by (x.d)^2 / d.d than |x|^2.
        better = fitted * along > best
        best = np.where(better, fitted * along, best)
        best_scale = np.where(better, fitted, best_scale)
        best_zero = np.where(better, zero, best_zero)
    return rounded_scales(best_scale), best_zero
