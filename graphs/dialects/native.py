"""The spelling for our own CPU kernels (``runtime/kernels``): ONNX Runtime's, with ``precast.cpu`` operators."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import onnx_ir as ir
from onnx_ir.tape import Tape

from precast.graphs.dialects.base import Dialect, attributes
from precast.graphs.dialects.blocks import native_block_embedding, native_block_linear
from precast.graphs.dialects.halves import native_half_embedding, native_half_linear
from precast.graphs.dialects.onnxruntime import ONNXRUNTIME
from precast.graphs.tensors import sizes

__all__ = ["DOMAIN", "INT8_CACHE", "NATIVE"]

DOMAIN = "precast.cpu"


def _attention(tape: Tape, node: ir.Node) -> Sequence[ir.Value]:
    """Attention(query, key, value, qkv_bias, mask, attention_bias); a causal one is a window without a right side."""
    at = attributes(node)
    query, key, value, mask, bias = (*node.inputs, None, None)[:5]
    return [
        tape.op(
            "Attention",
            [query, key, value, None, mask, bias],
            {
                "heads": at["heads"],
                "kv_heads": at["kv_heads"],
                "scale": at["scale"],
                "window_left": at["window_left"],
                "window_right": 0 if at["causal"] else at["window_right"],
                "softcap": at["softcap"],
            },
            domain=DOMAIN,
        )
    ]


def _cached_attention(tape: Tape, node: ir.Node, name: str = "CachedAttention") -> Sequence[ir.Value]:
    """The same inputs and attributes; bound to one buffer, past and present are one, and it may be a ring."""
    names = ("heads", "kv_heads", "scale", "window", "softcap")
    at = attributes(node)
    return tape.op_multi_out(name, list(node.inputs), {name: at[name] for name in names}, num_outputs=3, domain=DOMAIN)


def _slot(channels: int) -> int:
    """Bytes of a slot of a cache of int8: runtime/kernels/kernels.h, `cache_row`."""
    return channels + -(-channels // 32) * 4


def _int8_cached_attention(tape: Tape, node: ir.Node) -> Sequence[ir.Value]:
    """With caches of int8: the graph's own inputs and outputs change their type, and the runtime its buffers.

    The largest of 32 channels of a key or value becomes 127; their scales stand behind the channels.
    """
    made = _cached_attention(tape, node, "CachedAttentionInt8")
    for past, *present in zip(node.inputs[3:5], made[1:], node.outputs[1:], strict=True):
        if past is None or past.shape is None or not past.is_graph_input():
            raise ValueError("a cache must be an input of the graph")
        *rows, size = past.shape
        if past.dtype != ir.DataType.INT8:
            [channels] = sizes(ir.Shape([size]))
            past.shape, past.dtype = ir.Shape([*rows, _slot(channels)]), ir.DataType.INT8
        for value in present:  # what takes the place of an output takes its type
            value.shape, value.dtype = past.shape, ir.DataType.INT8
    return made


def _layer_norm(tape: Tape, node: ir.Node) -> Sequence[ir.Value]:
    x, weight, bias = (*node.inputs, None)[:3]
    return [tape.op("LayerNorm", [x, weight, bias], {"epsilon": attributes(node)["epsilon"]}, domain=DOMAIN)]


def _add_layer_norm(tape: Tape, node: ir.Node) -> Sequence[ir.Value | None]:
    x, residual, weight, bias = (*node.inputs, None)[:4]
    outputs = tape.op_multi_out(
        "AddLayerNorm",
        [x, residual, weight, bias],
        {"epsilon": attributes(node)["epsilon"]},
        num_outputs=2 if node.outputs[1].uses() or node.outputs[1].is_graph_output() else 1,
        domain=DOMAIN,
    )
    return [outputs[0], outputs[1] if len(outputs) == 2 else None]


def _rms_norm(tape: Tape, node: ir.Node) -> Sequence[ir.Value]:
    return [tape.op("RMSNorm", list(node.inputs), {"epsilon": attributes(node)["epsilon"]}, domain=DOMAIN)]


def _add_rms_norm(tape: Tape, node: ir.Node) -> Sequence[ir.Value | None]:
    outputs = tape.op_multi_out(
        "AddRMSNorm",
        list(node.inputs),
        {"epsilon": attributes(node)["epsilon"]},
        num_outputs=2 if node.outputs[1].uses() or node.outputs[1].is_graph_output() else 1,
        domain=DOMAIN,
    )
    return [outputs[0], outputs[1] if len(outputs) == 2 else None]


def _gated_activation(tape: Tape, node: ir.Node) -> Sequence[ir.Value]:
    activation = attributes(node)["activation"]
    return [tape.op("GatedActivation", list(node.inputs), {"activation": activation}, domain=DOMAIN)]


def _gelu(tape: Tape, node: ir.Node) -> Sequence[ir.Value]:
    tanh = int(attributes(node)["approximate"] == "tanh")
    return [tape.op("BiasGelu", [node.inputs[0]], {"tanh": tanh}, domain=DOMAIN)]


NATIVE = Dialect(
    "native",
    {
        **ONNXRUNTIME.spellings,
        "Attention": _attention,
        "CachedAttention": _cached_attention,
        "LayerNorm": _layer_norm,
        "AddLayerNorm": _add_layer_norm,
        "RMSNorm": _rms_norm,
        "AddRMSNorm": _add_rms_norm,
        "GatedActivation": _gated_activation,
        "BlockLinear": native_block_linear,
        "BlockEmbedding": native_block_embedding,
        "HalfLinear": native_half_linear,
        "HalfEmbedding": native_half_embedding,
        "Gelu": _gelu,
    },
    {**ONNXRUNTIME.opsets, DOMAIN: 1},
    state={"ring": True},
)

# Keys and values in 8 bits, a quarter of the memory a token takes.
INT8_CACHE = replace(
    NATIVE,
    spellings={**NATIVE.spellings, "CachedAttention": _int8_cached_attention},
    state={**NATIVE.state, "int8": True},
)
