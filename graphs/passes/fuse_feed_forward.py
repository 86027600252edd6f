"""Two products with weights in blocks and the GELU between them become one operator."""

from __future__ import annotations

import onnx_ir as ir

from precast.graphs.dialects.native import DOMAIN
from precast.graphs.passes.base import GraphPass, sole_consumer

__all__ = ["FuseFeedForward"]

_RULE = ("bits", "block", "zeros")


class FuseFeedForward(GraphPass):
    """BlockLinear, BiasGelu, BlockLinear into BlockFeedForward, where both weights lie alike.

    What lies between, the widest activation of a transformer, is then kept as the second product reads it, and never
    written as floats where the processor multiplies tiles: 43 ms instead of 50 for MiniLM at 8x128 (one thread, AMX).
    """

    def call(self, model: ir.Model) -> None:
        for down in list(model.graph.all_nodes()):
            gelu = _only_source(down, "BiasGelu") if _is(down, "BlockLinear") else None
            up = None if gelu is None else _only_source(gelu, "BlockLinear")
            if gelu is not None and up is not None:
                self._fuse(down, gelu, up)

    def _fuse(self, down: ir.Node, gelu: ir.Node, up: ir.Node) -> None:
        first, second = _integers(up), _integers(down)
        if any(first[name] != second[name] for name in _RULE):
            self.declined["BlockFeedForward: the weights have other bits or blocks"] += 1
            return
        biases = [value for value in (*up.inputs[2:3], *gelu.inputs[1:2]) if value is not None]
        if len(biases) > 1:
            self.declined["BlockFeedForward: two biases stand before the activation"] += 1
            return
        graph = down.graph
        assert isinstance(graph, ir.Graph)
        bias = (*down.inputs, None)[2]
        rule = {name: first[name] for name in _RULE}
        rule |= {"in": first["in"], "hidden": first["out"], "out": second["out"], "tanh": _integers(gelu)["tanh"]}
        inputs = [up.inputs[0], up.inputs[1], down.inputs[1], biases[0] if biases else None, bias]
        new = ir.node("BlockFeedForward", inputs, rule, domain=DOMAIN, name=down.name)
        old, made = down.outputs[0], new.outputs[0]
        made.name, made.shape, made.type = old.name, old.shape, old.type
        ir.convenience.replace_nodes_and_values(graph, down, [down], [new], [old], [made])
        graph.remove([gelu, up], safe=True)
        self.changed += 1


def _is(node: ir.Node, op_type: str) -> bool:
    return node.domain == DOMAIN and node.op_type == op_type


def _integers(node: ir.Node) -> dict[str, int]:
    return {name: value.as_int() for name, value in node.attributes.items()}


def _only_source(node: ir.Node, op_type: str) -> ir.Node | None:
    """What computes a node's first input for it alone, where that is such an operator."""
    value = node.inputs[0]
    source = None if value is None else value.producer()
    if value is None or source is None or not _is(source, op_type) or sole_consumer(value) is not node:
        return None
    return source
