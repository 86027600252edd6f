"""A dialect: for each operator of the vocabulary, the nodes that spell it; and the spellings dialects share."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_ir as ir
from onnx_ir.tape import Tape

from precast.graphs import schema
from precast.graphs.tensors import initializer, lazy, registered, sizes

__all__ = [
    "NEVER",
    "TRANSPOSED",
    "Dialect",
    "Spelling",
    "attributes",
    "const",
    "gated",
    "layer_norm",
    "repeated_heads",
    "rotary_angles",
    "rotary_sizes",
    "seen_rows",
    "split_heads",
    "transposed",
    "unfused_attention",
    "weight_is_shared",
    "window_bias",
]

# Where a tensor's metadata holds it transposed.
TRANSPOSED = "precast.transposed"

Spelling = Callable[[Tape, ir.Node], Sequence["ir.Value | None"]]

# Added to the score of a key that may not be seen. Far below any score, yet two of them do not overflow to -inf,
# whose softmax over a whole row would be NaN.
NEVER = -1.0e30


@dataclass(frozen=True)
class Dialect:
    """One target's spelling of the operator vocabulary.

    ``state`` is what the runtime must know of its attention over caches (`precast.runtime.states.Memory`).
    """

    name: str
    spellings: Mapping[str, Spelling]
    opsets: Mapping[str, int]
    state: Mapping[str, Any] = field(default_factory=dict)


def attributes(node: ir.Node) -> dict[str, Any]:
    """The operator's attributes, defaults of the schema filled in."""
    values: dict[str, Any] = dict(schema.OPERATORS[node.op_type].attributes)
    values.update({name: attribute.value for name, attribute in node.attributes.items()})
    return values


def const(graph: ir.Graph, array: np.ndarray[Any, Any], name: str) -> ir.Value:
    """A small constant; equal ones are shared under one name."""
    if name in graph.initializers:
        return graph.initializers[name]
    return initializer(graph, array, name)


def ints(graph: ir.Graph, *numbers: int) -> ir.Value:
    """An int64 vector constant."""
    return const(graph, np.array(numbers, dtype=np.int64), "ints_" + "_".join(map(str, numbers)).replace("-", "m"))


def scalar(graph: ir.Graph, number: float, dtype: ir.DataType) -> ir.Value:
    """A scalar constant of ``dtype``."""
    return const(graph, np.array(number, dtype=dtype.numpy()), f"{dtype.name.lower()}_{number!r}")


def graph_of(node: ir.Node) -> ir.Graph:
    """The graph a node stands in."""
    graph = node.graph
    if not isinstance(graph, ir.Graph):
        raise ValueError(f"node {node.name!r} is in no graph")
    return graph


def float_type(value: ir.Value | None) -> ir.DataType:
    """The element type of a value; float32 where tracing left none."""
    return ir.DataType.FLOAT if value is None or value.dtype is None else value.dtype


def weight_is_shared(weight: ir.Value) -> bool:
    """Whether something else than matrix products reads this weight (an embedding tied to a decoder)."""
    return any(node.op_type not in ("Linear",) for node, _ in weight.uses())


def transposed(graph: ir.Graph, weight: ir.Value) -> ir.Value:
    """The initializer that holds ``weight`` [out, in] as [in, out]; made once, computed when it is written.

    Graphs made of one trace share the tensor, as they share that of ``weight``.
    """
    name = f"{weight.name}.T"
    if name in graph.initializers:
        return graph.initializers[name]
    tensor = weight.const_value
    if tensor is None:
        raise ValueError(f"{weight.name!r} is not an initializer")
    rows, columns = sizes(tensor.shape)
    turned = tensor.meta.get(TRANSPOSED)
    if turned is None:
        turned = lazy(lambda: np.ascontiguousarray(tensor.numpy().T), (columns, rows), tensor.dtype, name)
        tensor.meta[TRANSPOSED] = turned
    return registered(graph, turned, name)


def layer_norm(tape: Tape, node: ir.Node) -> Sequence[ir.Value]:
    """Standard LayerNormalization."""
    x, weight, bias = (*node.inputs, None)[:3]
    return [tape.op("LayerNormalization", [x, weight, bias], {"axis": -1, "epsilon": attributes(node)["epsilon"]})]


def rotary_angles(tape: Tape, node: ir.Node) -> Sequence[ir.Value]:
    """Cosines and sines of positions times frequencies, [B*S, R/2] each."""
    graph, at = graph_of(node), attributes(node)
    frequencies, positions = node.inputs
    dtype = float_type(frequencies)
    flat = tape.op("Cast", [tape.op("Reshape", [positions, ints(graph, -1, 1)])], {"to": dtype})
    angles = tape.op("Mul", [flat, frequencies])
    made = [tape.op(function, [angles]) for function in ("Cos", "Sin")]
    if at["scale"] != 1.0:
        made = [tape.op("Mul", [value, scalar(graph, at["scale"], dtype)]) for value in made]
    return made


def gated(activate: Mapping[str, Callable[[Tape, ir.Value, ir.Value | None], ir.Value]]) -> Spelling:
    """GatedActivation as an activation, by the name it has there, and a product."""

    def spell(tape: Tape, node: ir.Node) -> Sequence[ir.Value]:
        gate, up = node.inputs
        if gate is None:
            raise ValueError("a gated activation needs its gate")
        activated = activate[attributes(node)["activation"]](tape, gate, up)
        return [tape.op("Mul", [activated, up])]

    return spell


def _same_length(query: ir.Value | None, key: ir.Value | None) -> bool:
    """Whether queries are known to be as many as keys, or nothing is known of either."""
    lengths = [None if value is None or value.shape is None else value.shape[1] for value in (query, key)]
    return lengths[0] == lengths[1]


def window_bias(tape: Tape, node: ir.Node) -> tuple[ir.Value, ir.Value] | None:
    """(bias [1, 1, S, S] of 0 and NEVER, visible [1, S, S] bool) of a windowed or causal attention, or None.

    Common subexpression elimination leaves one copy for all layers of one window: the length is read from the mask,
    which they share, where there is one.
    """
    at = attributes(node)
    left, right = at["window_left"], at["window_right"]
    if at["causal"]:
        right = 0
    if left < 0 and right < 0:
        return None
    graph, query = graph_of(node), node.inputs[0]
    if not _same_length(query, node.inputs[1]):
        raise ValueError("a window over more keys than queries (a cache) has no spelling yet")
    mask = _mask(node)
    shared = query if mask is None else mask
    length = tape.op("Shape", [shared], {"start": 1, "end": 2})
    end = tape.op("Squeeze", [length, ints(graph, 0)])
    zero, one = (scalar(graph, number, ir.DataType.INT64) for number in (0, 1))
    positions = tape.op("Range", [zero, end, one])
    distance = tape.op(
        "Sub",
        [tape.op("Unsqueeze", [positions, ints(graph, 1)]), tape.op("Unsqueeze", [positions, ints(graph, 0)])],
    )
    parts = []
    if left >= 0:
        parts.append(tape.op("LessOrEqual", [distance, scalar(graph, left, ir.DataType.INT64)]))
    if right >= 0:
        parts.append(tape.op("GreaterOrEqual", [distance, scalar(graph, -right, ir.DataType.INT64)]))
    band = parts[0] if len(parts) == 1 else tape.op("And", parts)
    dtype = float_type(query)
    bias = tape.op("Where", [band, scalar(graph, 0.0, dtype), scalar(graph, NEVER, dtype)])
    return tape.op("Unsqueeze", [bias, ints(graph, 0, 1)]), tape.op("Unsqueeze", [band, ints(graph, 0)])


def _mask(node: ir.Node) -> ir.Value | None:
    """An attention's padding mask; a node may end before it."""
    return node.inputs[3] if len(node.inputs) > 3 else None


def seen_rows(tape: Tape, node: ir.Node, visible: ir.Value) -> ir.Value:
    """[B, S, 1] of 1 and 0: whether a query sees any key, through both its window and the padding mask."""
    graph, mask = graph_of(node), _mask(node)
    if mask is not None:
        keys = tape.op("Unsqueeze", [tape.op("Cast", [mask], {"to": ir.DataType.BOOL}), ints(graph, 1)])
        visible = tape.op("And", [visible, keys])
    return tape.op(
        "ReduceMax",
        [tape.op("Cast", [visible], {"to": float_type(node.inputs[0])}), ints(graph, -1)],
        {"keepdims": 1},
    )


def rotary_sizes(x: ir.Value | None, cos: ir.Value | None, heads: int) -> tuple[int, int]:
    """(channels of a head that are turned, channels of a head), of x [B, S, N*D] and cos [P, R/2]."""
    if x is None or x.shape is None or cos is None or cos.shape is None:
        raise ValueError("rotary positions need states and a table of known width")
    width, half = x.shape[2], cos.shape[1]
    if not isinstance(width, int) or not isinstance(half, int):
        raise ValueError(f"the hidden size and the width of the table must be known, got {width} and {half}")
    return 2 * half, width // heads


def split_heads(tape: Tape, graph: ir.Graph, x: ir.Value, heads: int, perm: Sequence[int]) -> ir.Value:
    """[B, S, N*D] -> [B, S, N, D] -> transposed by ``perm``."""
    return tape.op("Transpose", [tape.op("Reshape", [x, ints(graph, 0, 0, heads, -1)])], {"perm": list(perm)})


def repeated_heads(tape: Tape, graph: ir.Graph, x: ir.Value, heads: int, kv_heads: int) -> ir.Value:
    """[B, T, G*D] -> [B, T, N*D]: each of G heads of keys or values once for every query head that reads it."""
    if heads == kv_heads:
        return x
    if heads % kv_heads:
        raise ValueError(f"{heads} query heads cannot share {kv_heads} heads of keys and values")
    times = heads // kv_heads
    apart = tape.op("Reshape", [x, ints(graph, 0, 0, kv_heads, 1, -1)])
    repeated = tape.op("Expand", [apart, ints(graph, 1, 1, 1, times, 1)])
    made = tape.op("Reshape", [repeated, ints(graph, 0, 0, heads, -1)])
    made = tape.op("Reshape", [made, ints(graph, 0, 0, -1)])
    if x.shape is not None and isinstance(x.shape[2], int):
        made.shape = ir.Shape([*x.shape[:2], x.shape[2] * times])
    made.dtype = float_type(x)
    return made


def unfused_attention(tape: Tape, node: ir.Node) -> Sequence[ir.Value]:
    """Attention in standard MatMul and Softmax: what every target takes, and what some compute fastest."""
    graph, at = graph_of(node), attributes(node)
    query, key, value, mask, bias = (*node.inputs, None, None)[:5]
    assert query is not None and key is not None and value is not None
    key, value = (repeated_heads(tape, graph, x, at["heads"], at["kv_heads"]) for x in (key, value))
    dtype = float_type(query)
    q = split_heads(tape, graph, query, at["heads"], (0, 2, 1, 3))
    k = split_heads(tape, graph, key, at["heads"], (0, 2, 3, 1))
    v = split_heads(tape, graph, value, at["heads"], (0, 2, 1, 3))
    scores = tape.op("MatMul", [tape.op("Mul", [q, scalar(graph, at["scale"], dtype)]), k])
    if at["softcap"]:
        cap = scalar(graph, at["softcap"], dtype)
        scores = tape.op("Mul", [tape.op("Tanh", [tape.op("Div", [scores, cap])]), cap])
    window = window_bias(tape, node)
    for added in (bias, None if window is None else window[0]):
        if added is not None:
            scores = tape.op("Add", [scores, added])
    if mask is not None:
        hidden = tape.op(
            "Where",
            [
                tape.op("Cast", [mask], {"to": ir.DataType.BOOL}),
                scalar(graph, 0.0, dtype),
                scalar(graph, NEVER, dtype),
            ],
        )
        scores = tape.op("Add", [scores, tape.op("Unsqueeze", [hidden, ints(graph, 1, 2)])])
    context = tape.op("MatMul", [tape.op("Softmax", [scores], {"axis": -1}), v])
    merged = tape.op(
        "Reshape",
        [tape.op("Transpose", [context], {"perm": [0, 2, 1, 3]}), ints(graph, 0, 0, -1)],
    )
    if window is not None:
        merged = tape.op("Mul", [merged, seen_rows(tape, node, window[1])])
    return [merged]
