"""State-space recurrences in standard operators: a Scan over the steps of a text."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir
from onnx_ir.tape import Tape

from precast.graphs.dialects.base import float_type, graph_of, ints

__all__ = ["selective_scan"]


def selective_scan(tape: Tape, node: ir.Node) -> Sequence[ir.Value]:
    """Scan with the state as its loop-carried value; A comes from the graph around it."""
    graph = graph_of(node)
    x, delta, a, b, c, state = node.inputs
    name, dtype = node.outputs[0].name, float_type(x)
    entered = [ir.Value(name=f"{name}.{part}", type=ir.TensorType(dtype)) for part in ("state", "x", "delta", "B", "C")]
    before, token, step, to, back = entered  # [B, N, I], [B, I], [B, I], [B, N], [B, N]
    inner = Tape()

    def across(value: ir.Value, axis: int) -> ir.Value:
        return inner.op("Unsqueeze", [value, ints(graph, axis)])

    # Whole rows of I channels are multiplied by one number each: three times as fast as rows of N.
    decay = inner.op("Exp", [inner.op("Mul", [across(step, 1), a])])
    added = inner.op("Mul", [across(to, 2), across(inner.op("Mul", [step, token]), 1)])
    after = inner.op("Add", [inner.op("Mul", [decay, before]), added])
    made = inner.op("Squeeze", [inner.op("MatMul", [across(back, 1), after]), ints(graph, 1)])
    # Names in a body must not hide those around it.
    for index, part in enumerate(inner.nodes):
        part.name = f"{name}.step.{index}"
        part.outputs[0].name = f"{name}.step.{index}.out"
    for value in (after, made):
        value.type = ir.TensorType(dtype)
    body = ir.Graph(entered, [after, made], nodes=inner.nodes, name=f"{name}.body")
    last, output = tape.op_multi_out(
        "Scan",
        [state, x, delta, b, c],
        {
            "body": body,
            "num_scan_inputs": 4,
            "scan_input_axes": [1, 1, 1, 1],
            "scan_output_axes": [1],
        },
        num_outputs=2,
    )
    return [output, last]
