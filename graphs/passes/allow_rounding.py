"""Say how far the rows of products may be rounded, where a processor is faster for it."""

from __future__ import annotations

import onnx_ir as ir

from precast.graphs.dialects.native import DOMAIN
from precast.graphs.passes.base import GraphPass

__all__ = ["AllowRounding"]

_ATTENTION = ("Attention", "CachedAttention", "CachedAttentionInt8")
_PRODUCTS = ("BlockLinear", "BlockFeedForward")


class AllowRounding(GraphPass):
    """Sets ``bfloat16`` of attention, and ``bfloat16`` and ``row_bits`` of products with weights of 8 or 4 bits, in the
    native dialect.

    Their weights' own rounding is the larger error. What the first changes is seen on processors with AMX only; there
    queries and keys keep 16 bits, softmax and sums float32 (runtime/kernels: attention_tiles.h, block_tiles.h). The
    second is for those that multiply bytes (block_bytes.h). A weight for which 8 bits were too few, which is two of 8
    and of 4 bits whose products are added, keeps all of its 12, and so do its rows.

    Args:
        row_bits: of a block's largest, which many rows keep beside weights of 8 bits, at least: 8, or 12 where what a
            component computes is read again and again, as a language model's states are.
    """

    def __init__(self, *, row_bits: int) -> None:
        self.row_bits = row_bits

    def call(self, model: ir.Model) -> None:
        for node in model.graph.all_nodes():
            if node.domain != DOMAIN or node.op_type not in (*_ATTENTION, *_PRODUCTS):
                continue
            if node.op_type == "BlockLinear" and _is_half_of_a_weight(node):
                self.declined["BlockLinear: its weight has 12 bits"] += 1
                continue
            node.attributes["bfloat16"] = ir.AttrInt64("bfloat16", 1)
            if node.op_type in _PRODUCTS:
                node.attributes["row_bits"] = ir.AttrInt64("row_bits", self.row_bits)
            self.changed += 1


def _is_half_of_a_weight(node: ir.Node) -> bool:
    """Whether the product is added to another one of the same rows, one of 8 bits and one of 4."""
    for use in node.outputs[0].uses():
        read = [value for value in use.node.inputs if value is not None] if use.node.op_type == "Add" else []
        sources = [value.producer() for value in read]
        pair = [source for source in sources if source is not None and source.op_type == "BlockLinear"]
        bits = {source.attributes.get_int("bits") for source in pair}
        if len(pair) == 2 and pair[0].inputs[0] is pair[1].inputs[0] and bits == {4, 8}:
            return True
    return False
