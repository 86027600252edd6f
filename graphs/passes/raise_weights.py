"""Products by weights and lookups in 16 bits, as dialects of ONNX Runtime spell them, become operators of the
vocabulary again: so that the weights of an artifact's graph can be quantised as those of a traced one are."""

from __future__ import annotations

import re
from collections.abc import MutableMapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from precast.graphs import schema
from precast.graphs.dialects.base import TRANSPOSED
from precast.graphs.dialects.halves import unpanelled
from precast.graphs.passes.base import GraphPass, constant, sole_consumer
from precast.graphs.tensors import lazy, registered, sizes

__all__ = ["RaiseWeights"]

_MS, _CPU = "com.microsoft", "precast.cpu"
# What dialects append to a weight's name where they lay it out anew.
_LAID_OUT = re.compile(r"(\.b?float16)?(\.(T|panels|matrix|table))?$")


@dataclass(frozen=True)
class _Product:
    """x [..., K] times the transposed weight [N, K]."""

    x: ir.Value
    name: str
    weight: ir.TensorProtocol
    bias: ir.Value | None


class RaiseWeights(GraphPass):
    """MatMul by a constant matrix, FusedMatMul by a transposed one and HalfLinear become Linear, with the bias that is
    added to it; lookups in tables of 16 bits become Gather of float32.

    Args:
        weights: name -> tensor [N, K]; what several graphs of one model name alike is one tensor to all of them.
    """

    def __init__(self, weights: MutableMapping[str, ir.TensorProtocol]) -> None:
        self._weights = weights

    def call(self, model: ir.Model) -> None:
        graph = model.graph
        for node in list(graph):
            product = _product(node)
            if product is not None:
                self._linear(graph, node, product)
                continue
            table = _table(node)
            if table is not None:
                self._lookup(graph, node, *table)
        # A dialect that lays a weight out again must not find the one that this was.
        for name in [name for name, value in graph.initializers.items() if not value.uses()]:
            del graph.initializers[name]
        graph.opset_imports[schema.DOMAIN] = schema.VERSION

    def _linear(self, graph: ir.Graph, node: ir.Node, product: _Product) -> None:
        weight = self._weight(graph, product.name, product.weight)
        bias, last = product.bias, node
        added = _added(node) if bias is None else None
        if added is not None:
            last, bias = added
        made = ir.Node(schema.DOMAIN, "Linear", [product.x, weight, bias], name=node.name)
        old, fresh = last.outputs[0], made.outputs[0]
        shape = old.shape
        if shape is None and product.x.shape is not None and len(product.x.shape):
            shape = ir.Shape([*list(product.x.shape)[:-1], sizes(product.weight.shape)[0]])
        fresh.shape, fresh.type, fresh.name = shape, old.type or ir.TensorType(ir.DataType.FLOAT), old.name
        replaced = [node] if last is node else [node, last]
        ir.convenience.replace_nodes_and_values(graph, last, replaced, [made], [old], [fresh])
        self.changed += 1

    def _lookup(self, graph: ir.Graph, node: ir.Node, ids: ir.Value, name: str, table: ir.TensorProtocol) -> None:
        gather = node.inputs[0].producer() if node.op_type == "Cast" and node.inputs[0] is not None else None
        made = ir.Node("", "Gather", [self._weight(graph, name, table), ids], name=node.name)
        old, fresh = node.outputs[0], made.outputs[0]
        fresh.shape, fresh.type, fresh.name = old.shape, old.type, old.name
        replaced = [node] if gather is None else [gather, node]
        ir.convenience.replace_nodes_and_values(graph, node, replaced, [made], [old], [fresh])
        self.changed += 1

    def _weight(self, graph: ir.Graph, laid_out: str, tensor: ir.TensorProtocol) -> ir.Value:
        """The initializer of a weight, under the name that its checkpoint's module gives it."""
        name = _LAID_OUT.sub("", laid_out, count=1)
        known = self._weights.setdefault(name, tensor)
        if sizes(known.shape) != sizes(tensor.shape):
            raise ValueError(
                f"{name!r} is {list(sizes(known.shape))} in one graph and {list(sizes(tensor.shape))} here"
            )
        held = graph.initializers.get(name)
        if held is None:
            return registered(graph, known, name)
        if held.const_value is not known:
            held.const_value = known
        return held


def _product(node: ir.Node) -> _Product | None:
    """The product by a weight that a node spells, or None."""
    x, weight, *rest = (*node.inputs, None, None)[:3] if len(node.inputs) < 3 else node.inputs
    tensor = constant(weight)
    if x is None or weight is None or tensor is None or not weight.is_initializer():
        return None
    name = str(weight.name)
    kind = (node.domain, node.op_type)
    if kind == (_CPU, "HalfLinear"):
        return _Product(x, name, _from_panels(node, tensor), rest[0] if rest else None)
    if tensor.dtype != ir.DataType.FLOAT or len(sizes(tensor.shape)) != 2:
        return None
    if kind == ("", "MatMul"):
        return _Product(x, name, _turned(tensor), None)
    if kind == (_MS, "FusedMatMul") and _only(node, transB=1):
        return _Product(x, name, tensor, None)
    return None


def _only(node: ir.Node, **wanted: int) -> bool:
    """Whether a node has these attributes, and beside them none that changes what it computes."""
    neutral = {"transA": 0, "transB": 0, "transBatchA": 0, "transBatchB": 0, "alpha": 1.0}
    return {**neutral, **{name: at.value for name, at in node.attributes.items()}} == {**neutral, **wanted}


def _table(node: ir.Node) -> tuple[ir.Value, str, ir.TensorProtocol] | None:
    """(ids, name, table in float32) of a lookup in 16 bits, or None."""
    if (node.domain, node.op_type) == (_CPU, "HalfEmbedding"):
        ids, held = node.inputs
        tensor = constant(held)
        if ids is None or held is None or tensor is None:
            return None
        return ids, str(held.name), _from_panels(node, tensor)
    gather = node.inputs[0].producer() if node.op_type == "Cast" and node.inputs[0] is not None else None
    if gather is None or (gather.domain, gather.op_type) != ("", "Gather") or sole_consumer(gather.outputs[0]) is None:
        return None
    held, ids = gather.inputs
    tensor = constant(held)
    if held is None or ids is None or tensor is None or len(sizes(tensor.shape)) != 2:
        return None
    if tensor.dtype not in (ir.DataType.BFLOAT16, ir.DataType.FLOAT16):
        return None
    shape = sizes(tensor.shape)
    return ids, str(held.name), lazy(lambda: tensor.numpy().astype(np.float32), shape, ir.DataType.FLOAT, "")


def _added(node: ir.Node) -> tuple[ir.Node, ir.Value] | None:
    """(Add, bias): a vector of constants that is added to what a node makes, and to nothing else's."""
    add = sole_consumer(node.outputs[0])
    if add is None or (add.domain, add.op_type) != ("", "Add"):
        return None
    [bias] = [value for value in add.inputs if value is not node.outputs[0]] or [None]
    tensor = constant(bias)
    if bias is None or tensor is None or len(sizes(tensor.shape)) != 1:
        return None
    return add, bias


def _turned(tensor: ir.TensorProtocol) -> ir.TensorProtocol:
    """[N, K] of a tensor [K, N]; a dialect that wants it transposed finds the one it was."""
    depth, rows = sizes(tensor.shape)
    made = lazy(lambda: np.ascontiguousarray(tensor.numpy().T), (rows, depth), tensor.dtype, tensor.name or "")
    made.meta[TRANSPOSED] = tensor
    return made


def _from_panels(node: ir.Node, tensor: ir.TensorProtocol) -> ir.TensorProtocol:
    """float32 [N, K] of panels of 16 bits."""
    rows, depth = (node.attributes[name].as_int() for name in ("out", "in"))
    kind = ir.DataType.FLOAT16 if node.attributes["float16"].as_int() else ir.DataType.BFLOAT16
    return lazy(
        lambda: unpanelled(tensor.numpy(), rows).view(kind.numpy()).astype(np.float32),
        (rows, depth),
        ir.DataType.FLOAT,
        tensor.name or "",
    )
