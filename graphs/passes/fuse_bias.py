"""Move the bias of a projection into the contrib operator that reads it: one pass over memory less for each."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from precast.graphs.passes.base import GraphPass, constant, sole_consumer
from precast.graphs.tensors import initializer

__all__ = ["FuseBias"]

_MS = "com.microsoft"


def _bias(value: ir.Value | None) -> tuple[ir.Value, ir.Value] | None:
    """(x, bias) where ``value`` is Add(x, vector of constants)."""
    node = None if value is None else value.producer()
    if node is None or node.domain != "" or node.op_type != "Add":
        return None
    x, bias = node.inputs
    if x is None or bias is None or constant(bias) is None or bias.shape is None or len(bias.shape) != 1:
        return None
    return x, bias


class FuseBias(GraphPass):
    """Add(x, bias) into MultiHeadAttention, SkipLayerNormalization, Gelu (as BiasGelu) and FastGelu."""

    domain = _MS

    def call(self, model: ir.Model) -> None:
        for node in list(model.graph):
            if node.domain == self.domain:
                handler = getattr(self, f"_{node.op_type.lower()}", None)
                if handler is not None:
                    handler(model.graph, node)

    def _drop(self, graph: ir.Graph, add: ir.Node) -> None:
        if not add.outputs[0].uses() and not add.outputs[0].is_graph_output():
            graph.remove(add, safe=True)
        self.changed += 1

    def _skiplayernormalization(self, graph: ir.Graph, node: ir.Node) -> None:
        self._residual_sum(graph, node)

    def _residual_sum(self, graph: ir.Graph, node: ir.Node) -> None:
        for index in (0, 1):
            value = node.inputs[index]
            found = _bias(value)
            if found is None or value is None:
                continue
            if sole_consumer(value) is not node:
                self.declined[f"{node.op_type}: the biased value has other readers"] += 1
                continue
            # Index 4 is `bias`, added to the sum of input and skip.
            padded = [*node.inputs, None, None][:4]
            padded[index] = found[0]
            add = value.producer()
            assert add is not None
            self._rebuild(graph, node, [*padded, found[1]])
            self._drop(graph, add)
            return

    def _gelu(self, graph: ir.Graph, node: ir.Node) -> None:
        self._one_input(graph, node, "BiasGelu")

    def _fastgelu(self, graph: ir.Graph, node: ir.Node) -> None:
        self._one_input(graph, node, "FastGelu")

    def _one_input(self, graph: ir.Graph, node: ir.Node, op_type: str) -> None:
        value = node.inputs[0]
        found = _bias(value)
        if found is None or value is None or len([x for x in node.inputs if x is not None]) > 1:
            return
        if sole_consumer(value) is not node:
            self.declined[f"{op_type}: the biased value has other readers"] += 1
            return
        add = value.producer()
        assert add is not None
        self._rebuild(graph, node, list(found), op_type)
        self._drop(graph, add)

    def _multiheadattention(self, graph: ir.Graph, node: ir.Node) -> None:
        self._projections(graph, node)

    def _projections(self, graph: ir.Graph, node: ir.Node) -> None:
        """Query, key and value biases become one vector [3 * H], added while heads are laid out."""
        values = list(node.inputs[:3])
        found = [_bias(value) for value in values]
        if not any(found):
            return
        if node.inputs[3] is not None:
            self.declined[f"{node.op_type}: has a bias already"] += 1
            return
        if not all(value is not None and sole_consumer(value) is node for value in values):
            self.declined[f"{node.op_type}: a biased projection has other readers"] += 1
            return
        pieces, inputs = [], []
        for value, pair in zip(values, found, strict=True):
            assert value is not None and value.shape is not None
            tensor = None if pair is None else constant(pair[1])
            width = int(value.shape[-1])  # type: ignore[arg-type]
            pieces.append(np.zeros(width, dtype=np.float32) if tensor is None else tensor.numpy())
            inputs.append(value if pair is None else pair[0])
        packed = np.concatenate([piece.astype(pieces[0].dtype) for piece in pieces])
        name = f"{node.name}.bias"
        bias = initializer(graph, packed, name)
        adds = [value.producer() for value, pair in zip(values, found, strict=True) if value and pair]
        self._rebuild(graph, node, [*inputs, bias, *node.inputs[4:]])
        for add in adds:
            assert add is not None
            self._drop(graph, add)

    def _rebuild(
        self, graph: ir.Graph, node: ir.Node, inputs: list[ir.Value | None], op_type: str | None = None
    ) -> None:
        """Replace ``node`` by one with other inputs (a node's arity is fixed once it is made)."""
        new = ir.Node(
            node.domain,
            op_type or node.op_type,
            inputs,
            node.attributes.values(),
            num_outputs=len(node.outputs),
            name=node.name,
        )
        for old, fresh in zip(node.outputs, new.outputs, strict=True):
            fresh.name, fresh.shape, fresh.type = old.name, old.shape, old.type
        ir.convenience.replace_nodes_and_values(graph, node, [node], [new], node.outputs, new.outputs)
