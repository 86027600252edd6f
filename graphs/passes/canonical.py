"""Give a graph one spelling of itself, so that two exports of one source are the same bytes."""

from __future__ import annotations

import onnx_ir as ir

from precast.graphs.passes.base import GraphPass

__all__ = ["Canonical"]


class Canonical(GraphPass):
    """Number nodes and values in order, sort attributes, drop documentation and unused initializers.

    Names of inputs, outputs and weights stay: they are the graph's interface.
    """

    def call(self, model: ir.Model) -> None:
        graph = model.graph
        for name in [name for name, value in graph.initializers.items() if not value.uses()]:
            del graph.initializers[name]
            self.changed += 1
        taken = {value.name for value in (*graph.inputs, *graph.outputs, *graph.initializers.values())}
        for index, node in enumerate(graph):
            node.name = f"{node.op_type}_{index}"
            node.doc_string = None
            for position, value in enumerate(node.outputs):
                if not value.is_graph_output():
                    value.name = f"{node.name}.{position}"
                    if value.name in taken:
                        raise ValueError(f"{value.name!r} is the name of a weight, input or output too")
            ordered = sorted(node.attributes.items())
            node.attributes.clear()
            node.attributes.update(ordered)
        ordered_initializers = sorted(graph.initializers.items())
        graph.initializers.clear()
        graph.initializers.update(ordered_initializers)
        model.producer_name, model.producer_version = "precast", None
        model.doc_string = None
        opsets = dict(sorted(model.opset_imports.items()))
        model.opset_imports.clear()
        model.opset_imports.update(opsets)
