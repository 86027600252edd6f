"""ONNX Runtime's spelling: contrib operators of ``com.microsoft`` wherever they are the fused form."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import onnx_ir as ir
from onnx_ir.tape import Tape

from precast.graphs.dialects.base import (
    NEVER,
    Dialect,
    attributes,
    float_type,
    gated,
    graph_of,
    layer_norm,
    repeated_heads,
    rotary_angles,
    rotary_sizes,
    seen_rows,
    transposed,
    unfused_attention,
    weight_is_shared,
    window_bias,
)
from precast.graphs.dialects.blocks import gather_block_quantized, matmul_nbits, unpacked_linear
from precast.graphs.dialects.cached import group_query_attention
from precast.graphs.dialects.experts import mixture_of_experts
from precast.graphs.dialects.halves import half_embedding, half_linear
from precast.graphs.dialects.scan import selective_scan

__all__ = ["ONNXRUNTIME", "UNPACKED"]

_MS = "com.microsoft"


def _attention(tape: Tape, node: ir.Node) -> Sequence[ir.Value]:
    """MultiHeadAttention(query, key, value, bias, key_padding_mask, attention_bias).

    It has no grouped heads, so that keys and values are repeated, and no soft cap, which has the explicit form: the one
    operator here that has both, GroupQueryAttention, wants a cache and looks back alone.
    """
    at = attributes(node)
    if at["softcap"]:
        return unfused_attention(tape, node)
    query, key, value, mask, bias = (*node.inputs, None, None)[:5]
    assert key is not None and value is not None
    key, value = (repeated_heads(tape, graph_of(node), x, at["heads"], at["kv_heads"]) for x in (key, value))
    window = window_bias(tape, node)
    if window is not None:
        bias = window[0] if bias is None else tape.op("Add", [bias, window[0]])
    padding = None if mask is None else tape.op("Cast", [mask], {"to": ir.DataType.INT32})
    merged = tape.op(
        "MultiHeadAttention",
        [query, key, value, None, padding, bias],
        {"num_heads": at["heads"], "scale": at["scale"], "mask_filter_value": NEVER},
        domain=_MS,
    )
    if window is not None:
        merged = tape.op("Mul", [merged, seen_rows(tape, node, window[1])])
    return [merged]


def _rotary(tape: Tape, node: ir.Node) -> Sequence[ir.Value]:
    at = attributes(node)
    x, positions, cos, sin = node.inputs
    width, size = rotary_sizes(x, cos, at["heads"])
    partial = {} if width == size else {"rotary_embedding_dim": width}
    return [
        tape.op(
            "RotaryEmbedding",
            [x, positions, cos, sin],
            {"interleaved": at["interleaved"], "num_heads": at["heads"], **partial},
            domain=_MS,
        )
    ]


def _add_layer_norm(tape: Tape, node: ir.Node) -> Sequence[ir.Value | None]:
    x, residual, weight, bias = (*node.inputs, None)[:4]
    # Outputs two and three (mean, inverse deviation) are for training; the fourth is the sum.
    outputs = tape.op_multi_out(
        "SkipLayerNormalization",
        [x, residual, weight, bias],
        {"epsilon": attributes(node)["epsilon"]},
        num_outputs=4 if node.outputs[1].uses() or node.outputs[1].is_graph_output() else 1,
        domain=_MS,
    )
    return [outputs[0], outputs[3] if len(outputs) == 4 else None]


def _linear(tape: Tape, node: ir.Node) -> Sequence[ir.Value]:
    x, weight, bias = (*node.inputs, None)[:3]
    assert weight is not None
    if weight_is_shared(weight):
        # An embedding tied to this product: read as it lies, so that the artifact stores it once.
        product = tape.op("FusedMatMul", [x, weight], {"transB": 1}, domain=_MS)
    else:
        product = tape.op("MatMul", [x, transposed(graph_of(node), weight)])
    product.dtype = float_type(x)
    return [product if bias is None else tape.op("Add", [product, bias])]


def _gelu(tape: Tape, node: ir.Node) -> Sequence[ir.Value]:
    if attributes(node)["approximate"] == "tanh":
        return [tape.op("FastGelu", [node.inputs[0]], domain=_MS)]
    return [tape.op("Gelu", [node.inputs[0]], domain=_MS)]


def _rms_norm(tape: Tape, node: ir.Node) -> Sequence[ir.Value]:
    # Of the standard domain by history: ONNX Runtime registers it there.
    x, weight = node.inputs
    return [tape.op("SimplifiedLayerNormalization", [x, weight], {"axis": -1, "epsilon": attributes(node)["epsilon"]})]


def _add_rms_norm(tape: Tape, node: ir.Node) -> Sequence[ir.Value | None]:
    x, residual, weight = node.inputs
    outputs = tape.op_multi_out(
        "SkipSimplifiedLayerNormalization",
        [x, residual, weight],
        {"epsilon": attributes(node)["epsilon"]},
        num_outputs=4 if node.outputs[1].uses() or node.outputs[1].is_graph_output() else 1,
        domain=_MS,
    )
    return [outputs[0], outputs[3] if len(outputs) == 4 else None]


_GATES = {
    # QuickGelu is x * sigmoid(alpha * x); with alpha 1 that is SiLU.
    "silu": lambda tape, gate, _: tape.op("QuickGelu", [gate], {"alpha": 1.0}, domain=_MS),
    "gelu": lambda tape, gate, _: tape.op("Gelu", [gate], domain=_MS),
    "gelu_tanh": lambda tape, gate, _: tape.op("FastGelu", [gate], domain=_MS),
    "relu": lambda tape, gate, _: tape.op("Relu", [gate]),
}

_SPELLINGS = {
    "Attention": _attention,
    "CachedAttention": group_query_attention,
    "RMSNorm": _rms_norm,
    "AddRMSNorm": _add_rms_norm,
    "RotaryAngles": rotary_angles,
    "GatedActivation": gated(_GATES),
    "Rotary": _rotary,
    "LayerNorm": layer_norm,
    "AddLayerNorm": _add_layer_norm,
    "MoE": mixture_of_experts,
    "SelectiveScan": selective_scan,
    "Linear": _linear,
    "BlockLinear": matmul_nbits,
    "BlockEmbedding": gather_block_quantized,
    "HalfLinear": half_linear,
    "HalfEmbedding": half_embedding,
    "Gelu": _gelu,
}
_OPSETS = {"": 23, _MS: 1}

# GroupQueryAttention takes several new tokens behind old ones for one row at a time.
ONNXRUNTIME = Dialect("onnxruntime", _SPELLINGS, _OPSETS, state={"chunks_by_row": True})

# For components that remember nothing: their calls have many rows.
UNPACKED = replace(ONNXRUNTIME, spellings={**_SPELLINGS, "BlockLinear": unpacked_linear})
