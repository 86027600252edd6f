"""Standard ONNX only: what TensorRT and any other conforming engine parses."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir
from onnx_ir.tape import Tape

from precast.graphs.dialects.base import (
    Dialect,
    attributes,
    gated,
    graph_of,
    layer_norm,
    rotary_angles,
    rotary_sizes,
    transposed,
    unfused_attention,
    weight_is_shared,
)
from precast.graphs.dialects.cached import unfused_cached_attention
from precast.graphs.dialects.experts import dense_experts
from precast.graphs.dialects.scan import selective_scan

__all__ = ["PORTABLE"]


def _rotary(tape: Tape, node: ir.Node) -> Sequence[ir.Value]:
    at = attributes(node)
    x, positions, cos, sin = node.inputs
    width, size = rotary_sizes(x, cos, at["heads"])
    return [
        tape.op(
            "RotaryEmbedding",
            [x, cos, sin, positions],
            {
                "interleaved": at["interleaved"],
                "num_heads": at["heads"],
                "rotary_embedding_dim": 0 if width == size else width,
            },
        )
    ]


def _add_layer_norm(tape: Tape, node: ir.Node) -> Sequence[ir.Value]:
    x, residual, weight, bias = (*node.inputs, None)[:4]
    total = tape.op("Add", [x, residual])
    epsilon = attributes(node)["epsilon"]
    return [tape.op("LayerNormalization", [total, weight, bias], {"axis": -1, "epsilon": epsilon}), total]


def _linear(tape: Tape, node: ir.Node) -> Sequence[ir.Value]:
    x, weight, bias = (*node.inputs, None)[:3]
    assert weight is not None
    if weight_is_shared(weight):
        # A tied embedding is stored once; engines fold the transposition when they build.
        product = tape.op("MatMul", [x, tape.op("Transpose", [weight], {"perm": [1, 0]})])
    else:
        product = tape.op("MatMul", [x, transposed(graph_of(node), weight)])
    return [product if bias is None else tape.op("Add", [product, bias])]


def _gelu(tape: Tape, node: ir.Node) -> Sequence[ir.Value]:
    return [tape.op("Gelu", [node.inputs[0]], {"approximate": attributes(node)["approximate"]})]


def _rms_norm(tape: Tape, node: ir.Node) -> Sequence[ir.Value]:
    x, weight = node.inputs
    return [tape.op("RMSNormalization", [x, weight], {"axis": -1, "epsilon": attributes(node)["epsilon"]})]


def _add_rms_norm(tape: Tape, node: ir.Node) -> Sequence[ir.Value]:
    x, residual, weight = node.inputs
    total = tape.op("Add", [x, residual])
    return [tape.op("RMSNormalization", [total, weight], {"axis": -1, "epsilon": attributes(node)["epsilon"]}), total]


_GATES = {
    "silu": lambda tape, gate, _: tape.op("Mul", [gate, tape.op("Sigmoid", [gate])]),
    "gelu": lambda tape, gate, _: tape.op("Gelu", [gate], {"approximate": "none"}),
    "gelu_tanh": lambda tape, gate, _: tape.op("Gelu", [gate], {"approximate": "tanh"}),
    "relu": lambda tape, gate, _: tape.op("Relu", [gate]),
}


# Attention is spelled unfused: TensorRT does not build the fp32 `Attention` operator, and fuses this pattern itself.
PORTABLE = Dialect(
    "portable",
    {
        "Attention": unfused_attention,
        "CachedAttention": unfused_cached_attention,
        "RMSNorm": _rms_norm,
        "AddRMSNorm": _add_rms_norm,
        "RotaryAngles": rotary_angles,
        "GatedActivation": gated(_GATES),
        "Rotary": _rotary,
        "LayerNorm": layer_norm,
        "AddLayerNorm": _add_layer_norm,
        "MoE": dense_experts,
        "SelectiveScan": selective_scan,
        "Linear": _linear,
        "Gelu": _gelu,
    },
    {"": 23},
)
