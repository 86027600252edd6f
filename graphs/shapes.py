"""Shapes of every value of a lowered graph, from the shapes of its inputs and weights.

Tracing leaves shapes on most values, under names that mean nothing outside it (``s53**2``), and lowering on few. Here
each operator of the closed set says what it makes, in polynomials of the inputs' dimensions; small integer tensors
(the arguments of Reshape and Range) are computed along the way. Operators: https://onnx.ai/onnx/operators/ and
https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import onnx_ir as ir

from precast.graphs.polynomials import ONE, Polynomial, product

__all__ = ["Fact", "Shape", "infer", "key_of"]

Shape = tuple[Polynomial, ...]

# Integer tensors of at most this many elements are computed.
_FEW = 64
# Ends of slices beyond this mean "to the last".
_FAR = 2**31 - 1


@dataclass(frozen=True)
class Fact:
    """What is known of a value.

    Args:
        shape: None where it could not be found.
        known: the elements of a small integer tensor, in order.
        constant: it depends on weights alone, so that an engine computes it once, when it loads.
    """

    shape: Shape | None
    dtype: ir.DataType | None = None
    known: tuple[Polynomial, ...] | None = None
    constant: bool = False


_Inputs = Sequence["Fact | None"]
_Rule = Callable[[ir.Node, _Inputs], "Fact | Sequence[Fact]"]


class _Unknown(Exception):
    """An operator's result cannot be told from what is known."""


def key_of(node: ir.Node) -> str:
    """``domain::op_type``; standard ONNX without a domain."""
    return f"{node.domain}::{node.op_type}" if node.domain else node.op_type


def infer(model: ir.Model) -> dict[ir.Value, Fact]:
    """What is known of every value of the graph."""
    graph = model.graph
    facts: dict[ir.Value, Fact] = {}
    names = {str(dim.value) for value in graph.inputs for dim in value.shape or () if isinstance(dim, ir.SymbolicDim)}
    for value in graph.inputs:
        facts[value] = Fact(_declared(value, names), value.dtype)
    for value in graph.initializers.values():
        facts[value] = Fact(_declared(value, names), value.dtype, _elements(value), constant=True)
    for node in graph:
        inputs = [None if value is None else facts.get(value, Fact(None)) for value in node.inputs]
        given = [fact for fact in inputs if fact is not None]
        try:
            made = _RULES[key_of(node)](node, inputs)
            results = [made] * len(node.outputs) if isinstance(made, Fact) else list(made)
        except (KeyError, IndexError, TypeError, ValueError, _Unknown):
            results = [Fact(_declared(value, names)) for value in node.outputs]
        constant = bool(given) and all(fact.constant for fact in given)
        for value, fact in zip(node.outputs, results, strict=False):
            dtype = value.dtype or fact.dtype or (given[0].dtype if given else None)
            facts[value] = replace(fact, dtype=dtype, constant=constant)
    return facts


def _declared(value: ir.Value, names: set[str]) -> Shape | None:
    """The shape a value carries, where all of it is numbers and dimensions of the graph's inputs."""
    if value.shape is None:
        return None
    sizes = [dim if isinstance(dim, int) else str(dim.value) for dim in value.shape]
    if any(isinstance(size, str) and size not in names for size in sizes):
        return None
    return tuple(Polynomial.of(size) for size in sizes)


def _elements(value: ir.Value) -> tuple[Polynomial, ...] | None:
    tensor = value.const_value
    if tensor is None or tensor.size > _FEW or tensor.dtype not in (ir.DataType.INT64, ir.DataType.INT32):
        return None
    return tuple(Polynomial.of(int(number)) for number in tensor.numpy().reshape(-1))


# What rules are made of


def _shape(inputs: _Inputs, index: int = 0) -> Shape:
    fact = inputs[index]
    if fact is None or fact.shape is None:
        raise _Unknown
    return fact.shape


def _fact(inputs: _Inputs, index: int) -> Fact | None:
    return inputs[index] if index < len(inputs) else None


def _known(inputs: _Inputs, index: int) -> tuple[Polynomial, ...]:
    fact = _fact(inputs, index)
    if fact is None or fact.known is None:
        raise _Unknown
    return fact.known


def _numbers(inputs: _Inputs, index: int) -> tuple[int, ...]:
    found = tuple(size.number for size in _known(inputs, index))
    numbers = tuple(number for number in found if number is not None)
    if len(numbers) != len(found):
        raise _Unknown
    return numbers


def _attribute(node: ir.Node, name: str, default: Any = None) -> Any:
    return node.attributes[name].value if name in node.attributes else default


def _width(size: Polynomial) -> int:
    if size.number is None:
        raise _Unknown
    return size.number


def _together(shapes: Sequence[Shape]) -> Shape:
    """The shape several broadcast to."""
    rank = max(len(shape) for shape in shapes)
    padded = [(ONE,) * (rank - len(shape)) + shape for shape in shapes]
    sizes = []
    for column in zip(*padded, strict=True):
        wide = [size for size in column if size != 1]
        if any(size != wide[0] for size in wide):
            raise _Unknown
        sizes.append(wide[0] if wide else ONE)
    return tuple(sizes)


def _same(_: ir.Node, inputs: _Inputs) -> Fact:
    return Fact(_shape(inputs))


def _relabelled(_: ir.Node, inputs: _Inputs) -> Fact:
    source = inputs[0]
    return Fact(_shape(inputs), known=None if source is None else source.known)


def _broadcast(_: ir.Node, inputs: _Inputs) -> Fact:
    return Fact(_together([_shape(inputs, index) for index in range(len(inputs))]))


def _truth(_: ir.Node, inputs: _Inputs) -> Fact:
    return Fact(_broadcast(_, inputs).shape, ir.DataType.BOOL)


def _where(_: ir.Node, inputs: _Inputs) -> Fact:
    return Fact(_broadcast(_, inputs).shape, inputs[1].dtype if inputs[1] else None)


def _arithmetic(operation: Callable[[Polynomial, Polynomial], Polynomial | None]) -> _Rule:
    def rule(node: ir.Node, inputs: _Inputs) -> Fact:
        shape = _broadcast(node, inputs).shape
        sides = [fact.known if fact is not None else None for fact in inputs]
        if len(sides) != 2 or sides[0] is None or sides[1] is None:
            return Fact(shape)
        count = max(len(sides[0]), len(sides[1]))
        a, b = (side * count if len(side) == 1 else side for side in sides if side is not None)
        made = [operation(x, y) for x, y in zip(a, b, strict=True)]
        return Fact(shape, known=tuple(size for size in made if size is not None) if None not in made else None)

    return rule


def _smaller(a: Polynomial, b: Polynomial) -> Polynomial | None:
    for bound, size in ((a.number, b), (b.number, a)):
        if bound is not None:
            return size.at_most(bound)
    return None


def _quotient(a: Polynomial, b: Polynomial) -> Polynomial | None:
    """Of sizes, which integers divide downwards."""
    exact = a.divided(b)
    whole = None if exact is None else exact.floored(1)  # none of halves
    return a.floored(b.number) if whole is None and b.number else whole


def _cast(node: ir.Node, inputs: _Inputs) -> Fact:
    source = inputs[0]
    return Fact(_shape(inputs), ir.DataType(_attribute(node, "to")), None if source is None else source.known)


def _shape_of(node: ir.Node, inputs: _Inputs) -> Fact:
    sizes = _shape(inputs)[_attribute(node, "start", 0) : _attribute(node, "end")]
    return Fact((Polynomial.of(len(sizes)),), ir.DataType.INT64, sizes)


def _reshape(node: ir.Node, inputs: _Inputs) -> Fact:
    source, wanted = _shape(inputs), list(_known(inputs, 1))
    if not _attribute(node, "allowzero", 0):
        wanted = [source[index] if size == 0 else size for index, size in enumerate(wanted)]
    if any(size == -1 for size in wanted):
        rest = product(source).divided(product(size for size in wanted if size != -1))
        if rest is None:
            raise _Unknown
        wanted = [rest if size == -1 else size for size in wanted]
    return Fact(tuple(wanted), known=inputs[0].known if inputs[0] else None)


def _squeeze(_: ir.Node, inputs: _Inputs) -> Fact:
    source = _shape(inputs)
    axes = {axis % len(source) for axis in _numbers(inputs, 1)} if _fact(inputs, 1) else None
    kept = [s for index, s in enumerate(source) if (s != 1 if axes is None else index not in axes)]
    return Fact(tuple(kept), known=inputs[0].known if inputs[0] else None)


def _unsqueeze(_: ir.Node, inputs: _Inputs) -> Fact:
    source, axes = list(_shape(inputs)), _numbers(inputs, 1)
    rank = len(source) + len(axes)
    for axis in sorted(axis % rank for axis in axes):
        source.insert(axis, ONE)
    return Fact(tuple(source), known=inputs[0].known if inputs[0] else None)


def _concat(node: ir.Node, inputs: _Inputs) -> Fact:
    shapes = [_shape(inputs, index) for index in range(len(inputs))]
    axis = _attribute(node, "axis") % len(shapes[0])
    total = Polynomial.of(0)
    for shape in shapes:
        total = total + shape[axis]
    parts = [fact.known for fact in inputs if fact is not None and fact.known is not None]
    whole = (
        tuple(size for part in parts for size in part) if len(parts) == len(inputs) and len(shapes[0]) == 1 else None
    )
    return Fact((*shapes[0][:axis], total, *shapes[0][axis + 1 :]), known=whole)


def _slice(_: ir.Node, inputs: _Inputs) -> Fact:
    sizes = list(_shape(inputs))
    starts, ends = _known(inputs, 1), _known(inputs, 2)
    axes = _numbers(inputs, 3) if _fact(inputs, 3) else range(len(starts))
    steps = _numbers(inputs, 4) if _fact(inputs, 4) else (1,) * len(starts)
    source = inputs[0]
    elements = None if source is None else source.known
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        size, a, b = sizes[axis], start.number, end.number
        if size.number is not None and a is not None and b is not None:
            picked = range(*slice(a, b, step).indices(size.number))
            sizes[axis] = Polynomial.of(len(picked))
            if elements is not None and len(sizes) == 1:
                elements = tuple(elements[index] for index in picked)
            continue
        if step != 1:
            raise _Unknown
        elements = None
        # Within a dimension that only the call knows, slices are taken to lie inside it.
        first = size + a if a is not None and a < 0 else start
        last = end if b is None or 0 <= b < _FAR else size if b > 0 else size + b
        sizes[axis] = last - first
    return Fact(tuple(sizes), known=elements)


def _transpose(node: ir.Node, inputs: _Inputs) -> Fact:
    source = _shape(inputs)
    return Fact(tuple(source[axis] for axis in _attribute(node, "perm", range(len(source) - 1, -1, -1))))


def _expand(_: ir.Node, inputs: _Inputs) -> Fact:
    shape, source = _together([_shape(inputs), _known(inputs, 1)]), inputs[0]
    count = product(shape).number
    if source is None or source.known is None or len(source.known) != 1 or count is None or count > _FEW:
        return Fact(shape)
    return Fact(shape, known=source.known * count)


def _gather(node: ir.Node, inputs: _Inputs) -> Fact:
    source, indices = _shape(inputs), _shape(inputs, 1)
    axis = _attribute(node, "axis", 0) % len(source)
    table, picked = inputs[0], inputs[1]
    elements = None
    if table and table.known and picked and picked.known and len(source) == 1:
        elements = tuple(table.known[index] for index in _numbers(inputs, 1))
    return Fact((*source[:axis], *indices, *source[axis + 1 :]), known=elements)


def _gather_elements(_: ir.Node, inputs: _Inputs) -> Fact:
    return Fact(_shape(inputs, 1))


def _range(_: ir.Node, inputs: _Inputs) -> Fact:
    (start,), (end,), (step,) = (_known(inputs, index) for index in range(3))
    if step != 1:
        raise _Unknown
    return Fact((end - start,))


def _reduce(node: ir.Node, inputs: _Inputs) -> Fact:
    source = _shape(inputs)
    axes = _numbers(inputs, 1) if _fact(inputs, 1) else range(len(source))
    return _reduced(source, {axis % len(source) for axis in axes}, _attribute(node, "keepdims", 1))


def _arg_max(node: ir.Node, inputs: _Inputs) -> Fact:
    source = _shape(inputs)
    made = _reduced(source, {_attribute(node, "axis", 0) % len(source)}, _attribute(node, "keepdims", 1))
    return replace(made, dtype=ir.DataType.INT64)


def _reduced(source: Shape, axes: set[int], keep: int) -> Fact:
    return Fact(tuple(ONE if i in axes else size for i, size in enumerate(source) if keep or i not in axes))


def _matmul(node: ir.Node, inputs: _Inputs) -> Fact:
    a, b = _shape(inputs), _shape(inputs, 1)
    if len(a) < 2 or len(b) < 2:
        raise _Unknown
    if _attribute(node, "transA", 0):
        a = (*a[:-2], a[-1], a[-2])
    if _attribute(node, "transB", 0):
        b = (*b[:-2], b[-1], b[-2])
    return Fact((*_together([a[:-2], b[:-2]]), a[-2], b[-1]))


def _matmul_integer(node: ir.Node, inputs: _Inputs) -> Fact:
    return replace(_matmul(node, inputs), dtype=ir.DataType.INT32)


def _attention(node: ir.Node, inputs: _Inputs) -> Fact:
    """[B, S, N*D], [B, T, G*D], [B, T, G*E] -> [B, S, N*E]."""
    query, value = _shape(inputs), _shape(inputs, 2)
    heads = _attribute(node, "heads", _attribute(node, "num_heads"))
    groups = _attribute(node, "kv_heads", heads)
    return Fact((*query[:2], Polynomial.of(_width(value[2]) // groups * heads)))


def _cached_attention(_: ir.Node, inputs: _Inputs) -> list[Fact]:
    """[B, S, N*D] and the two caches, [B, G, R, D] each."""
    caches = [inputs[index] for index in (3, 4)]
    return [Fact(_shape(inputs)), *(Fact(_shape(inputs, 3 + i), c.dtype if c else None) for i, c in enumerate(caches))]


def _floored(size: Polynomial, by: int) -> Polynomial:
    made = size.floored(by)
    if made is None:
        raise _Unknown
    return made


def _windows(node: ir.Node, spatial: Shape, kernel: Sequence[int]) -> list[Polynomial]:
    """How many positions a window of this size has along each axis."""
    count = len(spatial)
    way = _attribute(node, "auto_pad", "NOTSET")
    pads = _attribute(node, "pads", (0,) * 2 * count)
    strides, dilations = (_attribute(node, name, (1,) * count) for name in ("strides", "dilations"))
    made = []
    for axis, size in enumerate(spatial):
        begin, end, stride = pads[axis], pads[axis + count], strides[axis]
        if way in ("SAME_UPPER", "SAME_LOWER"):
            made.append(_floored(size + (stride - 1), stride))
            continue
        reach, spare = dilations[axis] * (kernel[axis] - 1), 0
        if _attribute(node, "ceil_mode", 0):
            # A window that would begin behind the last element is left out; where none can, rounding up is all.
            if reach + 1 < end + stride:
                raise _Unknown
            spare = stride - 1
        made.append(_floored(size + (begin + end - reach - 1 + spare), stride) + 1)
    return made


def _convolution(node: ir.Node, inputs: _Inputs) -> Fact:
    """[B, C, spatial ...] with a kernel [M, C / groups, spatial ...] -> [B, M, spatial ...]."""
    source, kernel = _shape(inputs), _shape(inputs, 1)
    return Fact((source[0], kernel[0], *_windows(node, source[2:], [_width(size) for size in kernel[2:]])))


def _transposed_convolution(node: ir.Node, inputs: _Inputs) -> Fact:
    """[B, C, spatial ...] with a kernel [C, M / groups, spatial ...] -> [B, M, spatial ...]."""
    source, kernel = _shape(inputs), _shape(inputs, 1)
    if _attribute(node, "auto_pad", "NOTSET") != "NOTSET" or "output_shape" in node.attributes:
        raise _Unknown
    count = len(source) - 2
    pads = _attribute(node, "pads", (0,) * 2 * count)
    strides, dilations = (_attribute(node, name, (1,) * count) for name in ("strides", "dilations"))
    beside = _attribute(node, "output_padding", (0,) * count)
    made = [
        (size - 1) * strides[axis]
        + (dilations[axis] * (_width(kernel[axis + 2]) - 1) + 1 + beside[axis] - pads[axis] - pads[axis + count])
        for axis, size in enumerate(source[2:])
    ]
    return Fact((source[0], kernel[1] * _attribute(node, "group", 1), *made))


def _pooled(node: ir.Node, inputs: _Inputs) -> list[Fact]:
    """[B, C, spatial ...] -> [B, C, windows ...], and of a largest value where it was."""
    source = _shape(inputs)
    shape = (*source[:2], *_windows(node, source[2:], _attribute(node, "kernel_shape")))
    return [Fact(shape, inputs[0].dtype if inputs[0] else None), Fact(shape, ir.DataType.INT64)]


def _pooled_whole(_: ir.Node, inputs: _Inputs) -> Fact:
    source = _shape(inputs)
    return Fact((*source[:2], *(ONE for _ in source[2:])))


def _resized(node: ir.Node, inputs: _Inputs) -> Fact:
    """(x, region, scales, sizes); either of the last two, for all axes or those of the attribute."""
    made = list(_shape(inputs))
    axes = [axis % len(made) for axis in _attribute(node, "axes", range(len(made)))]
    if _attribute(node, "keep_aspect_ratio_policy", "stretch") != "stretch":
        raise _Unknown
    if _fact(inputs, 3) is not None:
        wanted: Sequence[Polynomial] = _known(inputs, 3)
    else:
        scales = None if node.inputs[2] is None else node.inputs[2].const_value
        if scales is None:
            raise _Unknown
        exact = [Fraction(float(scale)) for scale in scales.numpy()]
        wanted = [
            _floored(made[axis] * scale.numerator, scale.denominator) for axis, scale in zip(axes, exact, strict=True)
        ]
    for axis, size in zip(axes, wanted, strict=True):
        made[axis] = size
    return Fact(tuple(made))


def _pad(_: ir.Node, inputs: _Inputs) -> Fact:
    made, pads = list(_shape(inputs)), _known(inputs, 1)
    axes = _numbers(inputs, 3) if _fact(inputs, 3) else range(len(made))
    for index, axis in enumerate(axes):
        made[axis] = made[axis] + pads[index] + pads[index + len(axes)]
    return Fact(tuple(made))


def _split(node: ir.Node, inputs: _Inputs) -> list[Fact]:
    source = _shape(inputs)
    axis = _attribute(node, "axis", 0) % len(source)
    if _fact(inputs, 1) is not None:
        parts = _known(inputs, 1)
    else:
        count = len(node.outputs)
        part = _floored(source[axis] + (count - 1), count)
        parts = (*[part] * (count - 1), source[axis] - part * (count - 1))  # the last one may be smaller
    return [Fact((*source[:axis], part, *source[axis + 1 :])) for part in parts]


def _top(node: ir.Node, inputs: _Inputs) -> list[Fact]:
    source, (count,) = list(_shape(inputs)), _known(inputs, 1)
    source[_attribute(node, "axis", -1)] = count
    shape = tuple(source)
    return [Fact(shape, inputs[0].dtype if inputs[0] else None), Fact(shape, ir.DataType.INT64)]


def _tile(_: ir.Node, inputs: _Inputs) -> Fact:
    return Fact(tuple(size * times for size, times in zip(_shape(inputs), _known(inputs, 1), strict=True)))


def _depth_to_space(node: ir.Node, inputs: _Inputs) -> Fact:
    batch, channels, height, width = _shape(inputs)
    side = _attribute(node, "blocksize")
    return Fact((batch, Polynomial.of(_width(channels) // side**2), height * side, width * side))


def _space_to_depth(node: ir.Node, inputs: _Inputs) -> Fact:
    batch, channels, height, width = _shape(inputs)
    side = _attribute(node, "blocksize")
    # A size that is no multiple is refused by the engine.
    return Fact((batch, channels * side * side, _floored(height, side), _floored(width, side)))


def _grid_sample(_: ir.Node, inputs: _Inputs) -> Fact:
    """[B, C, spatial ...] at places [B, spatial ..., axes] -> [B, C, spatial ...]."""
    return Fact((*_shape(inputs)[:2], *_shape(inputs, 1)[1:-1]))


def _block_linear(node: ir.Node, inputs: _Inputs) -> Fact:
    """[..., K] with a weight in blocks, whose attributes say how many columns it has."""
    return Fact((*_shape(inputs)[:-1], Polynomial.of(_attribute(node, "N", _attribute(node, "out")))))


def _block_embedding(node: ir.Node, inputs: _Inputs) -> Fact:
    """Ids of any shape, and a table in blocks: whole rows of bytes, or panels with attributes."""
    if "in" in node.attributes:
        return Fact((*_shape(inputs), Polynomial.of(_attribute(node, "in"))), ir.DataType.FLOAT)
    width = _width(_shape(inputs)[1]) * 8 // _attribute(node, "bits", 4)
    return Fact((*_shape(inputs, 1), Polynomial.of(width)), ir.DataType.FLOAT)


def _sum_norm(_: ir.Node, inputs: _Inputs) -> Fact:
    return Fact(_together([_shape(inputs), _shape(inputs, 1)]))


_VIEWS: Mapping[str, _Rule] = {
    "Identity": _relabelled,
    "Reshape": _reshape,
    "Shape": _shape_of,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
}
_MOVES: Mapping[str, _Rule] = {
    "Cast": _cast,
    "Concat": _concat,
    "DepthToSpace": _depth_to_space,
    "Expand": _expand,
    "Gather": _gather,
    "GatherElements": _gather_elements,
    "Pad": _pad,
    "Range": _range,
    "Slice": _slice,
    "SpaceToDepth": _space_to_depth,
    "Split": _split,
    "Tile": _tile,
    "TopK": _top,
    "Transpose": _transpose,
    "com.microsoft::GatherBlockQuantized": _block_embedding,
    "precast.cpu::BlockEmbedding": _block_embedding,
    "precast.cpu::HalfEmbedding": _block_embedding,
}
_PRODUCTS: Mapping[str, _Rule] = {
    "Conv": _convolution,
    "ConvTranspose": _transposed_convolution,
    "Gemm": _matmul,
    "MatMul": _matmul,
    "MatMulInteger": _matmul_integer,
    "com.microsoft::FusedMatMul": _matmul,
    "com.microsoft::MatMulNBits": _block_linear,
    "com.microsoft::GroupQueryAttention": _cached_attention,
    "com.microsoft::MultiHeadAttention": _attention,
    "precast.cpu::CachedAttention": _cached_attention,
    "precast.cpu::CachedAttentionInt8": _cached_attention,
    "precast.cpu::Attention": _attention,
    "precast.cpu::BlockLinear": _block_linear,
    "precast.cpu::HalfLinear": _block_linear,
}
_KEEP = (
    *("Abs", "Ceil", "Clip", "Cos", "CumSum", "Elu", "Erf", "Exp", "Floor", "Gelu", "HardSigmoid", "HardSwish"),
    *("LayerNormalization", "LeakyRelu", "Log", "LogSoftmax", "Mish", "Neg", "Not", "Reciprocal", "Relu"),
    *("RMSNormalization", "RotaryEmbedding", "Round", "ScatterND", "Selu", "Sigmoid", "Sign", "Sin", "Softmax"),
    *("Softplus", "Sqrt", "Tanh"),
    *("BatchNormalization", "GroupNormalization", "InstanceNormalization", "LpNormalization"),
    *("com.microsoft::BiasGelu", "com.microsoft::FastGelu", "com.microsoft::Gelu", "com.microsoft::QuickGelu"),
    *("com.microsoft::RotaryEmbedding", "SimplifiedLayerNormalization"),
    *("precast.cpu::BiasGelu", "precast.cpu::LayerNorm", "precast.cpu::RMSNorm", "precast.cpu::GatedActivation"),
)
_SUM_NORMS = (
    "com.microsoft::SkipLayerNormalization",
    "com.microsoft::SkipSimplifiedLayerNormalization",
    "precast.cpu::AddLayerNorm",
    "precast.cpu::AddRMSNorm",
)
_RULES: Mapping[str, _Rule] = {
    **_VIEWS,
    **_MOVES,
    **_PRODUCTS,
    **dict.fromkeys(_KEEP, _same),
    **dict.fromkeys(_SUM_NORMS, _sum_norm),
    **dict.fromkeys(("Max", "Mean", "Mod", "Pow", "PRelu", "Sum"), _broadcast),
    **dict.fromkeys(("And", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Or"), _truth),
    **dict.fromkeys(("ReduceL1", "ReduceL2", "ReduceLogSumExp", "ReduceMax", "ReduceMean", "ReduceMin"), _reduce),
    **dict.fromkeys(("ReduceProd", "ReduceSum", "ReduceSumSquare"), _reduce),
    **dict.fromkeys(("AveragePool", "LpPool", "MaxPool"), _pooled),
    **dict.fromkeys(("GlobalAveragePool", "GlobalMaxPool"), _pooled_whole),
    "Add": _arithmetic(lambda a, b: a + b),
    "ArgMax": _arg_max,
    "Div": _arithmetic(_quotient),
    "GridSample": _grid_sample,
    "Min": _arithmetic(_smaller),
    "Mul": _arithmetic(lambda a, b: a * b),
    "Resize": _resized,
    "Sub": _arithmetic(lambda a, b: a - b),
    "Where": _where,
}
