"""ggml's quantised blocks as block-wise integers in the layout of the MatMulNBits operator, without loss.

A value is ``(q - zero) * scale`` there. Where ggml's type is ``q * d`` with a fixed offset, integers and scales are
carried over bit by bit. Where it is ``q * d + m``, the zero becomes the float ``-m / d``: the product's rounding in
float32 is all that differs. Layouts: ggml-common.h; the operator: onnxruntime's docs/ContribOperators.md."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

from precast.graphs.block_weight import BlockWeight, Parts, canonical, scales_fit
from precast.graphs.dialects.blocks import Zeros, pack_bits, unpack_bits
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
    kind = _TYPES[packed.kind]
    blocks = kind.blocks(packed.data)
    codes = kind.codes(blocks).reshape(len(blocks), -1, kind.block)
    scales, minima = kind.scales(blocks)
    zeros = None
    if minima is not None:
        codes = np.where((scales == 0)[..., None], np.uint8(0), codes) + np.uint8(kind.middle)
        scales, zeros = _around_zeros(kind, scales, minima)
    return Blockwise(kind.bits, kind.block, pack_bits(codes, kind.bits), scales, zeros)


def block_weight(name: str, transposed: bool, find: Callable[[], Packed]) -> BlockWeight:
    """The weight as graphs hold it, or why they cannot. Nothing is rounded here: see `Blockwise`.

    ``find`` is called when its data are needed, and they are not kept.
    """
    kind = _TYPES.get(name)
    if kind is None:
        return BlockWeight.none(f"{name}: its integers are not evenly spaced")
    scales, minima = kind.scales(kind.blocks(find().data))
    zeros: Zeros = "none"
    if minima is not None:
        zeros = "floats"
        scales, offsets = _around_zeros(kind, scales, minima)
        if not (np.abs(offsets) < _FARTHEST).all():
            return BlockWeight.none(f"{name}: its minima are too large beside its scales")
    elif kind.lowest == 0 and bool((scales < 0).any()):
        # ggml's 4-bit scales take the sign of what is largest in a block, and integers reach further on one side.
        zeros = "integers"
    if not scales_fit(scales):
        return BlockWeight.none(f"{name}: its scales are not finite, or out of range")

    def load() -> Parts:
        found = repack(find())
        offsets = found.zeros
        if zeros == "integers":
            offsets = np.full(found.scales.shape, 2 ** (found.bits - 1), np.uint8)
        return canonical(unpack_bits(found.values, found.bits, found.block), found.scales, offsets, found.bits)

    return BlockWeight(kind.bits, kind.block, zeros, load, "", transposed, kind.held)


Scales = tuple[np.ndarray, "np.ndarray | None"]


@dataclass(frozen=True)
class _Type:
    """A type of ggml as integers: blocks of ``size`` bytes, [N, B, size] uint8, in which are

    codes, uint8 that end in the values of a block; scales and, of values that are ``code * scale + minimum``, minima,
    float32 [N, K / block]. ``lowest``: the smallest code there is, where there are no minima; ``held``: bits of codes
    that are neither 4 nor 8.
    """

    size: int
    bits: int
    codes: Callable[[np.ndarray], np.ndarray]
    scales: Callable[[np.ndarray], Scales]
    block: int = 32
    lowest: int = 0
    held: int | None = None

    def blocks(self, data: np.ndarray) -> np.ndarray:
        return data.reshape(len(data), -1, self.size)

    @property
    def middle(self) -> int:
        """Where codes beside minima begin: kernels count eight bits from their middle."""
        return 128 if self.bits == 8 else 0


def _around_zeros(kind: _Type, scales: np.ndarray, minima: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Scales and zero points in place of scales and minima."""
    # A block without a scale holds its minimum alone: (0 - -1) * minimum.
    flat = scales == 0
    with np.errstate(all="ignore"):
        zeros = np.where(flat, np.float32(-1), -minima / np.where(flat, np.float32(1), scales))
    return np.where(flat, minima, scales), (zeros + np.float32(kind.middle)).astype(np.float32)


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


def _scale(blocks: np.ndarray) -> Scales:
    return _half(blocks, 0), None


def _scale_and_minimum(blocks: np.ndarray) -> Scales:
    return _half(blocks, 0), _half(blocks, 2)


def _k_scales(blocks: np.ndarray) -> Scales:
    """Those of the eight sub-blocks of Q4_K and Q5_K, six bits each."""
    packed = blocks[..., 4:16]
    low, middle, high = packed[..., 0:4], packed[..., 4:8], packed[..., 8:12]
    scales = np.concatenate([low & 63, (high & 15) | (low >> 6) << 4], axis=-1)
    minima = np.concatenate([middle & 63, (high >> 4) | (middle >> 6) << 4], axis=-1)
    rows = len(blocks)
    return (
        (_half(blocks, 0)[..., None] * scales).reshape(rows, -1),
        (-_half(blocks, 2)[..., None] * minima).reshape(rows, -1),
    )


def _q5_0(blocks: np.ndarray) -> np.ndarray:
    return (_halves(blocks[..., 6:]) | _fifth_bits(blocks, 2)) + np.uint8(128 - 16)


def _q4_k(blocks: np.ndarray) -> np.ndarray:
    return _halves(blocks[..., 16:].reshape(len(blocks), -1, 32))


def _q5_k(blocks: np.ndarray) -> np.ndarray:
    rows = len(blocks)
    low = _halves(blocks[..., 48:].reshape(rows, -1, 32)).reshape(rows, -1, 8, 32)
    high = blocks[..., None, 16:48] >> np.arange(8, dtype=np.uint8)[:, None] & 1
    return low | high << 4


def _q6_k(blocks: np.ndarray) -> np.ndarray:
    rows = len(blocks)
    low = blocks[..., :128].reshape(rows, -1, 2, 1, 64) >> np.array([0, 4], np.uint8)[:, None] & 15
    high = blocks[..., 128:192].reshape(rows, -1, 2, 1, 32) >> np.array([0, 2, 4, 6], np.uint8)[:, None] & 3
    return (low.reshape(rows, -1, 256) | high.reshape(rows, -1, 256) << 4) + np.uint8(128 - 32)


def _q6_k_scales(blocks: np.ndarray) -> Scales:
    scales = _half(blocks, 208)[..., None] * blocks[..., 192:208].view(np.int8)
    return scales.reshape(len(blocks), -1), None


_TYPES: Final[Mapping[str, _Type]] = {
    "Q8_0": _Type(34, 8, lambda blocks: blocks[..., 2:] ^ 128, _scale),
    "Q4_0": _Type(18, 4, lambda blocks: _halves(blocks[..., 2:]), _scale),
    "Q4_1": _Type(20, 4, lambda blocks: _halves(blocks[..., 4:]), _scale_and_minimum),
    "Q5_0": _Type(22, 8, _q5_0, _scale, lowest=112, held=5),
    "Q5_1": _Type(24, 8, lambda blocks: _halves(blocks[..., 8:]) | _fifth_bits(blocks, 4), _scale_and_minimum, held=5),
    "Q4_K": _Type(144, 4, _q4_k, _k_scales),
    "Q5_K": _Type(176, 8, _q5_k, _k_scales, held=5),
    "Q6_K": _Type(210, 8, _q6_k, _q6_k_scales, block=16, lowest=96, held=6),
}
REPACKABLE: Final = tuple(_TYPES)
_FARTHEST: Final = 32768  # zero points: the kernels hold them as half floats
