"""Panels of weights in blocks, read by ONNX Runtime's own operators: an artifact holds one layout, that of the kernels.

Everything here is made of constants, which ONNX Runtime folds when a session is made: no call pays for it. The layout
is described in runtime/kernels/block_calls.h; `precast.graphs.dialects.blocks.panels` makes it.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import onnx_ir as ir
from onnx_ir.tape import Tape

from precast.graphs.dialects.base import const, ints, scalar

__all__ = ["PanelShape", "Read", "read_panels", "repacked"]

Array = np.ndarray[Any, Any]

COLUMNS = 16  # of a panel
_READ = "precast.read"  # where a panel's value holds what was read of it: a tied weight is read once
_INT, _FLOAT, _BYTE = ir.DataType.INT32, ir.DataType.FLOAT, ir.DataType.UINT8
# The scales of the kernels are 16 bits of a float32, minus those of 2^-48; half floats have 2^-15 to 2^16.
_MANTISSA, _LOWEST_SCALE = 1024, -48
_SCALE_POWERS = np.ldexp(np.float32(1), np.arange(_LOWEST_SCALE, 16)).astype(np.float32)
_HALF_POWERS = np.concatenate([[0], np.ldexp(1.0, np.arange(1, 31) - 15)]).astype(np.float32)


class PanelShape(NamedTuple):
    """A weight [rows, depth] in blocks; ``zeros`` as `precast.graphs.dialects.blocks.Zeros`."""

    rows: int
    depth: int
    block: int
    bits: int
    zeros: str

    @property
    def blocks(self) -> int:
        return -(-self.depth // self.block)

    @property
    def count(self) -> int:
        """Panels."""
        return -(-self.rows // COLUMNS)

    @property
    def values(self) -> int:
        """Bytes of a block's values."""
        return self.block * COLUMNS * self.bits // 8

    @property
    def offsets(self) -> int:
        """Bytes of a block's zero points."""
        return {"none": 0, "integers": self.bits, "floats": 16}[self.zeros] * COLUMNS // 8

    @property
    def of_block(self) -> int:
        return self.values + 2 * COLUMNS + self.offsets


class Read(NamedTuple):
    """What a weight's panels hold.

    Args:
        codes: uint8 [N, blocks, block], one a byte.
        scales: float32 [N, blocks].
        zeros: uint8 or float32 [N, blocks]; None: the middle of the codes.
    """

    codes: ir.Value
    scales: ir.Value
    zeros: ir.Value | None


def read_panels(tape: Tape, graph: ir.Graph, panels: ir.Value, shape: PanelShape) -> Read:
    """Codes, scales and zero points of a weight in panels (uint8 [panels, bytes])."""
    held: Read | None = panels.meta.get(_READ)
    if held is None:
        held = _Reader(tape, graph, shape).read(panels)
        panels.meta[_READ] = held
    return held


class _Reader:
    def __init__(self, tape: Tape, graph: ir.Graph, shape: PanelShape) -> None:
        self._tape, self._graph, self._shape = tape, graph, shape

    def read(self, panels: ir.Value) -> Read:
        shape = self._shape
        parts = self._reshaped(panels, shape.count, shape.blocks, shape.of_block)
        values = self._cut(parts, 0, shape.values)
        scales = self._binary(self._cut(parts, shape.values, shape.values + 2 * COLUMNS), _SCALE_POWERS, "scale_powers")
        zeros = self._zeros(self._cut(parts, shape.of_block - shape.offsets, shape.of_block))
        return Read(self._codes(values), self._by_row(scales), None if zeros is None else self._by_row(zeros))

    def _codes(self, values: ir.Value) -> ir.Value:
        shape = self._shape
        quads = shape.block * shape.bits // 32  # groups of sixteen columns, four bytes each
        values = self._reshaped(values, shape.count, shape.blocks, quads, COLUMNS, 4)
        if shape.bits == 8:
            values = self._op("Transpose", values, perm=[0, 3, 1, 2, 4])
            values = self._op("BitwiseXor", values, self._byte(128))
        else:
            halves = [self._reshaped(half, *(0,) * 3, 1, COLUMNS, 4) for half in self._halves(values)]
            values = self._op("Concat", *halves, axis=3)
            values = self._op("Transpose", values, perm=[0, 4, 1, 2, 3, 5])
        return self._rows(self._reshaped(values, shape.count * COLUMNS, shape.blocks, shape.block))

    def _zeros(self, held: ir.Value) -> ir.Value | None:
        """[panels, blocks, 16]"""
        shape = self._shape
        if shape.zeros == "none":
            return None
        if shape.zeros == "floats":
            zeros = self._binary(held, _HALF_POWERS, "half_powers", signed=True)
            return zeros if shape.bits == 4 else self._op("Add", zeros, scalar(self._graph, 128.0, _FLOAT))
        if shape.bits == 8:
            return self._op("BitwiseXor", held, self._byte(128))
        pairs = [self._reshaped(half, 0, 0, COLUMNS // 2, 1) for half in self._halves(held)]
        return self._reshaped(self._op("Concat", *pairs, axis=3), 0, 0, COLUMNS)

    def _binary(self, held: ir.Value, powers: Array, name: str, signed: bool = False) -> ir.Value:
        """Floating-point numbers of 16 bits, the lower byte first, ten bits of mantissa: [panels, blocks, 32 bytes] ->
        [panels, blocks, 16]. Integers and powers of two throughout, so that nothing is rounded."""
        pairs = self._op("Cast", self._reshaped(held, 0, 0, COLUMNS, 2), to=_INT)
        low, high = (self._op("Gather", pairs, self._scalar(index), axis=3) for index in (0, 1))
        negative = None
        if signed:
            negative = self._op("Div", high, self._int(128))
            high = self._op("Sub", high, self._op("Mul", negative, self._int(128)))
        exponent = self._op("Div", high, self._int(4))
        upper = self._op("Sub", high, self._op("Mul", exponent, self._int(4)))
        mantissa = self._op("Add", self._op("Mul", upper, self._int(256)), low)
        share = self._op("Mul", self._op("Cast", mantissa, to=_FLOAT), scalar(self._graph, 1 / _MANTISSA, _FLOAT))
        one = self._op("Add", share, scalar(self._graph, 1.0, _FLOAT))
        found = self._op("Mul", one, self._op("Gather", const(self._graph, powers, name), exponent, axis=0))
        if negative is None:
            return found
        sign = self._op("Sub", self._int(1), self._op("Mul", negative, self._int(2)))
        return self._op("Mul", found, self._op("Cast", sign, to=_FLOAT))

    def _halves(self, values: ir.Value) -> tuple[ir.Value, ir.Value]:
        low = self._op("BitwiseAnd", values, self._byte(15))
        return low, self._op("BitShift", values, self._byte(4), direction="RIGHT")

    def _by_row(self, values: ir.Value) -> ir.Value:
        """[panels, blocks, 16] -> [N, blocks]"""
        shape = self._shape
        turned = self._op("Transpose", values, perm=[0, 2, 1])
        return self._rows(self._reshaped(turned, shape.count * COLUMNS, shape.blocks))

    def _rows(self, values: ir.Value) -> ir.Value:
        """Without those that fill the last panel."""
        return self._cut(values, 0, self._shape.rows, axis=0) if self._shape.rows % COLUMNS else values

    def _cut(self, values: ir.Value, start: int, end: int, axis: int = 2) -> ir.Value:
        bounds = (ints(self._graph, bound) for bound in (start, end, axis))
        return self._op("Slice", values, *bounds)

    def _reshaped(self, values: ir.Value, *sizes: int) -> ir.Value:
        return self._op("Reshape", values, ints(self._graph, *sizes))

    def _op(self, name: str, *inputs: ir.Value, **attributes: Any) -> ir.Value:
        return self._tape.op(name, list(inputs), attributes)

    def _byte(self, number: int) -> ir.Value:
        return scalar(self._graph, number, _BYTE)

    def _int(self, number: int) -> ir.Value:
        return scalar(self._graph, number, _INT)

    def _scalar(self, number: int) -> ir.Value:
        return scalar(self._graph, number, ir.DataType.INT64)


def repacked(tape: Tape, graph: ir.Graph, codes: ir.Value, bits: int, rows: int, count: int) -> ir.Value:
    """Codes uint8 [rows, ..., count], one a byte, as com.microsoft's operators take them along their last axis: two of
    4 bits share a byte, the first in its low half."""
    if bits == 8:
        return codes
    if count % 2:
        codes = tape.op("Pad", [codes, ints(graph, *(0,) * 3, 1)])
        count += 1
    pairs = tape.op("Reshape", [codes, ints(graph, rows, -1, count // 2, 2)])
    low, high = (tape.op("Gather", [pairs, scalar(graph, index, ir.DataType.INT64)], {"axis": 3}) for index in (0, 1))
    shifted = tape.op("BitShift", [high, scalar(graph, 4, _BYTE)], {"direction": "LEFT"})
    return tape.op("BitwiseOr", [low, shifted])
