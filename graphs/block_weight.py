"""A weight that its checkpoint holds in blocks of integers already, on its way to `QuantizeWeights`.

The layout is the canonical one of ``precast.graphs.dialects.blocks``; nothing is read before ``load`` is called.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from precast.graphs.dialects.blocks import Zeros, pack_bits, unpack_bits

__all__ = ["BLOCKS", "META", "BlockWeight", "Blocks", "Parts", "canonical", "scales_fit"]

Array = np.ndarray[Any, Any]
Parts = tuple[Array, Array, "Array | None"]

BLOCKS = (32, 64, 128, 256)
META = "precast.blocks"  # the entry of an initializer's ``meta`` that holds its `Blocks`


@dataclass(frozen=True)
class BlockWeight:
    """A weight [N, K] in blocks of ``block`` along K, each with a scale and, unless there are none, a zero point.

    Args:
        load: (uint8 [N, ceil(K / block), bytes], float32 scales [N, ceil(K / block)], zero points: packed integers,
            float32 [N, K / block], or None).
        unfit: why the canonical layout cannot hold it, or nothing. ``load`` is not to be called then.
        transposed: the tensor is [K, N].
        held: the bits of the checkpoint's codes, where they are between 4 and 8, which the layout does not have.
    """

    bits: int
    block: int
    zeros: Zeros
    load: Callable[[], Parts]
    unfit: str = ""
    transposed: bool = False
    held: int | None = None

    @classmethod
    def none(cls, reason: str) -> BlockWeight:
        """Of blocks that no layout here holds."""

        def load() -> Parts:
            raise ValueError(reason)

        return cls(8, BLOCKS[0], "none", load, reason)

    def widened(self) -> BlockWeight:
        """The same values in 8 bits, codes around their middle."""
        if self.bits == 8 or self.unfit:
            return self

        def load() -> Parts:
            weight, scales, zeros = self.load()
            codes = unpack_bits(weight, 4, self.block) + np.uint8(120)
            if zeros is not None and zeros.dtype != np.float32:
                zeros = unpack_bits(zeros, 4, scales.shape[1]) + np.uint8(120)
            return codes, scales, zeros if zeros is None or zeros.dtype != np.float32 else zeros + np.float32(120)

        return replace(self, bits=8, load=load)

    def turned(self) -> BlockWeight:
        """Of the tensor with its axes swapped."""
        return replace(self, transposed=not self.transposed)

    def taken(self, rows: Array, axis: int) -> BlockWeight:
        """Of the tensor's ``rows`` along ``axis``, where no block is cut by that."""
        if axis != int(self.transposed):
            return replace(self, unfit="its blocks are cut")

        def load() -> Parts:
            weight, scales, zeros = self.load()
            return weight[rows], scales[rows], None if zeros is None else zeros[rows]

        return replace(self, load=load)


# Found out when asked: the answer may need the scales and zero points of the file.
Blocks = Callable[[], BlockWeight]


def scales_fit(scales: Array) -> bool:
    """Whether they are in the range of the CPU kernels, but for their sign. Those keep eleven significant bits of them:
    all that the half floats of files have, and 2^-12 is what others lose, a tenth of what rounding anew to 8 bits does.
    """
    size = np.abs(np.asarray(scales, np.float32))
    return bool(((size == 0) | ((size >= 2.0**-48) & (size < 65520))).all())


def canonical(codes: Array, scales: Array, zeros: Array | None, bits: int) -> Parts:
    """Codes uint8 [N, B, block], scales [N, B], zero points uint8 or float32 [N, B], as the canonical layout has them.

    Scales may be negative where there are zero points, or no code is 0: (q - z) s = ((c - q) - (c - z)) (-s) for any c.
    """
    negative = np.signbit(scales)
    if zeros is not None:
        top = np.uint8(2**bits - 1)
        codes = np.where(negative[..., None], top - codes, codes)
        zeros = np.where(negative, top - zeros, zeros)
    elif (scales < 0).any():
        if not codes[scales < 0].all():
            raise ValueError("blocks of negative scale need zero points")
        codes = np.where(negative[..., None], np.uint8((2**bits - codes.astype(np.uint16)) & 255), codes)
    packed = zeros if zeros is None or zeros.dtype == np.float32 else pack_bits(zeros.astype(np.uint8), bits)
    return pack_bits(codes.astype(np.uint8), bits), np.abs(scales).astype(np.float32), packed
