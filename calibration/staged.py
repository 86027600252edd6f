"""Variants on their way into an artifact: what a recipe has made, written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import onnx_ir as ir

from precast.graphs import contract
from precast.graphs.emit import Written, emit
from precast.graphs.fingerprint import fingerprint
from precast.graphs.passes.base import Report
from precast.graphs.recipes import Recipe
from precast.graphs.work import work
from precast.runtime.artifact import ArtifactWriter, Component, Variant

__all__ = ["staged"]


def staged(
    recipe: Recipe,
    component: Component,
    model: ir.Model,
    reports: Sequence[Report],
    fusions: Mapping[str, Any],
    writer: ArtifactWriter,
    written: Written,
) -> Variant:
    """Write the graph that a recipe has made of a component; weights that a graph before it has are stored once.

    Of its parity nothing is known yet.
    """
    operators = contract.operators(model)
    digest, cost = fingerprint(model), work(model)
    opsets = {name or "ai.onnx": number for name, number in sorted(model.opset_imports.items())}
    emitted = emit(model, writer, f"{component.name}.{recipe.variant}.onnx", written, derive=True)
    return Variant(
        name=recipe.variant,
        graph=emitted.graph,
        target=recipe.target,
        precision=recipe.precision,
        dialect=recipe.dialect.name,
        provider=recipe.provider,
        engine=recipe.engine,
        opset=opsets,
        session={**recipe.options(operators), **({"initializers": emitted.derived} if emitted.derived else {})},
        isa=recipe.needs(operators),
        weights=emitted.weights,
        operators=operators,
        fusions=fusions,
        fingerprint=digest,
        recipe=tuple({"pass": r.name, "changed": r.changed, "declined": r.declined} for r in reports),
        parity={},
        producer={},
        work=cost,
        state=recipe.dialect.state if component.states else {},
    )
