"""Weights in 16 bits: the layout that ``precast.cpu`` reads, and how ONNX Runtime's own operators read it too.

Every value of such a weight is one of bfloat16 or of float16: what is computed with it is what float32 weights give.
An artifact holds one layout, panels of sixteen columns (runtime/kernels/half_calls.h has it in words), of which float32
matrices are made for the graph that runs anywhere when a session is made (`precast.runtime.initializers`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from onnx_ir.tape import Tape

from precast.graphs.dialects.base import attributes, graph_of
from precast.graphs.tensors import Derived, lazy, registered, sizes

__all__ = [
    "COLUMNS",
    "half_embedding",
    "half_linear",
    "native_half_embedding",
    "native_half_linear",
    "panels",
    "unpanelled",
]

Array = np.ndarray[Any, Any]

COLUMNS = 16  # of a weight that lie together
_CPU, _MS = "precast.cpu", "com.microsoft"
# Where a tensor's metadata holds the same weight in panels; graphs made of one trace share it.
_PANELS = "precast.panels"


def panels(weight: Array) -> Array:
    """[N, K] -> [ceil(N / 16), K, 16], zeros behind the last row."""
    rows, depth = weight.shape
    whole = np.zeros((-(-rows // COLUMNS) * COLUMNS, depth), weight.dtype)
    whole[:rows] = weight
    return np.ascontiguousarray(whole.reshape(-1, COLUMNS, depth).transpose(0, 2, 1))


def unpanelled(held: Array, rows: int) -> Array:
    """The inverse of `panels`: [N, K]."""
    return np.ascontiguousarray(held.transpose(0, 2, 1).reshape(-1, held.shape[1])[:rows])


def native_half_linear(tape: Tape, node: ir.Node) -> Sequence[ir.Value]:
    """precast.cpu::HalfLinear(x, panels, bias)."""
    x, weight, bias = (*node.inputs, None)[:3]
    assert weight is not None
    held = _in_panels(graph_of(node), weight)
    return [tape.op("HalfLinear", [x, held, bias], _rule(weight), domain=_CPU)]


def native_half_embedding(tape: Tape, node: ir.Node) -> Sequence[ir.Value]:
    """precast.cpu::HalfEmbedding(ids, panels), of the very panels that a tied product reads; else rows as they lie."""
    ids, weight = node.inputs
    assert weight is not None
    if not attributes(node)["tied"]:
        return _rows_of(tape, node)
    held = _in_panels(graph_of(node), weight)
    return [tape.op("HalfEmbedding", [ids, held], _rule(weight), domain=_CPU)]


def half_linear(tape: Tape, node: ir.Node) -> Sequence[ir.Value]:
    """MatMul by float32 that is made of the panels; of what an embedding shares, rows, so that there is one copy."""
    x, weight, bias = (*node.inputs, None)[:3]
    assert weight is not None
    if attributes(node)["tied"]:
        product = tape.op("FusedMatMul", [x, _matrix(node, weight, rows=True)], {"transB": 1}, domain=_MS)
    else:
        product = tape.op("MatMul", [x, _matrix(node, weight, rows=False)])
    product.dtype = ir.DataType.FLOAT
    return [product if bias is None else tape.op("Add", [product, bias])]


def half_embedding(tape: Tape, node: ir.Node) -> Sequence[ir.Value]:
    """Gather of float32 that is made of the panels a product shares; else of rows as they lie, widened when read."""
    ids, weight = node.inputs
    assert weight is not None
    if not attributes(node)["tied"]:
        return _rows_of(tape, node)
    return [tape.op("Gather", [_matrix(node, weight, rows=True), ids])]


def _rows_of(tape: Tape, node: ir.Node) -> Sequence[ir.Value]:
    ids, weight = node.inputs
    return [tape.op("Cast", [tape.op("Gather", [weight, ids])], {"to": ir.DataType.FLOAT})]


def _rule(weight: ir.Value) -> dict[str, int]:
    rows, depth = sizes(weight.shape)
    return {"float16": int(weight.dtype == ir.DataType.FLOAT16), "in": depth, "out": rows}


def _matrix(node: ir.Node, weight: ir.Value, *, rows: bool) -> ir.Value:
    """float32 [N, K], or [K, N], that a session is given: made of the panels."""
    graph, tensor = graph_of(node), _tensor(weight)
    count, depth = sizes(tensor.shape)
    what = "table" if rows else "matrix"
    name = f"{weight.name}.{what}"
    if name not in graph.initializers:
        rule = {"layout": "halves", "what": what, "rows": count, "depth": depth, "dtype": tensor.dtype.name.lower()}

        def compute() -> Array:
            wide = tensor.numpy().astype(np.float32)
            return wide if rows else np.ascontiguousarray(wide.T)

        shape = (count, depth) if rows else (depth, count)
        registered(graph, Derived(_panels_of(tensor), rule, compute, shape, ir.DataType.FLOAT, name), name)
    return graph.initializers[name]


def _in_panels(graph: ir.Graph, weight: ir.Value) -> ir.Value:
    """The initializer that holds ``weight`` in panels."""
    name = f"{weight.name}.panels"
    if name not in graph.initializers:
        registered(graph, _panels_of(_tensor(weight)), name)
    return graph.initializers[name]


def _panels_of(tensor: ir.TensorProtocol) -> ir.TensorProtocol:
    """A weight's panels, uint16; graphs made of one trace share them."""
    made: ir.TensorProtocol | None = tensor.meta.get(_PANELS)
    if made is None:
        rows, depth = sizes(tensor.shape)
        shape = (-(-rows // COLUMNS), depth, COLUMNS)
        name = f"{tensor.name}.panels"
        made = lazy(lambda: panels(tensor.numpy()).view(np.uint16), shape, ir.DataType.UINT16, name)
        tensor.meta[_PANELS] = made
    return made


def _tensor(weight: ir.Value) -> ir.TensorProtocol:
    if weight.const_value is None:
        raise ValueError(f"{weight.name!r} is not an initializer")
    return weight.const_value
