"""Weights in blocks of 4 or 8 bits: their layouts, as the vocabulary has them and as ``precast.cpu`` reads them.

The canonical layout is that of com.microsoft::MatMulNBits: weight uint8 [N, K / block, block * bits / 8], the first of
two 4-bit values in the low half of a byte; scales float32 [N, K / block]; zero points packed alike along K / block, or
float32 [N, K / block], without them 2^(bits - 1) is meant. https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, Literal

import numpy as np
import onnx_ir as ir
from onnx_ir.tape import Tape

from precast.graphs.dialects.base import attributes, graph_of, ints, scalar
from precast.graphs.tensors import Derived, lazy, registered, sizes

__all__ = [
    "COLUMNS",
    "KINDS",
    "Zeros",
    "dequantized",
    "gather_block_quantized",
    "matmul_nbits",
    "native_block_embedding",
    "native_block_linear",
    "offsets_of",
    "pack_bits",
    "packed_size",
    "panel_bytes",
    "panels",
    "rounded_scales",
    "unpack_bits",
    "unpacked_linear",
    "zeros_of",
]

Array = np.ndarray[Any, Any]
Zeros = Literal["none", "integers", "floats"]  # the zero points of a weight
KINDS: Final[tuple[Zeros, ...]] = ("none", "integers", "floats")  # as the kernels count them

_MS, _CPU = "com.microsoft", "precast.cpu"
_PANELS = "precast.panels"  # where a weight's metadata holds its panels

# Weight columns of a panel; runtime/kernels/linear_calls.h has the layout in words.
COLUMNS = 16
# Their scales are 16 bits of a float32: without the lowest ones, and minus those of 2^-48.
_SHIFT, _OFFSET = 13, (127 - 48) << 10


def pack_bits(values: Array, bits: int) -> Array:
    """uint8 [..., M] below 2^bits -> uint8 [..., ceil(M * bits / 8)], the first value in the lowest bits."""
    if bits == 8:
        return values
    if values.shape[-1] % 2:
        values = np.concatenate([values, np.zeros((*values.shape[:-1], 1), np.uint8)], -1)
    return np.asarray(values[..., 0::2] | values[..., 1::2] << 4)


def packed_size(count: int, bits: int) -> int:
    """Bytes that `pack_bits` makes of so many values."""
    return -(-count * bits // 8)


def unpack_bits(packed: Array, bits: int, count: int) -> Array:
    """The inverse of `pack_bits`: uint8 [..., count]."""
    if bits == 8:
        return packed
    pairs = np.stack([packed & 15, packed >> 4], -1)
    return pairs.reshape(*packed.shape[:-1], -1)[..., :count]


def offsets_of(zeros: Array | None, bits: int, blocks: int) -> Array:
    """Zero points, floats or packed integers or none, as float32 [N or 1, blocks]."""
    if zeros is None:
        return np.full((1, blocks), 2 ** (bits - 1), np.float32)
    if zeros.dtype == np.float32:
        return zeros
    return np.asarray(unpack_bits(zeros, bits, blocks), np.float32)


def dequantized(weight: Array, scales: Array, zeros: Array | None, bits: int, depth: int) -> Array:
    """float32 [N, depth] of a weight in the canonical layout."""
    blocks = scales.shape[1]
    quants = unpack_bits(weight, bits, weight.shape[2] * 8 // bits).astype(np.float32)
    values = (quants - offsets_of(zeros, bits, blocks)[..., None]) * scales[..., None]
    return np.asarray(values.reshape(len(weight), -1)[:, :depth], dtype=np.float32)


def panel_bytes(depth: int, block: int, bits: int, zeros: Zeros) -> int:
    """Bytes of one panel: values, scales of 16 bits, zero points of ``bits`` or, where they are floats, of 16."""
    blocks = -(-depth // block)
    offset = {"none": 0, "integers": bits, "floats": 16}[zeros]
    return COLUMNS * blocks * (block * bits + 16 + offset) // 8


def rounded_scales(scales: Array, up: bool = False) -> Array:
    """Scales with the eleven significant bits that the CPU kernels keep: to the nearest, or not below."""
    bits = np.ascontiguousarray(scales, np.float32).view(np.uint32)
    kept = bits + np.uint32((1 << _SHIFT) - 1 if up else 1 << (_SHIFT - 1))
    return np.asarray((kept >> _SHIFT << _SHIFT).view(np.float32))


def panels(weight: Array, scales: Array, zeros: Array | None, bits: int) -> Array:
    """A weight in the canonical layout as uint8 [ceil(N / 16), panel_bytes], what ``precast.cpu::BlockLinear`` reads.

    Scales are rounded to eleven significant bits: those of `QuantizeWeights` have no more, and neither have the half
    floats of GGUF, GPTQ and AWQ files; those of GGUF's K types do, and lose 2^-12 of their size. So do zero points that
    are floats.

    Raises:
        ValueError: a scale is negative, or it or a zero point is about 2^16 or more.
    """
    if not ((scales >= 0) & (scales < 65520)).all():
        raise ValueError("scales of block-wise weights must be at least 0 and below 65520")
    blocks = scales.shape[1]
    quants = unpack_bits(weight, bits, weight.shape[2] * 8 // bits)
    offsets = np.broadcast_to(offsets_of(zeros, bits, blocks), scales.shape)
    codes = rounded_scales(scales).view(np.uint32) >> _SHIFT
    nothing = codes < _OFFSET  # below 2^-48: a block of zeros
    # Whatever its codes are, a scale of 2^-48 or so leaves nothing of them.
    quants = np.where(nothing[..., None], np.uint8(2 ** (bits - 1)), quants)
    offsets = np.where(nothing, np.float32(2 ** (bits - 1)), offsets)
    codes = np.where(nothing, 0, codes - np.uint32(_OFFSET)).astype("<u2")
    quants, codes, offsets = (_whole(part) for part in (quants, codes, offsets))
    count = len(quants) // COLUMNS
    # Quads of channels, the columns side by side. In 4 bits, two neighbouring quads share their bytes.
    quads = quants.reshape(count, COLUMNS, blocks, -1, 4).transpose(0, 2, 3, 1, 4)
    values = quads[:, :, 0::2] | quads[:, :, 1::2] << 4 if bits == 4 else quads ^ 128
    parts = [values.reshape(count, blocks, -1), np.ascontiguousarray(_columns(codes)).view(np.uint8)]
    if zeros is not None:
        offsets = _columns(offsets)
        if zeros.dtype == np.float32:
            parts.append(np.ascontiguousarray(_halves(offsets if bits == 4 else offsets - 128)).view(np.uint8))
        else:
            parts.append(pack_bits(offsets.astype(np.uint8) if bits == 4 else offsets.astype(np.uint8) ^ 128, bits))
    return np.concatenate(parts, axis=2).reshape(count, -1)


def _kept_zeros(offsets: Array, bits: int) -> Array:
    """Zero points that are floats, as `panels` keeps them."""
    middle = np.float32(0 if bits == 4 else 128)
    return np.asarray(_halves(offsets - middle).astype(np.float32) + middle)


def _halves(offsets: Array) -> Array:
    """float16, those below its normal range zero."""
    if not (np.abs(offsets) < 65520).all():
        raise ValueError("zero points of block-wise weights must be below 65520 in size")
    halves = offsets.astype("<f2")
    return np.asarray(np.where(np.abs(halves) < np.finfo(np.float16).smallest_normal, np.float16(0), halves), "<f2")


def _whole(values: Array) -> Array:
    """Rows of zeros up to whole panels."""
    missing = -len(values) % COLUMNS
    return np.concatenate([values, np.zeros((missing, *values.shape[1:]), values.dtype)]) if missing else values


def _columns(values: Array) -> Array:
    """[count * 16, blocks] -> [count, blocks, 16], a panel's columns side by side."""
    return np.asarray(values.reshape(-1, COLUMNS, values.shape[1]).transpose(0, 2, 1))


def matmul_nbits(tape: Tape, node: ir.Node) -> Sequence[ir.Value]:
    """com.microsoft::MatMulNBits, which rounds the rows it multiplies to 8 bits (``accuracy_level`` 4).

    With 8 bits that would be four times the rounding of the weights: rows are given in two parts there, which have 15
    bits together. It also multiplies rows as they are (level 0), by weights it makes floats of anew in every call: a
    token of Gemma 3 270M takes 1.1 s so, and 0.03 s in two parts.
    """
    at = attributes(node)
    x, bias = node.inputs[0], (*node.inputs, None, None)[4]
    weight, scales = _part(node, 1, "codes"), _part(node, 2, "scales")
    whole, left = _whole_zeros(node, "columns")
    exact = at["bits"] == 8
    parts = exact and at["in"] % at["block"] == 0
    product = tape.op(
        "MatMulNBits",
        [_in_two(tape, node, x) if parts else x, weight, scales, whole],
        {
            "K": at["in"],
            "N": at["out"],
            "bits": at["bits"],
            "block_size": at["block"],
            "accuracy_level": 0 if exact and not parts else 4,
        },
        domain=_MS,
    )
    if parts:
        product = tape.op("ReduceSum", [product, ints(graph_of(node), 0)], {"keepdims": 0})
    product.dtype = ir.DataType.FLOAT
    if left is not None:
        # What a block's zero point leaves is the same for all its channels: their sum is multiplied by it.
        sums = tape.op("ReduceSum", [_by_block(tape, node, x), ints(graph_of(node), -1)], {"keepdims": 0})
        product = tape.op("Add", [product, tape.op("MatMul", [sums, left])])
    return [product if bias is None else tape.op("Add", [product, bias])]


def unpacked_linear(tape: Tape, node: ir.Node) -> Sequence[ir.Value]:
    """MatMul by a weight whose integers become floats when a session is made.

    Calls of many rows are arithmetic, not memory: MatMulNBits, which makes floats of a weight in every call or rounds
    its rows, took 1.5 times as long as MatMul for 128 rows of 384 x 1536 (2 threads of an AVX2 EPYC).
    """
    at, graph = attributes(node), graph_of(node)
    x, weight, scales, zeros, bias = (*node.inputs, None, None)[:5]
    assert weight is not None and scales is not None
    parts = [None if part is None else _tensor(part) for part in (weight, scales, zeros)]

    def compute() -> Array:
        held, factors, offsets = (None if part is None else part.numpy() for part in parts)
        assert held is not None and factors is not None
        if offsets is not None and offsets.dtype == np.float32:
            offsets = _kept_zeros(offsets, at["bits"])
        return np.ascontiguousarray(dequantized(held, rounded_scales(factors), offsets, at["bits"], at["in"]).T)

    matrix = _made(graph, node, f"{weight.name}.matrix", "matrix", compute, (at["in"], at["out"]), ir.DataType.FLOAT)
    product = tape.op("MatMul", [x, matrix])
    product.dtype = ir.DataType.FLOAT
    return [product if bias is None else tape.op("Add", [product, bias])]


def _made(
    graph: ir.Graph,
    node: ir.Node,
    name: str,
    what: str,
    compute: Callable[[], Array],
    shape: tuple[int, ...],
    dtype: ir.DataType,
) -> ir.Value:
    """An initializer that a session is given: made of the panels that hold the node's weight."""
    if name not in graph.initializers:
        registered(graph, _derived(node, name, what, compute, shape, dtype), name)
    return graph.initializers[name]


def _derived(
    node: ir.Node, name: str, what: str, compute: Callable[[], Array], shape: tuple[int, ...], dtype: ir.DataType
) -> Derived:
    at = attributes(node)
    rule = {"layout": "blocks", "what": what, "rows": at["out"], "depth": at["in"]}
    rule |= {"bits": at["bits"], "block": at["block"], "zeros": zeros_of((*node.inputs, None)[3])}
    return Derived(_panel_tensor(node), rule, compute, shape, dtype, name)


def _part(node: ir.Node, index: int, what: str) -> ir.Value:
    """The node's codes, scales or zero points that are integers, which com.microsoft's operators take as they are: made
    of its panels from now on."""
    value = node.inputs[index]
    assert value is not None
    tensor = _tensor(value)
    if not isinstance(tensor, Derived):
        compute = tensor.numpy if what != "scales" else lambda: rounded_scales(tensor.numpy())
        value.const_value = _derived(node, str(value.name), what, compute, sizes(tensor.shape), tensor.dtype)
    return value


def _in_two(tape: Tape, node: ir.Node, x: ir.Value | None) -> ir.Value:
    """[..., K] -> [2, ..., K]: what rounding each block of a row to 8 bits leaves as it is, and what it takes away.

    The steps are those of MatMulNBits, which therefore loses nothing of the first part.
    """
    graph = graph_of(node)
    blocks = _by_block(tape, node, x)
    largest = tape.op("ReduceMax", [tape.op("Abs", [blocks]), ints(graph, -1)], {"keepdims": 1})
    some = tape.op("Max", [largest, scalar(graph, 1e-30, ir.DataType.FLOAT)])  # of a block of zeros
    step = tape.op("Div", [some, scalar(graph, 127.0, ir.DataType.FLOAT)])
    rounded = tape.op("Mul", [tape.op("Round", [tape.op("Div", [blocks, step])]), step])
    upper = tape.op("Reshape", [rounded, ints(graph, *[0] * (_rank(x) - 1), attributes(node)["in"])])
    parts = [tape.op("Unsqueeze", [part, ints(graph, 0)]) for part in (upper, tape.op("Sub", [x, upper]))]
    return tape.op("Concat", parts, {"axis": 0})


def gather_block_quantized(tape: Tape, node: ir.Node) -> Sequence[ir.Value]:
    """com.microsoft::GatherBlockQuantized. It wants rows of bytes: another view of the weight that a product shares."""
    at, graph = attributes(node), graph_of(node)
    ids, weight = node.inputs[:2]
    assert weight is not None
    tensor = _tensor(weight)
    rows, blocks, size = sizes(tensor.shape)
    table = _made(
        graph, node, f"{weight.name}.rows", "rows", lambda: tensor.numpy().reshape(rows, -1), (rows, blocks * size),
        ir.DataType.UINT8,
    )  # fmt: skip
    rule = {"bits": at["bits"], "block_size": at["block"], "gather_axis": 0, "quantize_axis": 1}
    whole, left = _whole_zeros(node, "left")
    found = tape.op("GatherBlockQuantized", [table, ids, _part(node, 2, "scales"), whole], rule, domain=_MS)
    if left is not None:
        found.shape = node.outputs[0].shape
        rest = tape.op("Unsqueeze", [tape.op("Gather", [left, ids]), ints(graph, -1)])
        parts = tape.op("Add", [_by_block(tape, node, found), rest])
        found = tape.op("Reshape", [parts, ints(graph, *[0] * (_rank(found) - 1), at["in"])])
    return [found]


def _rank(value: ir.Value | None) -> int:
    if value is None or value.shape is None:
        raise ValueError("what is multiplied by a weight in blocks must have a known rank")
    return len(value.shape)


def _by_block(tape: Tape, node: ir.Node, x: ir.Value | None) -> ir.Value:
    """[..., K] -> [..., K / block, block]"""
    shape = [*[0] * (_rank(x) - 1), -1, attributes(node)["block"]]
    return tape.op("Reshape", [x, ints(graph_of(node), *shape)])


def _whole_zeros(node: ir.Node, what: Literal["left", "columns"]) -> tuple[ir.Value | None, ir.Value | None]:
    """Zero points as the operators of com.microsoft take them, and what these leave of ones that are floats.

    Those are rounded to integers; (rounded - zero) * scale is left, [N, blocks], or [blocks, N] of columns.
    MatMulNBits has a type of zero points for them too, which it multiplies ten times slower, and not in 8 bits.
    """
    scales, zeros = (*node.inputs, None)[2:4]
    if zeros is None:
        return None, None
    assert scales is not None
    at, graph, name = attributes(node), graph_of(node), str(zeros.name)
    bits, (rows, blocks) = at["bits"], sizes(scales.shape)
    held, factors = _tensor(zeros), _tensor(scales)
    shape = (rows, packed_size(blocks, bits))
    if zeros_of(zeros) == "integers":
        return _part(node, 3, "zeros"), None
    if at["in"] != blocks * at["block"]:
        raise ValueError(f"{node.inputs[1].name!r} has zero points that are floats, and no whole blocks")  # type: ignore[union-attr]

    def floats() -> Array:
        return _kept_zeros(held.numpy(), bits)

    def rounded() -> Array:
        return np.asarray(np.clip(np.rint(floats()), 0, 2**bits - 1))

    def left() -> Array:
        rest = (rounded() - floats()) * rounded_scales(factors.numpy())
        return np.ascontiguousarray(rest.T if what == "columns" else rest, np.float32)

    def packed() -> Array:
        return pack_bits(rounded().astype(np.uint8), bits)

    whole = _made(graph, node, f"{name}.whole", "zeros", packed, shape, ir.DataType.UINT8)
    rest = (blocks, rows) if what == "columns" else (rows, blocks)
    return whole, _made(graph, node, f"{name}.{what}", what, left, rest, ir.DataType.FLOAT)


def native_block_linear(tape: Tape, node: ir.Node) -> Sequence[ir.Value]:
    """precast.cpu::BlockLinear(x, panels, bias)."""
    weight, rule = _panels_of(node)
    return [tape.op("BlockLinear", [node.inputs[0], weight, (*node.inputs, None, None)[4]], rule, domain=_CPU)]


def native_block_embedding(tape: Tape, node: ir.Node) -> Sequence[ir.Value]:
    """precast.cpu::BlockEmbedding(ids, panels), of the very panels that a tied product reads."""
    weight, rule = _panels_of(node)
    return [tape.op("BlockEmbedding", [node.inputs[0], weight], rule, domain=_CPU)]


def _panels_of(node: ir.Node) -> tuple[ir.Value, dict[str, Any]]:
    """The initializer of a weight's panels, made once, and the attributes that say how to read it."""
    graph, weight, zeros = graph_of(node), node.inputs[1], (*node.inputs, None)[3]
    assert weight is not None
    name = f"{weight.name}.panels"
    if name not in graph.initializers:
        registered(graph, _panel_tensor(node), name)
    return graph.initializers[name], {**attributes(node), "zeros": KINDS.index(zeros_of(zeros))}


def _panel_tensor(node: ir.Node) -> ir.TensorProtocol:
    """The panels of a node's weight, one tensor for all that reads it, in all graphs of one trace."""
    at = attributes(node)
    weight, scales, zeros = (*node.inputs, None)[1:4]
    assert weight is not None
    tensor = _tensor(weight)
    if isinstance(tensor, Derived):
        return tensor.source
    made: ir.TensorProtocol | None = tensor.meta.get(_PANELS)
    if made is None:
        parts = [None if part is None else _tensor(part) for part in (weight, scales, zeros)]

        def compute() -> Array:
            arrays = [None if part is None else part.numpy() for part in parts]
            assert arrays[0] is not None and arrays[1] is not None
            return panels(arrays[0], arrays[1], arrays[2], at["bits"])

        shape = (-(-at["out"] // COLUMNS), panel_bytes(at["in"], at["block"], at["bits"], zeros_of(zeros)))
        made = tensor.meta[_PANELS] = lazy(compute, shape, ir.DataType.UINT8, f"{weight.name}.panels")
    return made


def zeros_of(value: ir.Value | None) -> Zeros:
    """Which zero points an operator's input of them holds."""
    if value is None:
        return "none"
    return "floats" if _tensor(value).dtype == ir.DataType.FLOAT else "integers"


def _tensor(value: ir.Value) -> ir.TensorProtocol:
    if value.const_value is None:
        raise ValueError(f"{value.name!r} is not an initializer")
    return value.const_value
