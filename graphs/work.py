"""What one call of a graph costs: arithmetic and memory traffic, as polynomials in the dimensions of the call.

Counted are multiplications and additions alike: a matrix product [M, K] x [K, N] is 2*M*N*K. An elementary function
(exp, tanh, erf, square root) counts as one. Traffic comes in two parts: ``bytes`` must move whatever an engine does
(weights once, inputs, outputs); ``activations`` are the values between operators, each written and read once, which
an engine with caches or fusions may keep from memory. That is the model of https://doi.org/10.1145/1498765.1498785.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import Any

import onnx_ir as ir

from precast.graphs.polynomials import ZERO, Polynomial, product
from precast.graphs.shapes import Fact, Shape, infer, key_of

__all__ = ["FREE", "PER_ELEMENT", "PER_INPUT_ELEMENT", "VIEWS", "WINDOWED", "products", "work"]

_MS, _CPU = "com.microsoft", "precast.cpu"

# No arithmetic, and no value of its own either: another reading of the same memory.
VIEWS = frozenset(("Identity", "Reshape", "Shape", "Squeeze", "Unsqueeze"))
# No arithmetic on floating-point numbers; the result is written.
_TRUTHS = ("And", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Not", "Or")
FREE = frozenset(
    (
        *(*VIEWS, *_TRUTHS, "ArgMax", "Cast", "Concat", "Expand", "Gather", "GatherElements", "Range", "ScatterND"),
        *("DepthToSpace", "Pad", "Slice", "SpaceToDepth", "Split", "Tile", "TopK", "Transpose"),
        f"{_CPU}::HalfEmbedding",
    )
)
# Operations for each element of the result.
PER_ELEMENT: Mapping[str, int] = {
    **dict.fromkeys(("Abs", "Add", "Ceil", "Clip", "Cos", "Div", "Erf", "Exp", "Floor", "Log", "Max", "Min"), 1),
    **dict.fromkeys(
        ("Mod", "Mul", "Neg", "Pow", "Reciprocal", "Relu", "Round", "Sign", "Sin", "Sqrt", "Sub", "Tanh"), 1
    ),
    "Where": 1,
    # One sided: the product, and the choice.
    **dict.fromkeys(("LeakyRelu", "PRelu"), 2),
    # exp, difference, product, choice.
    **dict.fromkeys(("Elu", "Selu"), 4),
    # Product, sum, two bounds, and of x * that.
    "HardSigmoid": 4,
    "HardSwish": 5,
    # x * tanh(softplus(x)).
    "Mish": 5,
    # exp, sum, logarithm.
    "Softplus": 3,
    "Sigmoid": 3,
    # Largest, difference, exp, sum, quotient.
    **dict.fromkeys(("LogSoftmax", "Softmax"), 5),
    # Mean, difference, square, mean of squares, quotient, weight, bias.
    **dict.fromkeys(("GroupNormalization", "InstanceNormalization", "LayerNormalization", f"{_CPU}::LayerNorm"), 7),
    # Means and variances are weights: what is left is a product and a sum.
    "BatchNormalization": 2,
    # Square, sum, quotient.
    "LpNormalization": 3,
    **dict.fromkeys((f"{_MS}::SkipLayerNormalization", f"{_CPU}::AddLayerNorm"), 8),
    # Square, mean of squares, quotient, weight.
    **dict.fromkeys(("RMSNormalization", "SimplifiedLayerNormalization", f"{_CPU}::RMSNorm"), 4),
    **dict.fromkeys((f"{_MS}::SkipSimplifiedLayerNormalization", f"{_CPU}::AddRMSNorm"), 5),
    # An activation of about five, and the product.
    f"{_CPU}::GatedActivation": 6,
    # x/2 * (1 + erf(x/sqrt(2))), and x/2 * (1 + tanh(c*(x + d*x**3))).
    **dict.fromkeys(("Gelu", f"{_MS}::Gelu", f"{_CPU}::BiasGelu"), 5),
    f"{_MS}::BiasGelu": 5,
    f"{_MS}::FastGelu": 9,
    f"{_MS}::QuickGelu": 5,
    # Two products and a sum; channels that are not turned are counted with the rest.
    **dict.fromkeys(("RotaryEmbedding", f"{_MS}::RotaryEmbedding"), 3),
    # The zero point off, the scale at it.
    **dict.fromkeys((f"{_MS}::GatherBlockQuantized", f"{_CPU}::BlockEmbedding"), 2),
}
# Operations for each element of the first input.
PER_INPUT_ELEMENT: Mapping[str, int] = {
    **dict.fromkeys(("CumSum", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd", "ReduceSum"), 1),
    **dict.fromkeys(("GlobalAveragePool", "GlobalMaxPool"), 1),
    **dict.fromkeys(("ReduceL1", "ReduceL2", "ReduceLogSumExp", "ReduceSumSquare"), 2),
}
# Bias inputs that cost an addition an element beside the above.
_BIAS = {f"{_MS}::SkipLayerNormalization": 4, f"{_CPU}::AddLayerNorm": 4, f"{_MS}::FastGelu": 1}
_BIAS.update({f"{_MS}::BiasGelu": 1, f"{_CPU}::BiasGelu": 1})
# Their second and third outputs are their fourth and fifth inputs with the second and third appended.
_APPENDING = frozenset((f"{_MS}::GroupQueryAttention", f"{_CPU}::CachedAttention", f"{_CPU}::CachedAttentionInt8"))
# Operator -> (its tables, the input that says which rows of them are read).
_TABLES: Mapping[str, tuple[tuple[int, ...], int]] = {
    "Gather": ((0,), 1),
    "RotaryEmbedding": ((1, 2), 3),
    f"{_MS}::RotaryEmbedding": ((2, 3), 1),
    f"{_MS}::GatherBlockQuantized": ((0, 2, 3), 1),
    # Sixteen rows lie together: all of them are read for one.
    f"{_CPU}::BlockEmbedding": ((1,), 0),
    f"{_CPU}::HalfEmbedding": ((1,), 0),
}
_FLOATS = frozenset((ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.DOUBLE))


class _Uncounted(Exception):
    """The cost of a node cannot be told."""


def work(model: ir.Model) -> dict[str, Any]:
    """Cost of one call of a lowered graph, as plain data in a fixed order.

    Returns:
        ``flops``, ``bytes`` and ``activations``, each a list of terms ``{"coefficient": 2, "dimensions": {"batch": 1,
        "sequence": 2}}`` to be multiplied out and added up, where a dimension is an input's or ``min(16,sequence)``;
        and ``uncounted``: types of nodes of unknown cost, which make the figures lower bounds.
    """
    facts, uncounted = infer(model), set()

    def count(cost: Callable[[], Polynomial], blamed: str) -> Polynomial:
        try:
            return cost()
        except _Uncounted:
            uncounted.add(blamed)
            return ZERO

    flops = least = between = ZERO
    for node in model.graph:
        if all(facts[value].constant for value in node.outputs):
            continue
        flops = flops + count(lambda node=node: _flops(node, facts), key_of(node))  # type: ignore[misc]
        between = between + count(lambda node=node: _made(node, facts), key_of(node))  # type: ignore[misc]
    for value in (*model.graph.inputs, *model.graph.outputs, *model.graph.initializers.values()):
        maker = value.producer()
        blamed = str(value.name) if maker is None else key_of(maker)
        least = least + count(lambda value=value: _moved(value, facts), blamed)  # type: ignore[misc]
    return {
        "flops": flops.to_json(),
        "bytes": least.to_json(),
        "activations": between.to_json(),
        "uncounted": sorted(uncounted),
    }


def products(model: ir.Model) -> Polynomial:
    """The part of the operations that matrix products and convolutions do: what torch's FlopCounterMode counts."""
    facts, total = infer(model), ZERO
    for node in model.graph:
        if key_of(node) in _PRODUCTS and not facts[node.outputs[0]].constant:
            total = total + _PRODUCTS[key_of(node)](node, facts)
    return total


def _shape(fact: Fact | None) -> Shape:
    if fact is None or fact.shape is None:
        raise _Uncounted
    return fact.shape


def _flops(node: ir.Node, facts: Mapping[ir.Value, Fact]) -> Polynomial:
    key = key_of(node)
    if key in FREE:
        return ZERO
    result = facts[node.outputs[0]]
    if key in _PRODUCTS:
        return _PRODUCTS[key](node, facts) + _BESIDE[key](node, facts)
    if key not in PER_ELEMENT and key not in PER_INPUT_ELEMENT and key not in WINDOWED:
        raise _Uncounted
    if result.dtype is not None and result.dtype not in _FLOATS:
        return ZERO
    if key in WINDOWED:
        return product(_shape(result)) * WINDOWED[key](node, facts)
    if key in PER_INPUT_ELEMENT:
        return product(_shape(_input(node, 0, facts))) * PER_INPUT_ELEMENT[key]
    biased = key in _BIAS and _input(node, _BIAS[key], facts) is not None
    return product(_shape(result)) * (PER_ELEMENT[key] + biased)


def _window(node: ir.Node, _: Mapping[ir.Value, Fact]) -> int:
    """One for each element under a pooling's window."""
    return math.prod(_attribute(node, "kernel_shape", ()))


def _neighbours(node: ir.Node, facts: Mapping[ir.Value, Fact]) -> int:
    """A product and a sum for each element that one between them is computed from."""
    usual = "nearest" if node.op_type == "Resize" else "linear"
    along = _ALONG[_attribute(node, "mode", usual)]
    before, after = _shape(_input(node, 0, facts))[2:], _shape(facts[node.outputs[0]])[2:]
    moved = sum(a != b for a, b in zip(before, after, strict=True)) if node.op_type == "Resize" else len(after)
    return 2 * along**moved if along and moved else 0


def _input(node: ir.Node, index: int, facts: Mapping[ir.Value, Fact]) -> Fact | None:
    value = node.inputs[index] if index < len(node.inputs) else None
    return None if value is None else facts[value]


def _attribute(node: ir.Node, name: str, default: Any) -> Any:
    return node.attributes[name].value if name in node.attributes else default


def _matmul(node: ir.Node, facts: Mapping[ir.Value, Fact]) -> Polynomial:
    result, a = product(_shape(facts[node.outputs[0]])), _shape(_input(node, 0, facts))
    return result * a[-2 if _attribute(node, "transA", 0) else -1] * 2


def _scores(node: ir.Node, facts: Mapping[ir.Value, Fact]) -> Polynomial:
    """How many scores an attention computes. Keys that a window cuts off at the ends of a text are counted as seen."""
    query, key = _shape(_input(node, 0, facts)), _shape(_input(node, 1, facts))
    left, right = _attribute(node, "window_left", -1), _attribute(node, "window_right", -1)
    keys = key[1]
    if left >= 0 and right >= 0:
        keys = keys.at_most(left + right + 1) or keys
    elif right == 0:
        # Query i of S sees the first T - S + 1 + i keys.
        keys = keys - (query[1] - 1) * Fraction(1, 2)
    return query[0] * query[1] * keys * int(_attribute(node, "heads", _attribute(node, "num_heads", 1)))


def _attention(node: ir.Node, facts: Mapping[ir.Value, Fact]) -> Polynomial:
    """Queries with keys, and what Softmax makes of that with values."""
    query, result = _shape(_input(node, 0, facts)), _shape(facts[node.outputs[0]])
    heads = _attribute(node, "heads", _attribute(node, "num_heads", 1))
    sizes = (query[2] + result[2]).divided(Polynomial.of(heads))
    if sizes is None:
        raise _Uncounted
    return _scores(node, facts) * sizes * 2


def _soften(node: ir.Node, facts: Mapping[ir.Value, Fact]) -> Polynomial:
    """The scale, Softmax, a mask and a bias on scores; the bias of the three projections."""
    added = sum(_input(node, index, facts) is not None for index in (4, 5))
    total = _scores(node, facts) * (1 + PER_ELEMENT["Softmax"] + added)
    if _input(node, 3, facts) is None:
        return total
    query, key, value = (_shape(_input(node, index, facts)) for index in range(3))
    return total + product(query) + product(key) + product(value)


def _seen(node: ir.Node, facts: Mapping[ir.Value, Fact]) -> Polynomial:
    """Scores of an attention over a cache: taken for full, or as full as a window lets it be."""
    query, cache = _shape(_input(node, 0, facts)), _shape(_input(node, 3, facts))
    window = _attribute(node, "window", _attribute(node, "local_window_size", -1))
    keys = cache[2] if window < 0 else cache[2].at_most(window) or cache[2]
    return query[0] * query[1] * keys * int(_attribute(node, "heads", _attribute(node, "num_heads", 1)))


def _cached_attention(node: ir.Node, facts: Mapping[ir.Value, Fact]) -> Polynomial:
    # Of the new keys: behind the channels of a cache of integers there are their scales.
    heads = int(_attribute(node, "kv_heads", _attribute(node, "kv_num_heads", 1)))
    return _seen(node, facts) * _shape(_input(node, 1, facts))[2] * Fraction(4, heads)


def _cached_soften(node: ir.Node, facts: Mapping[ir.Value, Fact]) -> Polynomial:
    return _seen(node, facts) * (1 + PER_ELEMENT["Softmax"])


def _convolution(node: ir.Node, facts: Mapping[ir.Value, Fact]) -> Polynomial:
    """2 * elements of the result * (channels of a group * kernel): the kernel is [M, C / groups, spatial ...]."""
    return product(_shape(facts[node.outputs[0]])) * product(_shape(_input(node, 1, facts))[1:]) * 2


def _transposed_convolution(node: ir.Node, facts: Mapping[ir.Value, Fact]) -> Polynomial:
    """Each element of the input reaches a whole kernel [C, M / groups, spatial ...]."""
    return product(_shape(_input(node, 0, facts))) * product(_shape(_input(node, 1, facts))[1:]) * 2


def _biased(node: ir.Node, facts: Mapping[ir.Value, Fact]) -> Polynomial:
    return ZERO if _input(node, 2, facts) is None else product(_shape(facts[node.outputs[0]]))


def _nothing(_: ir.Node, __: Mapping[ir.Value, Fact]) -> Polynomial:
    return ZERO


# How many elements of an axis one between them is computed from.
_ALONG = {"nearest": 0, "linear": 2, "bilinear": 2, "cubic": 4, "bicubic": 4}
# Operations for each element of the result, by the node.
WINDOWED: Mapping[str, Callable[[ir.Node, Mapping[ir.Value, Fact]], int]] = {
    **dict.fromkeys(("AveragePool", "LpPool", "MaxPool"), _window),
    **dict.fromkeys(("GridSample", "Resize"), _neighbours),
}
_Cost = Callable[[ir.Node, Mapping[ir.Value, Fact]], Polynomial]
_PRODUCTS: Mapping[str, _Cost] = {
    "Conv": _convolution,
    "ConvTranspose": _transposed_convolution,
    "Gemm": _matmul,
    "MatMul": _matmul,
    "MatMulInteger": _matmul,
    f"{_MS}::FusedMatMul": _matmul,
    f"{_MS}::MatMulNBits": _matmul,
    f"{_CPU}::BlockLinear": _matmul,
    f"{_CPU}::HalfLinear": _matmul,
    f"{_MS}::GroupQueryAttention": _cached_attention,
    f"{_MS}::MultiHeadAttention": _attention,
    f"{_CPU}::CachedAttention": _cached_attention,
    f"{_CPU}::CachedAttentionInt8": _cached_attention,
    f"{_CPU}::Attention": _attention,
}
# What such a node does beside its products.
_BESIDE: Mapping[str, _Cost] = {
    "Conv": _biased,
    "ConvTranspose": _biased,
    "Gemm": _biased,
    "MatMul": _nothing,
    "MatMulInteger": _nothing,
    f"{_MS}::FusedMatMul": _nothing,
    f"{_MS}::MatMulNBits": _nothing,
    f"{_CPU}::BlockLinear": _biased,
    f"{_CPU}::HalfLinear": _biased,
    f"{_MS}::GroupQueryAttention": _cached_soften,
    f"{_MS}::MultiHeadAttention": _soften,
    f"{_CPU}::CachedAttention": _cached_soften,
    f"{_CPU}::CachedAttentionInt8": _cached_soften,
    f"{_CPU}::Attention": _soften,
}


def _bytes(fact: Fact) -> Polynomial:
    if fact.dtype is None:
        raise _Uncounted
    return product(_shape(fact)) * Fraction(fact.dtype.bitwidth, 8)


def _moved(value: ir.Value, facts: Mapping[ir.Value, Fact]) -> Polynomial:
    """Bytes of an input, an output or a weight that must move; of a table that is only looked up, the rows that are."""
    fact = facts[value]
    if not value.uses() and not value.is_graph_output():
        return ZERO
    maker = value.producer()
    if maker is not None and key_of(maker) in _APPENDING and value.index():
        # A cache written in place: the new keys or values alone.
        return _bytes(facts[maker.inputs[value.index() or 0]])  # type: ignore[index]
    if not value.is_initializer():
        return _bytes(fact)
    if fact.known is not None:
        return ZERO  # arguments of operators (axes, shapes) are no memory to speak of
    whole, shape = _bytes(fact), _shape(fact)
    rows = shape[0].number if shape else None
    read: Polynomial | None = None
    for node, index in value.uses():
        if any(made not in facts for made in node.outputs):
            return whole  # read in the body of a loop
        tables, chosen = _TABLES.get(key_of(node), ((), 0))
        picked = _input(node, chosen, facts)
        row = whole.divided(shape[0]) if rows else None
        if index not in tables or rows is None or row is None or picked is None or _attribute(node, "axis", 0) != 0:
            return whole
        # Two readers of one table may want the same rows: what the first one read is there.
        wanted = product(_shape(picked))
        read = read or (wanted.at_most(rows) or wanted) * row
    return read or ZERO


def _made(node: ir.Node, facts: Mapping[ir.Value, Fact]) -> Polynomial:
    """Bytes of the values a node makes, written and read once; what leaves the graph is counted with the outputs."""
    total = ZERO
    for value in () if key_of(node) in VIEWS else node.outputs:
        if facts[value].known is None and value.uses() and not value.is_graph_output():
            total = total + _bytes(facts[value]) * 2
    return total
