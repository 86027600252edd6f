"""Weights in blocks of 4 or 8 bits: their layouts, as the vocabulary has them and as ``precast.cpu`` reads them.

The canonical layout is that of com.microsoft::MatMulNBits: weight uint8 [N, K / block, block * bits / 8], the first of
two 4-bit values in the low half of a byte; scales float32 [N, K / block]; zero points packed alike along K / block,
without them 2^(bits - 1) is meant. https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from onnx_ir.tape import Tape

from precast.graphs.dialects.base import attributes, graph_of
from precast.graphs.tensors import computed, sizes

__all__ = [
    "COLUMNS",
    "dequantized",
    "gather_block_quantized",
    "matmul_nbits",
    "native_block_embedding",
    "native_block_linear",
    "pack_bits",
    "packed_size",
    "panel_bytes",
    "panels",
    "rounded_scales",
    "unpack_bits",
]

Array = np.ndarray[Any, Any]

_MS, _CPU = "com.microsoft", "precast.cpu"

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


def dequantized(weight: Array, scales: Array, zeros: Array | None, bits: int, depth: int) -> Array:
    """float32 [N, depth] of a weight in the canonical layout."""
    blocks = scales.shape[1]
    quants = unpack_bits(weight, bits, weight.shape[2] * 8 // bits).astype(np.float32)
    middle = np.float32(2 ** (bits - 1))
    offset = middle if zeros is None else unpack_bits(zeros, bits, blocks)[..., None].astype(np.float32)
    values = (quants - offset) * scales[..., None]
    return np.asarray(values.reshape(len(weight), -1)[:, :depth], dtype=np.float32)


def panel_bytes(depth: int, block: int, bits: int, zeros: bool) -> int:
    """Bytes of one panel: values, scales of 16 bits, zero points."""
    blocks = -(-depth // block)
    return COLUMNS * (blocks * block * bits // 8 + 2 * blocks) + (COLUMNS * blocks * bits // 8 if zeros else 0)


def rounded_scales(scales: Array, up: bool = False) -> Array:
    """Scales with the eleven significant bits that the CPU kernels keep: to the nearest, or not below."""
    bits = np.ascontiguousarray(scales, np.float32).view(np.uint32)
    kept = bits + np.uint32((1 << _SHIFT) - 1 if up else 1 << (_SHIFT - 1))
    return np.asarray((kept >> _SHIFT << _SHIFT).view(np.float32))


def panels(weight: Array, scales: Array, zeros: Array | None, bits: int) -> Array:
    """A weight in the canonical layout as uint8 [ceil(N / 16), panel_bytes], what ``precast.cpu::BlockLinear`` reads.

    Scales are rounded to eleven significant bits: those of `QuantizeWeights` have no more, and neither have the half
    floats of GGUF, GPTQ and AWQ files.

    Raises:
        ValueError: a scale is negative, or 2^16 or more.
    """
    if not ((scales >= 0) & (scales < 65520)).all():
        raise ValueError("scales of block-wise weights must be at least 0 and below 65520")
    blocks = scales.shape[1]
    quants = unpack_bits(weight, bits, weight.shape[2] * 8 // bits)
    offsets = np.full(scales.shape, 2 ** (bits - 1), np.uint8) if zeros is None else unpack_bits(zeros, bits, blocks)
    codes = rounded_scales(scales).view(np.uint32) >> _SHIFT
    nothing = codes < _OFFSET  # below 2^-48: a block of zeros
    quants = np.where(nothing[..., None], offsets[..., None], quants)
    codes = np.where(nothing, 0, codes - np.uint32(_OFFSET)).astype("<u2")
    quants, codes, offsets = (_whole(part) for part in (quants, codes, offsets))
    count = len(quants) // COLUMNS
    # Quads of channels, the columns side by side. In 4 bits, two neighbouring quads share their bytes.
    quads = quants.reshape(count, COLUMNS, blocks, -1, 4).transpose(0, 2, 3, 1, 4)
    values = quads[:, :, 0::2] | quads[:, :, 1::2] << 4 if bits == 4 else quads ^ 128
    parts = [values.reshape(count, blocks, -1), np.ascontiguousarray(_columns(codes)).view(np.uint8)]
    if zeros is not None:
        parts.append(pack_bits(_columns(offsets if bits == 4 else offsets ^ 128), bits))
    return np.concatenate(parts, axis=2).reshape(count, -1)


def _whole(values: Array) -> Array:
    """Rows of zeros up to whole panels."""
    missing = -len(values) % COLUMNS
    return np.concatenate([values, np.zeros((missing, *values.shape[1:]), values.dtype)]) if missing else values


def _columns(values: Array) -> Array:
    """[count * 16, blocks] -> [count, blocks, 16], a panel's columns side by side."""
    return np.asarray(values.reshape(-1, COLUMNS, values.shape[1]).transpose(0, 2, 1))


def matmul_nbits(tape: Tape, node: ir.Node) -> Sequence[ir.Value]:
    """com.microsoft::MatMulNBits. With 4 bits it quantises the rows it multiplies to 8 (``accuracy_level`` 4), with 8
    it does not: their rounding would be four times that of the weights."""
    at = attributes(node)
    x, weight, scales, zeros, bias = (*node.inputs, None, None)[:5]
    product = tape.op(
        "MatMulNBits",
        [x, weight, scales, zeros],
        {
            "K": at["in"],
            "N": at["out"],
            "bits": at["bits"],
            "block_size": at["block"],
            "accuracy_level": 4 if at["bits"] == 4 else 0,
        },
        domain=_MS,
    )
    product.dtype = ir.DataType.FLOAT
    return [product if bias is None else tape.op("Add", [product, bias])]


def gather_block_quantized(tape: Tape, node: ir.Node) -> Sequence[ir.Value]:
    """com.microsoft::GatherBlockQuantized. It wants rows of bytes: another view of the weight that a product shares."""
    at, graph = attributes(node), graph_of(node)
    ids, weight, scales, zeros = (*node.inputs, None)[:4]
    assert weight is not None
    name, tensor = f"{weight.name}.rows", _tensor(weight)
    if name not in graph.initializers:
        rows, blocks, size = sizes(tensor.shape)
        # The same bytes under another shape: a content-addressed store keeps them once.
        computed(graph, lambda: tensor.numpy().reshape(rows, -1), (rows, blocks * size), ir.DataType.UINT8, name)
    rule = {"bits": at["bits"], "block_size": at["block"], "gather_axis": 0, "quantize_axis": 1}
    inputs = [graph.initializers[name], ids, scales, zeros]
    return [tape.op("GatherBlockQuantized", inputs, rule, domain=_MS)]


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
    at, graph = attributes(node), graph_of(node)
    weight, scales, zeros = (*node.inputs, None)[1:4]
    assert weight is not None and scales is not None
    name, bits = f"{weight.name}.panels", at["bits"]
    if name not in graph.initializers:
        parts = [None if part is None else _tensor(part) for part in (weight, scales, zeros)]
        shape = (-(-at["out"] // COLUMNS), panel_bytes(at["in"], at["block"], bits, zeros is not None))

        def compute() -> Array:
            arrays = [None if part is None else part.numpy() for part in parts]
            assert arrays[0] is not None and arrays[1] is not None
            return panels(arrays[0], arrays[1], arrays[2], bits)

        computed(graph, compute, shape, ir.DataType.UINT8, name)
    return graph.initializers[name], {**at, "zeros": int(zeros is not None)}


def _tensor(value: ir.Value) -> ir.TensorProtocol:
    if value.const_value is None:
        raise ValueError(f"{value.name!r} is not an initializer")
    return value.const_value
