"""ggml's quantised blocks as block-wise integers in the layout of the MatMulNBits operator, without loss.

A value is ``(q - zero) * scale`` there. Where ggml's type is ``q * d`` with a fixed offset, integers and scales are
carried over bit by bit. Where it is ``q * d + m``, the zero becomes the float ``-m / d``: the product's rounding in
float32 is all that differs. Layouts: ggml-common.h; the operator: onnxruntime's docs/ContribOperators.md."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

from precast.graphs.block_weight import BlockWeight, Parts, canonical
from precast.graphs.dialects.blocks import unpack_bits
from precast.runtime.errors import InputError, listing

__all__ = ["REPACKABLE", "Blockwise", "Packed", "block_weight", "repack"]


@dataclass(frozen=True)
class Packed:
    """A weight as a GGUF file packs it: ``data`` [N, bytes of a row] uint8, of ``kind``, N outputs of K inputs.

    Rows are in the order of the tensor that holds this, which has the shape [N, K], or [K, N] where ``transposed``."""

    kind: str
    data: np.ndarray
    transposed: bool = False


@dataclass(frozen=True)
class Blockwise:
    """``bits`` 4 or 8 in blocks of ``block`` inputs: ``values`` [N, K / block, block * bits / 8] uint8, of 4 bits the
    even inputs in the low halves; ``scales`` [N, K / block] float32; ``zeros`` likewise, None: ``2 ** (bits - 1)``."""

    bits: int
    block: int
    values: np.ndarray
    scales: np.ndarray
    zeros: np.ndarray | None = None

    def dequantize(self) -> np.ndarray:
        """[N, K] float32, as the operator computes it."""
        values = self.values
        if self.bits == 4:
            values = np.stack([values & 15, values >> 4], axis=-1)
        values = values.reshape(*self.scales.shape, self.block).astype(np.float32)
        zeros = np.float32(2 ** (self.bits - 1)) if self.zeros is None else self.zeros[..., None]
        return ((values - zeros) * self.scales[..., None]).reshape(len(values), -1)


def repack(packed: Packed) -> Blockwise:
    """Raises ``InputError`` for a type whose blocks are not evenly spaced integers."""
    if packed.kind not in _TYPES:
        raise InputError(
            f"Weights of the ggml type {packed.kind} are not evenly spaced integers, so they cannot be carried over. "
            f"These can: {listing(_TYPES)}. Dequantise it, and quantise anew."
        )
    size, unpack = _TYPES[packed.kind]
    return unpack(packed.data.reshape(len(packed.data), -1, size))


def block_weight(kind: str, transposed: bool, find: Callable[[], Packed]) -> BlockWeight:
    """The weight as graphs hold it, or why they cannot: their zero points are integers, and their blocks 32 or more.

    ``find`` is called when its data are needed, and they are not kept.
    """
    if kind not in _WHOLE:
        unfit = "its zero points are no integers"
        if kind not in _TYPES:
            unfit = "its integers are not evenly spaced"
        elif kind == "Q6_K":
            unfit = "its blocks have 16 channels"
        return BlockWeight.none(f"{kind}: {unfit}")
    bits, (size, unpack) = _WHOLE[kind], _TYPES[kind]

    def blocks() -> np.ndarray:
        data = find().data
        return data.reshape(len(data), -1, size)

    # ggml's 4-bit scales take the sign of what is largest in a block, and integers reach further on one side.
    zeros = bool((_half(blocks(), 0) < 0).any())

    def load() -> Parts:
        found = unpack(blocks())
        middle = np.full(found.scales.shape, 2 ** (bits - 1), np.uint8) if zeros else None
        return canonical(unpack_bits(found.values, bits, found.block), found.scales, middle, bits)

    return BlockWeight(bits, 32, zeros, load, "", transposed)


# Every function below takes [N, K / values of a block, bytes of a block] uint8.


def _half(blocks: np.ndarray, at: int) -> np.ndarray:
    """[N, B] float32: the float16 at that byte of each block."""
    return np.ascontiguousarray(blocks[..., at : at + 2]).view("<f2")[..., 0].astype(np.float32)


def _halves(data: np.ndarray) -> np.ndarray:
    """[..., 16] bytes -> 32 integers below 16: the low halves first, as in every 32-value type."""
    return np.concatenate([data & 15, data >> 4], axis=-1)


def _fifth_bits(blocks: np.ndarray, at: int) -> np.ndarray:
    """[N, B, 32]: 16 where the value's bit in the four bytes at ``at`` is set."""
    bits = np.unpackbits(blocks[..., at : at + 4], axis=-1, bitorder="little")
    return bits << 4


def _pairs(values: np.ndarray) -> np.ndarray:
    """[..., 32] integers below 16 -> [..., 16] bytes, even positions in the low halves."""
    return values[..., 0::2] | values[..., 1::2] << 4


def _with_minimum(bits: int, values: np.ndarray, scales: np.ndarray, minima: np.ndarray) -> Blockwise:
    """``values * scale + minimum`` with ``values`` [N, B, 32]."""
    # A block without a scale holds its minimum alone: (0 - -1) * minimum.
    flat = scales == 0
    values = np.where(flat[..., None], 0, values).astype(np.uint8)
    with np.errstate(all="ignore"):
        zeros = np.where(flat, np.float32(-1), -minima / np.where(flat, np.float32(1), scales)).astype(np.float32)
    scales = np.where(flat, minima, scales)
    return Blockwise(bits, 32, _pairs(values) if bits == 4 else values, scales, zeros)


def _q8_0(blocks: np.ndarray) -> Blockwise:
    return Blockwise(8, 32, blocks[..., 2:] ^ 128, _half(blocks, 0))


def _q4_0(blocks: np.ndarray) -> Blockwise:
    return Blockwise(4, 32, _pairs(_halves(blocks[..., 2:])), _half(blocks, 0))


def _q4_1(blocks: np.ndarray) -> Blockwise:
    return _with_minimum(4, _halves(blocks[..., 4:]), _half(blocks, 0), _half(blocks, 2))


def _q5_0(blocks: np.ndarray) -> Blockwise:
    values = _halves(blocks[..., 6:]) | _fifth_bits(blocks, 2)
    return Blockwise(8, 32, values + np.uint8(128 - 16), _half(blocks, 0))


def _q5_1(blocks: np.ndarray) -> Blockwise:
    values = _halves(blocks[..., 8:]) | _fifth_bits(blocks, 4)
    return _with_minimum(8, values, _half(blocks, 0), _half(blocks, 2))


def _k_scales(blocks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Scales and minima [N, 8 B] float32 of the eight sub-blocks of Q4_K and Q5_K, six bits each."""
    packed = blocks[..., 4:16]
    low, middle, high = packed[..., 0:4], packed[..., 4:8], packed[..., 8:12]
    scales = np.concatenate([low & 63, (high & 15) | (low >> 6) << 4], axis=-1)
    minima = np.concatenate([middle & 63, (high >> 4) | (middle >> 6) << 4], axis=-1)
    rows = len(blocks)
    return (
        (_half(blocks, 0)[..., None] * scales).reshape(rows, -1),
        (-_half(blocks, 2)[..., None] * minima).reshape(rows, -1),
    )


def _q4_k(blocks: np.ndarray) -> Blockwise:
    values = _halves(blocks[..., 16:].reshape(len(blocks), -1, 32))
    return _with_minimum(4, values.reshape(len(blocks), -1, 32), *_k_scales(blocks))


def _q5_k(blocks: np.ndarray) -> Blockwise:
    rows = len(blocks)
    values = _halves(blocks[..., 48:].reshape(rows, -1, 32)).reshape(rows, -1, 8, 32)
    high = blocks[..., None, 16:48] >> np.arange(8, dtype=np.uint8)[:, None] & 1
    return _with_minimum(8, (values | high << 4).reshape(rows, -1, 32), *_k_scales(blocks))


def _q6_k(blocks: np.ndarray) -> Blockwise:
    rows = len(blocks)
    low = blocks[..., :128].reshape(rows, -1, 2, 1, 64) >> np.array([0, 4], np.uint8)[:, None] & 15
    high = blocks[..., 128:192].reshape(rows, -1, 2, 1, 32) >> np.array([0, 2, 4, 6], np.uint8)[:, None] & 3
    values = low.reshape(rows, -1, 256) | high.reshape(rows, -1, 256) << 4
    scales = _half(blocks, 208)[..., None] * blocks[..., 192:208].view(np.int8)
    return Blockwise(8, 16, values.reshape(rows, -1, 16) + np.uint8(128 - 32), scales.reshape(rows, -1))


# Bytes of a block, and how it is taken apart.
_TYPES: Final[Mapping[str, tuple[int, Callable[[np.ndarray], Blockwise]]]] = {
    "Q8_0": (34, _q8_0),
    "Q4_0": (18, _q4_0),
    "Q4_1": (20, _q4_1),
    "Q5_0": (22, _q5_0),
    "Q5_1": (24, _q5_1),
    "Q4_K": (144, _q4_k),
    "Q5_K": (176, _q5_k),
    "Q6_K": (210, _q6_k),
}
REPACKABLE: Final = tuple(_TYPES)
# Those of integers around a fixed middle, 32 to a scale: the bits they take in the operator.
_WHOLE: Final = {"Q8_0": 8, "Q4_0": 4, "Q5_0": 8}
