"""Weights whose every value fits 16 bits are held in them: half the file, half of what a token reads, equal numbers."""

from __future__ import annotations

from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import onnx_ir as ir

from precast.graphs import schema
from precast.graphs.passes.base import GraphPass, constant, is_spelled
from precast.graphs.tensors import lazy, registered, sizes

__all__ = ["NarrowWeights", "narrowest"]

Array = np.ndarray[Any, Any]

_FIRST = 1 << 12  # a weight of float32 shows itself in its first values
_CHUNK = 1 << 20
_NARROW = "precast.narrow"  # where a tensor's metadata holds the same weight in 16 bits
# What was found of tensors: graphs made of one trace share them.
_found: WeakKeyDictionary[ir.TensorProtocol, ir.DataType | None] = WeakKeyDictionary()


class NarrowWeights(GraphPass):
    """Linear and Gather of a float32 table become HalfLinear and HalfEmbedding, where bfloat16 or float16 hold every
    value exactly, as they do those of checkpoints that were trained or saved so. What else reads such a weight keeps it
    in float32, for all of its readers."""

    def requires(self, model: ir.Model) -> None:
        if is_spelled(model):
            raise ValueError("weights are narrowed before operators are spelled: put NarrowWeights before Lower")

    def call(self, model: ir.Model) -> None:
        graph = model.graph
        for weight in list(graph.initializers.values()):
            readers = [node for node, _ in weight.uses()]
            kinds = {_becomes(node, weight) for node in readers}
            if not kinds or kinds == {""} or weight.is_graph_output():
                continue
            tensor = constant(weight)
            if tensor is None or tensor.dtype != ir.DataType.FLOAT or len(sizes(tensor.shape)) != 2:
                continue
            if "" in kinds:
                self.declined["read by other operators too"] += 1
                continue
            dtype = narrowest(tensor)
            if dtype is None:
                self.declined["it has values of more than 16 bits"] += 1
                continue
            tied = int(len(kinds) > 1)
            narrow = registered(graph, _narrowed(tensor, dtype), f"{weight.name}.{dtype.name.lower()}")
            for node in readers:
                self._replace(graph, node, weight, narrow, tied)
            if not weight.uses():
                del graph.initializers[str(weight.name)]  # or clean-up would find it equal to what is made of it

    def _replace(self, graph: ir.Graph, node: ir.Node, weight: ir.Value, narrow: ir.Value, tied: int) -> None:
        becomes = _becomes(node, weight)
        if becomes == "HalfLinear":
            inputs = [node.inputs[0], narrow, *node.inputs[2:]]
        else:
            inputs = [node.inputs[1], narrow]
        made = ir.Node(schema.DOMAIN, becomes, inputs, [ir.AttrInt64("tied", tied)], name=node.name)
        old, new = node.outputs[0], made.outputs[0]
        new.shape, new.type, new.name = old.shape, old.type, old.name
        ir.convenience.replace_nodes_and_values(graph, node, [node], [made], [old], [new])
        self.changed += 1


def _becomes(node: ir.Node, weight: ir.Value) -> str:
    """The operator that a reader of a weight becomes; nothing where it reads it in another way."""
    if node.domain == schema.DOMAIN and node.op_type == "Linear" and node.inputs[0] is not weight:
        return "HalfLinear" if node.inputs[1] is weight else ""
    axis = node.attributes["axis"].as_int() if "axis" in node.attributes else 0
    lookup = node.domain == "" and node.op_type == "Gather" and axis == 0 and node.inputs[0] is weight
    return "HalfEmbedding" if lookup else ""


def narrowest(tensor: ir.TensorProtocol) -> ir.DataType | None:
    """BFLOAT16 or FLOAT16 where that holds every value of a float32 tensor, zeros of either sign among them, else None.
    Infinities and NaN are no weights: they stay where they can be seen."""
    if tensor not in _found:
        flat = np.ascontiguousarray(tensor.numpy()).reshape(-1)
        kinds = (ir.DataType.BFLOAT16, ir.DataType.FLOAT16)
        _found[tensor] = next((kind for kind in kinds if _holds(flat, kind)), None)
    return _found[tensor]


def _holds(flat: Array, kind: ir.DataType) -> bool:
    starts = (0, *range(min(_FIRST, len(flat)), len(flat), _CHUNK))
    ends = (*starts[1:], len(flat))
    return all(_holds_all(flat[start:end], kind) for start, end in zip(starts, ends, strict=True))


def _holds_all(values: Array, kind: ir.DataType) -> bool:
    bits = values.view(np.uint32)
    if kind == ir.DataType.BFLOAT16:
        return not (bits & np.uint32(0xFFFF)).any() and bool(np.isfinite(values).all())
    with np.errstate(over="ignore"):
        halves = values.astype(np.float16)
    return bool(np.isfinite(halves).all()) and np.array_equal(halves.astype(np.float32).view(np.uint32), bits)


def _narrowed(tensor: ir.TensorProtocol, dtype: ir.DataType) -> ir.TensorProtocol:
    made: ir.TensorProtocol | None = tensor.meta.get(_NARROW)
    if made is None:
        shape = sizes(tensor.shape)
        made = lazy(lambda: tensor.numpy().astype(dtype.numpy()), shape, dtype, tensor.name or "")
        tensor.meta[_NARROW] = made
    return made
