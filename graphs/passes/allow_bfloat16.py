"""Let attention round what it softens, and values, to bfloat16, where a processor multiplies tiles of it."""

from __future__ import annotations

import onnx_ir as ir

from precast.graphs.dialects.native import DOMAIN
from precast.graphs.passes.base import GraphPass

__all__ = ["AllowBfloat16"]

_ATTENTION = ("Attention", "CachedAttention", "CachedAttentionInt8")


class AllowBfloat16(GraphPass):
    """Sets ``bfloat16`` of every attention of the native dialect.

    For graphs whose weights are rounded to 8 or 4 bits: theirs are the larger errors by far. What it changes is seen on
    processors with AMX only; queries and keys keep 16 bits there, softmax and sums float32 (runtime/kernels/attention_tiles.h).
    """

    def call(self, model: ir.Model) -> None:
        for node in model.graph.all_nodes():
            if node.domain == DOMAIN and node.op_type in _ATTENTION:
                node.attributes["bfloat16"] = ir.AttrInt64("bfloat16", 1)
                self.changed += 1
