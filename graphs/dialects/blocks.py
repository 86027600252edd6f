"""Weights in blocks of 4 or 8 bits: their layouts, as the vocabulary has them and as ``precast.cpu`` reads them.

The canonical layout is that of com.microsoft::MatMulNBits: weight uint8 [N, K / block, block * bits / 8], the first of
two 4-bit values in the low half of a byte; scales float32 [N, K / block]; zero points packed alike along K / block,
without them 2^(bits - 1) is meant. https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md
"""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["COLUMNS", "dequantized", "pack_bits", "panel_bytes", "panels", "unpack_bits"]

Array = np.ndarray[Any, Any]

# Weight columns of a panel; runtime/kernels/linear_calls.h has the layout in words.
COLUMNS = 8


def pack_bits(values: Array, bits: int) -> Array:
    """uint8 [..., M] below 2^bits -> uint8 [..., ceil(M * bits / 8)], the first value in the lowest bits."""
    if bits == 8:
        return values
    if values.shape[-1] % 2:
        values = np.concatenate([values, np.zeros((*values.shape[:-1], 1), np.uint8)], -1)
    return np.asarray(values[..., 0::2] | values[..., 1::2] << 4)


def unpack_bits(packed: Array, bits: int, count: int) -> Array:
    """The inverse of `pack_bits`: uint8 [..., count]."""
    if bits == 8:
        return packed
    pairs = np.stack([packed & 15, packed >> 4], -1)
    return pairs.reshape(*packed.shape[:-1], -1)[..., :count]


def dequantized(weight: Array, scales: Array, zeros: Array | None, bits: int, depth: int) -> Array:
    """float32 [N, depth] of a weight in the canonical layout."""
    blocks = scales.shape[1]
    quants = unpack_bits(weight, bits, weight.shape[2] * 8 // bits).astype(np.float32)
    middle = np.float32(2 ** (bits - 1))
    offset = middle if zeros is None else unpack_bits(zeros, bits, blocks)[..., None].astype(np.float32)
    values = (quants - offset) * scales[..., None]
    return np.asarray(values.reshape(len(weight), -1)[:, :depth], dtype=np.float32)


def panel_bytes(depth: int, block: int, bits: int, zeros: bool) -> int:
    """Bytes of one panel: values, scales in half precision, zero points."""
    blocks = -(-depth // block)
    return COLUMNS * (blocks * block * bits // 8 + 2 * blocks) + (COLUMNS * blocks * bits // 8 if zeros else 0)


def panels(weight: Array, scales: Array, zeros: Array | None, bits: int) -> Array:
    """A weight in the canonical layout as uint8 [ceil(N / 8), panel_bytes], what ``precast.cpu::BlockLinear`` reads.

    Scales are rounded to half precision: those of `QuantizeWeights` and of GGUF, GPTQ and AWQ files are exact in it.

    Raises:
        ValueError: a scale is negative or does not fit half precision.
    """
    if not (scales >= 0).all() or not (scales <= np.finfo(np.float16).max).all():
        raise ValueError("scales of block-wise weights must lie within [0, 65504]: the CPU kernels keep 16 bits of them")
    missing = -len(weight) % COLUMNS
    if missing:
        weight, scales, zeros = (
            None if part is None else np.concatenate([part, np.zeros((missing, *part.shape[1:]), part.dtype)])
            for part in (weight, scales, zeros)
        )  # type: ignore[assignment]
    count, blocks = len(weight) // COLUMNS, scales.shape[1]
    # Quads of channels, the eight columns side by side. In 4 bits, two neighbouring quads share their bytes.
    quads = unpack_bits(weight, bits, weight.shape[2] * 8 // bits).reshape(count, COLUMNS, -1, 4).transpose(0, 2, 1, 3)
    values = quads[:, 0::2] | quads[:, 1::2] << 4 if bits == 4 else quads ^ 128
    parts = [
        np.ascontiguousarray(values).reshape(count, -1),
        _columns(scales.astype("<f2"), count).view(np.uint8),
    ]
    if zeros is not None:
        offsets = unpack_bits(zeros, bits, blocks)
        columns = _columns(offsets if bits == 4 else offsets ^ 128, count)
        parts.append(pack_bits(columns, bits))
    return np.concatenate(parts, axis=1)


def _columns(values: Array, count: int) -> Array:
    """[count * 8, blocks] -> [count, blocks * 8], a panel's columns side by side."""
    return np.ascontiguousarray(values.reshape(count, COLUMNS, -1).transpose(0, 2, 1)).reshape(count, -1)
