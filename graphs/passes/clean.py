"""Common subexpressions, unused nodes, identities: onnx_ir's own passes, in our frame."""

from __future__ import annotations

from collections import Counter

import onnx_ir as ir
import onnx_ir.passes.common as common

from precast.graphs.outputs import name_outputs
from precast.graphs.passes.base import GraphPass, counted

__all__ = ["Clean"]


class _Merge(common.CommonSubexpressionEliminationPass):
    """Counts what it merges: two of a model's norms with equal weights and one input are one node from here on."""

    def __init__(self, merged: Counter[str]) -> None:
        super().__init__()
        self._merged = merged

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        before = counted(model)
        result = super().call(model)
        self._merged += before - counted(model)
        return result


class Clean(GraphPass):
    """Merge equal subexpressions and equal small constants, drop what nothing reads."""

    def call(self, model: ir.Model) -> None:
        before = len(list(model.graph))
        outputs = [value.name or "" for value in model.graph.outputs]
        for step in (
            common.IdentityEliminationPass(),
            # Only constants of shape arithmetic: hashing weights would read all of them.
            common.DeduplicateInitializersPass(size_limit=1024),
            _Merge(self.merged),
            common.RemoveUnusedNodesPass(),
            common.RemoveUnusedOpsetsPass(),
            common.TopologicalSortPass(),
        ):
            step(model)
        name_outputs(model.graph, outputs)  # two that were equal are one value by now, under the name of either
        self.changed = before - len(list(model.graph))

    def ensures(self, model: ir.Model) -> None:
        names = [value.name for value in model.graph.initializers.values()]
        if len(names) != len(set(names)):
            raise ValueError("two initializers share a name")
