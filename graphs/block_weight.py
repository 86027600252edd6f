"""A weight that its checkpoint holds in blocks of integers already, on its way to `QuantizeWeights`.

The layout is the canonical one of ``precast.graphs.dialects.blocks``; nothing is read before ``load`` is called.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from precast.graphs.dialects.blocks import pack_bits, rounded_scales

__all__ = ["BLOCKS", "META", "BlockWeight", "Blocks", "Parts", "canonical", "scales_fit"]

Array = np.ndarray[Any, Any]
Parts = tuple[Array, Array, "Array | None"]

BLOCKS = (32, 64, 128, 256)
META = "precast.blocks"  # the entry of an initializer's ``meta`` that holds its `Blocks`


@dataclass(frozen=True)
class BlockWeight:
    """A weight [N, K] in blocks of ``block`` along K, each with a scale and, where ``zeros``, a zero point.

    Args:
        load: (uint8 [N, ceil(K / block), bytes], float32 scales [N, ceil(K / block)], packed zero points or None).
        unfit: why the canonical layout cannot hold it, or nothing. ``load`` is not to be called then.
        transposed: the tensor is [K, N].
    """

    bits: int
    block: int
    zeros: bool
    load: Callable[[], Parts]
    unfit: str = ""
    transposed: bool = False

    @classmethod
    def none(cls, reason: str) -> BlockWeight:
        """Of blocks that no layout here holds."""

        def load() -> Parts:
            raise ValueError(reason)

        return cls(8, BLOCKS[0], False, load, reason)

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
    """Whether the CPU kernels keep these scales as they are, but for their sign; the half floats of files they do."""
    size = np.abs(np.asarray(scales, np.float32))
    kept = (size == 0) | ((size >= 2.0**-48) & (size < 65520))
    return bool(kept.all()) and bool((rounded_scales(size) == size).all())


def canonical(codes: Array, scales: Array, zeros: Array | None, bits: int) -> Parts:
    """Codes uint8 [N, B, block], scales [N, B] and zero points uint8 [N, B] as the canonical layout has them.

    Scales may be negative where there are zero points: (q - z) s = ((top - q) - (top - z)) (-s).
    """
    negative = np.signbit(scales)
    if zeros is not None:
        top = np.uint8(2**bits - 1)
        codes = np.where(negative[..., None], top - codes, codes)
        zeros = np.where(negative, top - zeros, zeros)
    elif (scales < 0).any():
        raise ValueError("blocks of negative scale need zero points")
    packed = None if zeros is None else pack_bits(zeros.astype(np.uint8), bits)
    return pack_bits(codes.astype(np.uint8), bits), np.abs(scales).astype(np.float32), packed
