"""Move the bias of a projection into the ``precast.cpu`` operator that reads it."""

from __future__ import annotations

import onnx_ir as ir

from precast.graphs.dialects.native import DOMAIN
from precast.graphs.passes.fuse_bias import FuseBias

__all__ = ["FuseNativeBias"]


class FuseNativeBias(FuseBias):
    """Add(x, bias) into Attention, AddLayerNorm and BiasGelu."""

    domain = DOMAIN

    def _addlayernorm(self, graph: ir.Graph, node: ir.Node) -> None:
        self._residual_sum(graph, node)

    def _biasgelu(self, graph: ir.Graph, node: ir.Node) -> None:
        self._one_input(graph, node, "BiasGelu")

    def _attention(self, graph: ir.Graph, node: ir.Node) -> None:
        self._projections(graph, node)
