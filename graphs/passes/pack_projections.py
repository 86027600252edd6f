"""One product for query, key and value of one input: their weights side by side, their outputs one tensor."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from precast.graphs.dialects.native import DOMAIN
from precast.graphs.passes.base import GraphPass, sole_consumer

__all__ = ["PackProjections"]


def _projection(node: ir.Node, value: ir.Value | None) -> tuple[ir.Value, ir.Value] | None:
    """(x, weight [in, out]) where ``value`` is their product and nothing but ``node`` reads it."""
    product = None if value is None else value.producer()
    if value is None or product is None or product.domain != "" or product.op_type != "MatMul":
        return None
    x, weight = product.inputs
    if x is None or weight is None or not weight.is_initializer() or weight.const_value is None:
        return None
    return (x, weight) if sole_consumer(value) is node and sole_consumer(weight) is product else None


class PackProjections(GraphPass):
    """Three MatMul of one input before ``precast.cpu.Attention`` become one, which it reads packed [B, S, 3 * H]."""

    def call(self, model: ir.Model) -> None:
        for node in list(model.graph):
            if node.domain == DOMAIN and node.op_type == "Attention" and node.inputs[1] is not None:
                self._pack(model.graph, node)

    def _pack(self, graph: ir.Graph, node: ir.Node) -> None:
        found = [_projection(node, value) for value in node.inputs[:3]]
        pairs = [pair for pair in found if pair is not None]
        if len(pairs) < 3:
            self.declined["a projection is something else than a product of its own"] += 1
            return
        x = pairs[0][0]
        if any(pair[0] is not x for pair in pairs):
            self.declined["query, key and value come from different inputs"] += 1
            return
        products = [value.producer() for value in node.inputs[:3] if value is not None]
        weight = _side_by_side(graph, [pair[1] for pair in pairs])
        product = ir.Node("", "MatMul", [x, weight], num_outputs=1)
        packed = product.outputs[0]
        packed.type = x.type
        assert weight.shape is not None
        packed.shape = None if x.shape is None else ir.Shape([*x.shape[:-1], weight.shape[1]])
        new = ir.Node(
            DOMAIN, "Attention", [packed, None, None, *node.inputs[3:]], node.attributes.values(), num_outputs=1
        )
        old = node.outputs[0]
        new.outputs[0].shape, new.outputs[0].type, new.outputs[0].name = old.shape, old.type, old.name
        ir.convenience.replace_nodes_and_values(graph, node, [node], [product, new], [old], [new.outputs[0]])
        for before in products:
            assert before is not None
            graph.remove(before, safe=True)
        self.changed += 1


def _side_by_side(graph: ir.Graph, weights: list[ir.Value]) -> ir.Value:
    """An initializer [in, sum of out] that is computed when it is written."""
    tensors = [weight.const_value for weight in weights]
    first = tensors[0]
    assert first is not None
    name = "+".join(str(weight.name) for weight in weights)
    shape = ir.Shape([int(first.shape[0]), sum(int(tensor.shape[1]) for tensor in tensors if tensor is not None)])

    def compute() -> ir.TensorProtocol:
        array = np.concatenate([tensor.numpy() for tensor in tensors if tensor is not None], axis=1)
        return ir.tensor(array, dtype=first.dtype, name=name)

    lazy = ir.LazyTensor(compute, dtype=first.dtype, shape=shape, name=name)
    value = ir.Value(name=name, shape=shape, type=ir.TensorType(first.dtype), const_value=lazy)
    graph.register_initializer(value)
    return value
