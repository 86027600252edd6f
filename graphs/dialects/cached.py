"""Attention over a cache: as ONNX Runtime's GroupQueryAttention, and in standard operators with an explicit scatter.

Both want a buffer with room for every token: neither takes a ring.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir
from onnx_ir.tape import Tape

from precast.graphs.dialects.base import NEVER, attributes, const, float_type, graph_of, ints, scalar, split_heads

__all__ = ["group_query_attention", "unfused_cached_attention"]

_MS = "com.microsoft"
# Head sizes GroupQueryAttention takes are multiples of this.
_GQA_MULTIPLE = 8


def _inputs(node: ir.Node) -> tuple[ir.Value | None, ...]:
    return (*node.inputs, None)[:8]


def _size(node: ir.Node) -> int:
    past = node.inputs[3]
    size = None if past is None or past.shape is None else past.shape[3]
    if not isinstance(size, int):
        raise ValueError(f"the head size of a cache must be known, got {size}")
    return size


def _length(tape: Tape, value: ir.Value | None, axis: int) -> ir.Value:
    """One dimension of a value, [1] int64."""
    return tape.op("Shape", [value], {"start": axis, "end": axis + 1})


def group_query_attention(tape: Tape, node: ir.Node) -> Sequence[ir.Value]:
    """GroupQueryAttention(query, key, value, past_key, past_value, seqlens_k, total_sequence_length, cos, sin,
    positions, attention_bias). Bound to one buffer, past and present are appended in place.

    Padded tokens count as real ones here: what they leave in the cache lies above every slot that is seen.
    """
    if _size(node) % _GQA_MULTIPLE:
        return unfused_cached_attention(tape, node)
    graph, at = graph_of(node), attributes(node)
    query, key, value, past_key, past_value, past_lengths, _, bias = _inputs(node)
    new = _length(tape, query, 1)
    one = ints(graph, 1)
    last = tape.op("Sub", [tape.op("Add", [past_lengths, new]), one])
    total = tape.op("Add", [tape.op("ReduceMax", [past_lengths], {"keepdims": 1}), new])
    if bias is not None:
        # The operator wants as many columns as there are tokens, not slots, and every head and query spelled out.
        bias = tape.op("Slice", [bias, ints(graph, 0), total, ints(graph, 3)])
        shape = tape.op("Concat", [one, one, new, one], {"axis": 0})
        bias = tape.op("Expand", [bias, shape])
    window = {"local_window_size": at["window"]} if at["window"] >= 0 else {}
    softcap = {"softcap": at["softcap"]} if at["softcap"] else {}
    lengths = tape.op("Cast", [last], {"to": ir.DataType.INT32})
    whole = tape.op("Squeeze", [tape.op("Cast", [total], {"to": ir.DataType.INT32}), ints(graph, 0)])
    optional = [] if bias is None else [None, None, None, bias]
    return tape.op_multi_out(
        "GroupQueryAttention",
        [query, key, value, past_key, past_value, lengths, whole, *optional],
        {
            "num_heads": at["heads"],
            "kv_num_heads": at["kv_heads"],
            "scale": at["scale"],
            **window,
            **softcap,
        },
        num_outputs=3,
        domain=_MS,
    )


def unfused_cached_attention(tape: Tape, node: ir.Node) -> Sequence[ir.Value]:
    """The same in standard operators: ScatterND into the cache, MatMul and Softmax over its slots."""
    graph, at = graph_of(node), attributes(node)
    query, key, value, past_key, past_value, past_lengths, _, bias = _inputs(node)
    assert query is not None and key is not None and value is not None
    heads, kv_heads, size, dtype = at["heads"], at["kv_heads"], _size(node), float_type(query)
    zero, step = scalar(graph, 0, ir.DataType.INT64), scalar(graph, 1, ir.DataType.INT64)

    def counted(length: ir.Value) -> ir.Value:
        return tape.op("Range", [zero, tape.op("Squeeze", [length, ints(graph, 0)]), step])

    rows, new, slots = _length(tape, query, 0), _length(tape, query, 1), _length(tape, past_key, 2)
    # Position of each new token [B, S], which is its slot.
    asked = tape.op("Add", [tape.op("Unsqueeze", [past_lengths, ints(graph, 1)]), counted(new)])
    row = tape.op("Expand", [tape.op("Unsqueeze", [counted(rows), ints(graph, 1)]), tape.op("Shape", [asked])])
    index = tape.op("Concat", [tape.op("Unsqueeze", [part, ints(graph, 2)]) for part in (row, asked)], {"axis": 2})

    def appended(past: ir.Value | None, fresh: ir.Value) -> ir.Value:
        by_slot = tape.op("Transpose", [past], {"perm": [0, 2, 1, 3]})
        split = tape.op("Reshape", [fresh, ints(graph, 0, 0, kv_heads, size)])
        return tape.op("Transpose", [tape.op("ScatterND", [by_slot, index, split])], {"perm": [0, 2, 1, 3]})

    present_key, present_value = appended(past_key, key), appended(past_value, value)
    q = split_heads(tape, graph, query, heads, (0, 2, 1, 3))
    k, v = tape.op("Transpose", [present_key], {"perm": [0, 1, 3, 2]}), present_value
    if heads != kv_heads:
        # Queries of a group side by side along a dimension of their own: keys are read, not repeated.
        group = heads // kv_heads
        q = tape.op("Reshape", [q, ints(graph, 0, kv_heads, group, -1, size)])
        k, v = (tape.op("Unsqueeze", [part, ints(graph, 2)]) for part in (k, v))
    scores = tape.op("MatMul", [tape.op("Mul", [q, scalar(graph, at["scale"], dtype)]), k])
    if heads != kv_heads:
        scores = tape.op("Reshape", [scores, tape.op("Concat", [ints(graph, 0, heads, -1), slots], {"axis": 0})])
    if at["softcap"]:
        cap = scalar(graph, at["softcap"], dtype)
        scores = tape.op("Mul", [tape.op("Tanh", [tape.op("Div", [scores, cap])]), cap])
    if bias is not None:
        scores = tape.op("Add", [scores, bias])
    distance = tape.op("Sub", [tape.op("Unsqueeze", [asked, ints(graph, 2)]), counted(slots)])
    seen = tape.op("GreaterOrEqual", [distance, zero])
    if at["window"] >= 0:
        near = tape.op("Less", [distance, scalar(graph, at["window"], ir.DataType.INT64)])
        seen = tape.op("And", [seen, near])
    hidden = tape.op("Where", [seen, scalar(graph, 0.0, dtype), scalar(graph, NEVER, dtype)])
    scores = tape.op("Add", [scores, tape.op("Unsqueeze", [hidden, ints(graph, 1)])])
    weights = tape.op("Softmax", [scores], {"axis": -1})
    if heads != kv_heads:
        weights = tape.op(
            "Reshape",
            [weights, tape.op("Concat", [ints(graph, 0, kv_heads, heads // kv_heads, -1), slots], {"axis": 0})],
        )
    context = tape.op("MatMul", [weights, v])
    if heads != kv_heads:
        context = tape.op("Reshape", [context, const(graph, np.array([0, heads, -1, size]), f"heads_{heads}_{size}")])
    merged = tape.op("Reshape", [tape.op("Transpose", [context], {"perm": [0, 2, 1, 3]}), ints(graph, 0, 0, -1)])
    return [merged, present_key, present_value]
