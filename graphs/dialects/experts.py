"""Mixtures of experts: as ONNX Runtime's MoE, which computes the chosen experts alone, and in standard operators."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir
from onnx_ir.tape import Tape

from precast.graphs.dialects.base import attributes, float_type, graph_of, ints, scalar
from precast.graphs.tensors import sizes

__all__ = ["dense_experts", "mixture_of_experts"]


def _count(router: ir.Value | None, gate_up: ir.Value | None) -> int:
    if gate_up is None or gate_up.shape is None:
        raise ValueError("the number of experts must be known")
    return sizes(gate_up.shape)[0]


def mixture_of_experts(tape: Tape, node: ir.Node) -> Sequence[ir.Value]:
    """MoE(input, router_probs, fc1_experts_weights, bias, fc2_experts_weights); its SwiGLU on a CPU wants gate and up
    interleaved, and it takes the router's logits, of which it normalises the chosen ones."""
    x, router, gate_up, down = node.inputs
    logits = tape.op("Reshape", [router, ints(graph_of(node), -1, _count(router, gate_up))])
    return [
        tape.op(
            "MoE",
            [x, logits, gate_up, None, down],
            {
                "k": attributes(node)["top_k"],
                "activation_type": "swiglu",
                "activation_alpha": 1.0,
                "activation_beta": 0.0,
                "swiglu_fusion": 1,
                "normalize_routing_weights": 1,
            },
            domain="com.microsoft",
        )
    ]


def dense_experts(tape: Tape, node: ir.Node) -> Sequence[ir.Value]:
    """Every expert on every token, weighted by zero where it was not chosen.

    Standard ONNX has no product over groups of rows: choosing would copy weights or take a loop, which engines for
    batches do worse than this.
    """
    graph = graph_of(node)
    x, router, gate_up, down = node.inputs
    assert x is not None and gate_up is not None and gate_up.shape is not None
    experts, doubled, hidden = sizes(gate_up.shape)
    tokens = tape.op("Transpose", [tape.op("Reshape", [x, ints(graph, -1, hidden)])], {"perm": [1, 0]})
    both = tape.op("MatMul", [gate_up, tokens])  # [E, 2I, T]
    both = tape.op("Reshape", [both, ints(graph, experts, doubled // 2, 2, -1)])
    gate, up = (tape.op("Gather", [both, scalar(graph, part, ir.DataType.INT64)], {"axis": 2}) for part in (0, 1))
    made = tape.op("Mul", [tape.op("Mul", [gate, tape.op("Sigmoid", [gate])]), up])
    made = tape.op("MatMul", [down, made])  # [E, H, T]
    logits = tape.op("Reshape", [router, ints(graph, -1, experts)])
    best, chosen = tape.op_multi_out("TopK", [logits, ints(graph, attributes(node)["top_k"])], num_outputs=2)
    shares = tape.op("Softmax", [best], {"axis": -1})
    none = tape.op("Expand", [scalar(graph, 0.0, float_type(x)), tape.op("Shape", [logits])])
    weights = tape.op("ScatterElements", [none, chosen, shares], {"axis": 1})  # [T, E]
    weights = tape.op("Unsqueeze", [tape.op("Transpose", [weights], {"perm": [1, 0]}), ints(graph, 1)])
    total = tape.op("ReduceSum", [tape.op("Mul", [made, weights]), ints(graph, 0)], {"keepdims": 0})
    return [tape.op("Reshape", [tape.op("Transpose", [total], {"perm": [1, 0]}), tape.op("Shape", [x])])]
