"""What a pass is: a small class that says what it needs, what it leaves behind, and how much it changed."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

import onnx_ir as ir

from precast.graphs import schema

__all__ = ["GraphPass", "Report", "constant", "counted", "is_spelled", "run", "sole_consumer"]


class GraphPass:
    """Base of all passes. ``changed`` counts rewrites, ``declined`` says why others were left alone; ``merged`` counts,
    by ``domain::op_type``, the nodes for which an equal one stands now."""

    changed: int
    declined: Counter[str]
    merged: Counter[str]

    @property
    def name(self) -> str:
        return type(self).__name__

    def requires(self, model: ir.Model) -> None:
        """Raise ValueError where the graph is not in the state this pass works on."""

    def call(self, model: ir.Model) -> None:
        """Rewrite ``model`` in place; count in ``self.changed``, explain refusals in ``self.declined``."""
        raise NotImplementedError

    def ensures(self, model: ir.Model) -> None:
        """Raise ValueError where the pass did not leave the graph as it promises."""


@dataclass(frozen=True)
class Report:
    """What one pass did; goes into the artifact's manifest."""

    name: str
    changed: int
    declined: dict[str, int] = field(default_factory=dict)
    merged: dict[str, int] = field(default_factory=dict)
    seconds: float = field(default=0.0, compare=False)


def run(model: ir.Model, passes: Iterable[GraphPass]) -> list[Report]:
    """Run ``passes`` in order over ``model`` (in place)."""
    reports = []
    for step in passes:
        start = time.perf_counter()
        step.changed, step.declined, step.merged = 0, Counter(), Counter()
        step.requires(model)
        step.call(model)
        step.ensures(model)
        declined, merged = dict(sorted(step.declined.items())), dict(sorted(step.merged.items()))
        reports.append(Report(step.name, step.changed, declined, merged, time.perf_counter() - start))
    return reports


def counted(model: ir.Model) -> Counter[str]:
    """Nodes by ``domain::op_type`` (standard ONNX without a domain)."""
    return Counter(f"{node.domain}::{node.op_type}" if node.domain else node.op_type for node in model.graph)


def constant(value: ir.Value | None) -> ir.TensorProtocol | None:
    """The tensor behind an initializer (or a Constant node's output), or None for a computed value."""
    if value is None:
        return None
    return ir.convenience.get_const_tensor(value)


# What `Lower` leaves in a graph's opsets beside the standard operators.
_SPELLED = frozenset(("com.microsoft", "precast.cpu"))


def is_spelled(model: ir.Model) -> bool:
    """Whether a dialect of ONNX Runtime has spelled the graph already, and nothing of it was raised again."""
    opsets = model.graph.opset_imports
    return not _SPELLED.isdisjoint(opsets) and schema.DOMAIN not in opsets


def sole_consumer(value: ir.Value) -> ir.Node | None:
    """The one node that reads ``value`` once, or None where several do or the graph returns it."""
    uses = list(value.uses())
    if len(uses) != 1 or value.is_graph_output():
        return None
    return uses[0].node
