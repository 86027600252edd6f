"""Weights of linear layers and of token embeddings in blocks of 4 or 8 bits; what is multiplied by them stays float.

What a checkpoint holds in blocks already is not rounded again, where the precision and the layout can hold it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial
from typing import Any

import numpy as np
import onnx_ir as ir

from precast.graphs import schema
from precast.graphs.block_rounding import quantized, quantized_rest
from precast.graphs.block_weight import BLOCKS, META, BlockWeight, Parts
from precast.graphs.dialects.blocks import Zeros, dequantized, packed_size
from precast.graphs.passes.base import GraphPass, constant, is_spelled
from precast.graphs.tensors import lazy, registered, sizes

__all__ = ["QuantizeWeights", "Rounder", "Rounding"]

Array = np.ndarray[Any, Any]

_PARTS = "precast.parts"  # where a tensor's metadata holds what it was rounded to
REST = 4  # bits of what 8 bits leave of a weight, where they are too few: 12 in all


# Makes the parts of a weight [N, K]: of its values, bits, block, and whether there are no zero points.
Rounder = Callable[[Array, int, int, bool], Parts]


def _anew(tensor: ir.TensorProtocol, bits: int, block: int, zeros: Zeros, rounder: Rounder = quantized) -> Parts:
    return rounder(tensor.numpy(), bits, block, zeros == "none")


def _rest(tensor: ir.TensorProtocol, block: int, zeros: Zeros) -> Parts:
    return quantized_rest(tensor.numpy(), 8, block, zeros == "none", REST)


def _named(name: str, make: Callable[[], Parts]) -> Parts:
    """What ``make`` makes of a weight; an error names it."""
    try:
        return make()
    except ValueError as error:
        raise ValueError(f"weight {name!r} cannot be quantised: {error}") from error


@dataclass(frozen=True)
class Rounding:
    """A weight that is to be rounded: ``parts`` does it, ``values`` is what such parts mean, float32 [N, K]."""

    weight: ir.Value
    parts: Callable[[], Parts]
    bits: int

    def values(self, parts: Parts) -> Array:
        return dequantized(*parts, self.bits, self.shape[1])

    @property
    def shape(self) -> tuple[int, ...]:
        return sizes(self.weight.shape)


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
    that is sensitive gets 8 bits instead of 4; instead of 8 it gets 8, and 4 more for what these leave of it: a second
    product with a weight half as large, added to the first.

    Args:
        bits: 4 or 8.
        block: channels that share a scale, one of `BLOCKS`.
        symmetric: no zero points; None is what is usual: not in 4 bits, yes in 8.
        keep: names of weights (shell patterns) that stay as they are.
        sensitive: names of weights (shell patterns) that these bits are too few for.
        rounders: what rounds some weights, by name, to the bits asked for; None: each weight's own values decide.
    """

    def __init__(
        self,
        bits: int,
        block: int = 32,
        symmetric: bool | None = None,
        keep: Sequence[str] = (),
        sensitive: Sequence[str] = (),
        rounders: Mapping[str, Rounder] | None = None,
    ) -> None:
        if bits not in (4, 8):
            raise ValueError(f"bits must be 4 or 8, not {bits}")
        if block not in BLOCKS:
            raise ValueError(f"block must be one of {', '.join(map(str, BLOCKS))}, not {block}")
        self.bits, self.block = bits, block
        self.symmetric = bits == 8 if symmetric is None else symmetric
        self.keep, self.sensitive = tuple(keep), tuple(sensitive)
        self._rounders = rounders or {}
        self._last = _Last()

    @property
    def name(self) -> str:
        return f"QuantizeWeights[{self.bits}, {self.block}{', symmetric' if self.symmetric else ''}]"

    def requires(self, model: ir.Model) -> None:
        if is_spelled(model):
            raise ValueError(
                "weights are quantised before operators are spelled: put QuantizeWeights before Lower, or RaiseWeights "
                "in front of it"
            )

    def call(self, model: ir.Model) -> None:
        readers = _readers(model.graph)
        read = {reader.node for reader in readers}
        for node in model.graph:
            if _is_lookup(node) and node not in read and constant(node.inputs[0]) is not None:
                self.declined["Gather: not of tokens"] += 1
        for reader in readers:
            self._replace(model.graph, reader)

    def roundings(self, model: ir.Model) -> Iterator[Rounding]:
        """The weights that the pass would round to the bits it was made for."""
        seen = set()
        for reader in _readers(model.graph):
            weight = reader.weight
            if weight is None or weight.name in seen or self._reason(reader) or self._is_sensitive(weight):
                continue
            seen.add(weight.name)
            if self._stored(weight, self.bits)[0] is None:
                tensor = weight.const_value
                assert tensor is not None
                make = self._anew(str(weight.name), tensor, self.bits)
                yield Rounding(weight, partial(_named, str(weight.name), make), self.bits)

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

    def _is_sensitive(self, weight: ir.Value) -> bool:
        name = str(weight.name)
        return name in self.sensitive or any(fnmatchcase(name, pattern) for pattern in self.sensitive)

    def _zeros(self, bits: int) -> Zeros:
        return "none" if self.symmetric or bits != self.bits else "integers"

    def _anew(self, name: str, tensor: ir.TensorProtocol, bits: int) -> Callable[[], Parts]:
        rounder = self._rounders.get(name, quantized) if bits == self.bits else quantized
        return partial(_anew, tensor, bits, self.block, self._zeros(bits), rounder)

    def _replace(self, graph: ir.Graph, reader: _Reader) -> None:
        node, weight, reason = reader.node, reader.weight, self._reason(reader)
        if reason or weight is None or weight.const_value is None:
            self.declined[f"{node.op_type}: {reason}"] += 1
            return
        tensor, shape, sensitive = weight.const_value, sizes(weight.const_value.shape), self._is_sensitive(weight)
        bits, block = 8 if sensitive else self.bits, self.block
        zeros = self._zeros(bits)
        make = self._anew(str(weight.name), tensor, bits)
        stored, reason = self._stored(weight, bits)
        if stored is not None:
            bits, block, zeros, make = stored.bits, stored.block, stored.zeros, stored.load
        elif reason:
            self.declined[f"{node.op_type}: the checkpoint's blocks are quantised anew: {reason}"] += 1
        if reader.becomes == "BlockEmbedding" and shape[1] % block:
            self.declined[f"Gather: {shape[1]} channels are no multiple of the block"] += 1
            return
        rest = sensitive and self.bits == 8 and stored is None
        if sensitive and stored is None:
            self.declined[f"{node.op_type}: {self.bits} bits are too few, it has {8 + REST * rest}"] += 1
        name = str(weight.name)
        bias = (*node.inputs, None)[2] if reader.becomes == "BlockLinear" else None
        parts = self._parts(graph, name, tensor, bits, block, zeros, make)
        at = {"block": block, "in": shape[1], "out": shape[0]}
        made = [_reading(reader, parts, bias, {"bits": bits, **at})]
        if rest:
            find = partial(_rest, tensor, block, zeros)
            parts = self._parts(graph, f"{name}.rest", tensor, REST, block, "none", find)
            made.append(_reading(reader, parts, None, {"bits": REST, **at}, ".rest"))
            made.append(ir.Node("", "Add", [term.outputs[0] for term in made], name=f"{node.name}.whole"))
        old, fresh = node.outputs[0], made[-1].outputs[0]
        for new in made:
            new.outputs[0].shape, new.outputs[0].type = old.shape, old.type
        fresh.name = old.name
        ir.convenience.replace_nodes_and_values(graph, node, [node], made, [old], [fresh])
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
        self, graph: ir.Graph, name: str, tensor: ir.TensorProtocol, bits: int, block: int, zeros: Zeros,
        make: Callable[[], Parts],
    ) -> list[ir.Value | None]:  # fmt: skip
        """The initializers (weight, scales, zero points or None) of a weight; made once for all graphs of one trace."""
        shape, made = sizes(tensor.shape), tensor.meta.setdefault(_PARTS, {})
        names = [f"{name}.int{bits}", f"{name}.int{bits}.scales", f"{name}.int{bits}.zeros"]
        rows, blocks = shape[0], -(-shape[1] // block)

        def part(index: int) -> Array:
            if self._last.name != names[0] or self._last.parts is None:
                self._last.parts = None
                self._last.parts = _named(name, make)
                self._last.name = names[0]
            found = self._last.parts[index]
            assert found is not None
            return found

        floats = zeros == "floats"
        offsets = (rows, blocks) if floats else (rows, packed_size(blocks, bits))
        shapes = [(rows, blocks, packed_size(block, bits)), (rows, blocks), offsets]
        kinds = [ir.DataType.UINT8, ir.DataType.FLOAT, ir.DataType.FLOAT if floats else ir.DataType.UINT8]
        found: list[ir.Value | None] = []
        for index, called in enumerate(names):
            if index == 2 and zeros == "none":
                found.append(None)
                continue
            key = (called, block, zeros)
            if key not in made:
                made[key] = lazy(lambda index=index: part(index), shapes[index], kinds[index], called)  # type: ignore[misc]
            found.append(graph.initializers.get(called) or registered(graph, made[key], called))
        return found


def _reading(
    reader: _Reader,
    parts: Sequence[ir.Value | None],
    bias: ir.Value | None,
    attributes: Mapping[str, int],
    suffix: str = "",
) -> ir.Node:
    """A node that reads these parts as the reader did its weight."""
    inputs = [reader.x, *parts, *([bias] if reader.becomes == "BlockLinear" else ())]
    given = [ir.AttrInt64(key, value) for key, value in attributes.items()]
    return ir.Node(schema.DOMAIN, reader.becomes, inputs, given, name=f"{reader.node.name}{suffix}")


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
