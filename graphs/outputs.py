"""The outputs of a graph, each a value with a name of its own."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

__all__ = ["name_outputs"]


def name_outputs(graph: ir.Graph, names: Sequence[str]) -> None:
    """Give the outputs these names, in order.

    One value has one name: where it is several outputs, or an input or a weight as well, an Identity stands between, as
    ONNX asks.
    """
    named: set[ir.Value] = set()
    for index, (value, name) in enumerate(zip(list(graph.outputs), names, strict=True)):
        if value in named or value.is_graph_input() or value.is_initializer():
            copy = ir.node("Identity", [value])
            copy.outputs[0].shape, copy.outputs[0].type = value.shape, value.type
            graph.append(copy)
            graph.outputs[index] = value = copy.outputs[0]
        value.name = name
        named.add(value)
