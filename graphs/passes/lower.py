"""Spell every ``precast`` operator in the target's dialect."""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir import tape

from precast.graphs import schema
from precast.graphs.dialects.base import Dialect
from precast.graphs.passes.base import GraphPass

__all__ = ["Lower"]


class Lower(GraphPass):
    """Replace each node of the ``precast`` domain by what ``dialect`` writes for it."""

    def __init__(self, dialect: Dialect) -> None:
        self.dialect = dialect

    @property
    def name(self) -> str:
        return f"Lower[{self.dialect.name}]"

    def requires(self, model: ir.Model) -> None:
        unknown = {node.op_type for node in model.graph if node.domain == schema.DOMAIN} - set(self.dialect.spellings)
        if unknown:
            raise ValueError(f"dialect {self.dialect.name!r} has no spelling for {sorted(unknown)}")

    def call(self, model: ir.Model) -> None:
        graph = model.graph
        for node in list(graph):
            if node.domain != schema.DOMAIN:
                continue
            builder = tape.Tape(graph)
            new = self.dialect.spellings[node.op_type](builder, node)
            old = node.outputs
            for before, after in zip(old, new, strict=True):
                if after is not None:
                    # Initializers among the results would be renamed by the replacement: none of ours is.
                    after.shape, after.type = after.shape or before.shape, after.type or before.type
            kept = [(before, after) for before, after in zip(old, new, strict=True) if after is not None]
            lost = [before.name for before, after in zip(old, new, strict=True) if after is None and before.uses()]
            if lost:
                raise ValueError(f"dialect {self.dialect.name!r} left used outputs {lost} of {node.op_type} unspelled")
            ir.convenience.replace_nodes_and_values(
                graph, node, [node], builder.nodes, [before for before, _ in kept], [after for _, after in kept]
            )
            self.changed += 1
        for domain, version in self.dialect.opsets.items():
            graph.opset_imports[domain] = version
        graph.opset_imports.pop(schema.DOMAIN, None)

    def ensures(self, model: ir.Model) -> None:
        left = sorted({node.op_type for node in model.graph if node.domain == schema.DOMAIN})
        if left:
            raise ValueError(f"operators left after lowering: {left}")
