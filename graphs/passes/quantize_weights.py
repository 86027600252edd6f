"""Weights of linear layers and of token embeddings in blocks of 4 or 8 bits; what is multiplied by them stays float.

Each block of a row has a scale and, where it is not symmetric, a zero point. In 4 bits they are searched for: of
several ranges the one wins whose least-squares scale leaves the smallest squared error of the weights. That is the
clipping of https://arxiv.org/abs/2306.00978 with the weights' own error in place of the layer's, which would need data.
What a checkpoint holds in blocks already is not rounded again, where the precision and the layout can hold it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial
from typing import Any

import numpy as np
import onnx_ir as ir

from precast.graphs import schema
from precast.graphs.block_weight import BLOCKS, META, WIDE, BlockWeight, Parts
from precast.graphs.dialects.blocks import Zeros, dequantized, pack_bits, packed_size, rounded_scales
from precast.graphs.passes.base import GraphPass, constant
from precast.graphs.tensors import computed, sizes

__all__ = ["BLOCKS", "Parts", "QuantizeWeights", "quantized"]

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
        scale, zero = _range_of_8(x, symmetric) if bits == 8 else _search(x, symmetric)
        if (scale >= 65520).any():
            raise ValueError(f"it holds numbers up to {np.abs(x).max():.3g}")
        codes = (_steps(x, scale, zero, 2**bits - 1) + zero).astype(np.uint8)
        values[part] = pack_bits(codes.T, bits).reshape(-1, *values.shape[1:])
        scales[part] = scale.reshape(-1, blocks)
        if zeros is not None:
            zeros[part] = pack_bits(zero.astype(np.uint8).reshape(-1, blocks), bits)
    return values, scales, zeros


def _anew(tensor: ir.TensorProtocol, bits: int, block: int, zeros: Zeros) -> Parts:
    return quantized(tensor.numpy(), bits, block, zeros == "none")


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


def _values(tensor: ir.TensorProtocol, block: int, zeros: Zeros) -> Array:
    return dequantized(*_anew(tensor, 4, block, zeros), 4, sizes(tensor.shape)[1])


@dataclass(frozen=True)
class _Reader:
    """A node that reads a weight, and the operator it becomes."""

    node: ir.Node
    becomes: str

    @property
    def weight(self) -> ir.Value | None:
        return self.node.inputs[1 if self.becomes == "BlockLinear" else 0]

    @property
    def x(self) -> ir.Value | None:
        """What is multiplied or looked up."""
        return self.node.inputs[0 if self.becomes == "BlockLinear" else 1]


@dataclass
class _Last:
    """The weight that was quantised last: its parts are written one after the other."""

    name: str = ""
    parts: Parts | None = None


class QuantizeWeights(GraphPass):
    """Linear and the Gather of a token embedding become BlockLinear and BlockEmbedding; a tied weight is stored once.

    Nothing is computed before a weight is written, and one weight at a time is held. A weight whose initializer has
    `Blocks` in its ``meta`` keeps their bits, block and zero points, unless it has 8 and 4 are asked for: 5 and 6 bits,
    which take 8 here, were chosen by who made the file, and little is gained by rounding them a second time. A weight
    that is `WIDE` there gets 8 bits instead of 4.

    Args:
        bits: 4 or 8.
        block: channels that share a scale, one of `BLOCKS`.
        symmetric: no zero points; None is what is usual: not in 4 bits, yes in 8.
        keep: names of weights (shell patterns) that stay as they are.
        wide: names of weights (shell patterns) that get 8 symmetric bits instead of 4.
    """

    def __init__(
        self,
        bits: int,
        block: int = 32,
        symmetric: bool | None = None,
        keep: Sequence[str] = (),
        wide: Sequence[str] = (),
    ) -> None:
        if bits not in (4, 8):
            raise ValueError(f"bits must be 4 or 8, not {bits}")
        if block not in BLOCKS:
            raise ValueError(f"block must be one of {', '.join(map(str, BLOCKS))}, not {block}")
        self.bits, self.block = bits, block
        self.symmetric = bits == 8 if symmetric is None else symmetric
        self.keep, self.wide = tuple(keep), tuple(wide)
        self._last = _Last()

    @property
    def name(self) -> str:
        return f"QuantizeWeights[{self.bits}, {self.block}{', symmetric' if self.symmetric else ''}]"

    def requires(self, model: ir.Model) -> None:
        if not any(node.domain == schema.DOMAIN for node in model.graph):
            raise ValueError("weights are quantised before operators are spelled: put QuantizeWeights before Lower")

    def call(self, model: ir.Model) -> None:
        readers = _readers(model.graph)
        read = {reader.node for reader in readers}
        for node in model.graph:
            if _is_lookup(node) and node not in read and constant(node.inputs[0]) is not None:
                self.declined["Gather: not of tokens"] += 1
        for reader in readers:
            self._replace(model.graph, reader)

    def roundings(self, model: ir.Model) -> Iterator[tuple[ir.Value, Callable[[], Array]]]:
        """The weights whose values the pass would change in 4 bits, and what it would make of them, float32 [N, K]."""
        seen = set()
        for reader in _readers(model.graph):
            weight = reader.weight
            if weight is None or weight.name in seen or self._reason(reader) or self._bits(weight) == 8:
                continue
            seen.add(weight.name)
            if self._stored(weight, 4)[0] is None:
                tensor = weight.const_value
                assert tensor is not None
                yield weight, partial(_values, tensor, self.block, self._zeros(4))

    def _reason(self, reader: _Reader) -> str:
        """Why a weight stays as it is, or nothing."""
        weight, tensor = reader.weight, constant(reader.weight)
        if weight is None or tensor is None or not weight.is_initializer():
            return "the weight is computed"
        if any(fnmatchcase(str(weight.name), pattern) for pattern in self.keep):
            return "kept"
        shape = sizes(tensor.shape)
        if tensor.dtype != ir.DataType.FLOAT or len(shape) != 2:
            return "the weight is not a float32 matrix"
        return ""

    def _bits(self, weight: ir.Value) -> int:
        patterns = any(fnmatchcase(str(weight.name), pattern) for pattern in self.wide)
        return 8 if self.bits == 8 or patterns or WIDE in weight.meta else 4

    def _zeros(self, bits: int) -> Zeros:
        return "none" if self.symmetric or bits != self.bits else "integers"

    def _replace(self, graph: ir.Graph, reader: _Reader) -> None:
        node, weight, reason = reader.node, reader.weight, self._reason(reader)
        if reason or weight is None or weight.const_value is None:
            self.declined[f"{node.op_type}: {reason}"] += 1
            return
        tensor, shape = weight.const_value, sizes(weight.const_value.shape)
        bits, block = self._bits(weight), self.block
        zeros = self._zeros(bits)
        make: Callable[[], Parts] = partial(_anew, tensor, bits, block, zeros)
        if bits != self.bits:
            self.declined[f"{node.op_type}: 4 bits are too few, it has 8"] += 1
        stored, reason = self._stored(weight, bits)
        if stored is not None:
            bits, block, zeros, make = stored.bits, stored.block, stored.zeros, stored.load
        elif reason:
            self.declined[f"{node.op_type}: the checkpoint's blocks are quantised anew: {reason}"] += 1
        if reader.becomes == "BlockEmbedding" and shape[1] % block:
            self.declined[f"Gather: {shape[1]} channels are no multiple of the block"] += 1
            return
        parts = self._parts(graph, str(weight.name), shape, bits, block, zeros, make)
        inputs = [reader.x, *parts, *((*node.inputs, None)[2:3] if reader.becomes == "BlockLinear" else ())]
        attributes = {"bits": bits, "block": block, "in": shape[1], "out": shape[0]}
        new = ir.Node(
            schema.DOMAIN, reader.becomes, inputs, [ir.AttrInt64(key, value) for key, value in attributes.items()],
            name=node.name,
        )  # fmt: skip
        old, fresh = node.outputs[0], new.outputs[0]
        fresh.name, fresh.shape, fresh.type = old.name, old.shape, old.type
        ir.convenience.replace_nodes_and_values(graph, node, [node], [new], [old], [fresh])
        self.changed += 1

    def _stored(self, weight: ir.Value, bits: int) -> tuple[BlockWeight | None, str]:
        """The blocks that the checkpoint holds this weight in, where they can be used as they are; or why not."""
        find = weight.meta.get(META)
        if find is None:
            return None, ""
        stored: BlockWeight = find()
        reason = stored.unfit
        if not reason and stored.transposed:
            reason = "its blocks lie along the outputs"
        if not reason and stored.bits > bits and stored.held is None:
            reason = f"it has {stored.bits} bits"
        if reason:
            return None, reason
        # What is multiplied by 4 bits is rounded to 8, which is nothing beside their own rounding, but far above what
        # 8 bits are asked for: the same integers are then kept in 8 bits.
        return (stored.widened() if self.bits == 8 else stored), ""

    def _parts(
        self, graph: ir.Graph, name: str, shape: tuple[int, ...], bits: int, block: int, zeros: Zeros,
        make: Callable[[], Parts],
    ) -> list[ir.Value | None]:  # fmt: skip
        """The initializers (weight, scales, zero points or None) of a weight; made once."""
        names = [f"{name}.int{bits}", f"{name}.int{bits}.scales", f"{name}.int{bits}.zeros"]
        rows, blocks = shape[0], -(-shape[1] // block)

        def part(index: int) -> Array:
            if self._last.name != names[0] or self._last.parts is None:
                self._last.parts = None
                try:
                    self._last.parts = make()
                except ValueError as error:
                    raise ValueError(f"weight {name!r} cannot be quantised: {error}") from error
                self._last.name = names[0]
            found = self._last.parts[index]
            assert found is not None
            return found

        floats = zeros == "floats"
        offsets = (rows, blocks) if floats else (rows, packed_size(blocks, bits))
        shapes = [(rows, blocks, packed_size(block, bits)), (rows, blocks), offsets]
        kinds = [ir.DataType.UINT8, ir.DataType.FLOAT, ir.DataType.FLOAT if floats else ir.DataType.UINT8]
        return [
            None
            if index == 2 and zeros == "none"
            else graph.initializers.get(names[index])
            or computed(graph, lambda index=index: part(index), shapes[index], kinds[index], names[index])  # type: ignore[misc]
            for index in range(3)
        ]


def _readers(graph: ir.Graph) -> list[_Reader]:
    """Linear layers, and lookups that are of tokens or share their table with one."""
    tied = {node.inputs[1] for node in graph if _is_linear(node)}
    found = []
    for node in graph:
        if _is_linear(node):
            found.append(_Reader(node, "BlockLinear"))
        elif _is_lookup(node) and (node.inputs[0] in tied or _is_tokens(node.inputs[1])):
            found.append(_Reader(node, "BlockEmbedding"))
    return found


def _is_linear(node: ir.Node) -> bool:
    return node.domain == schema.DOMAIN and node.op_type == "Linear"


def _is_lookup(node: ir.Node) -> bool:
    axis = node.attributes["axis"].as_int() if "axis" in node.attributes else 0
    return node.domain == "" and node.op_type == "Gather" and axis == 0


def _is_tokens(ids: ir.Value | None) -> bool:
    """Whether a lookup is by token: positions and types have tables too, small ones."""
    return ids is not None and ids.is_graph_input() and str(ids.name).endswith("input_ids")
