"""Variants on their way into an artifact: written by a recipe, loaded as they ship, described for the manifest."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any

import onnx_ir as ir

from precast.graphs import contract
from precast.graphs.emit import Written, emit
from precast.graphs.fingerprint import fingerprint
from precast.graphs.passes.base import Report
from precast.graphs.recipes import Recipe
from precast.graphs.work import work
from precast.runtime.artifact import ArtifactWriter, Component, Variant
from precast.runtime.backends.engines import backend_for
from precast.runtime.backends.onnxruntime import engine
from precast.runtime.gates import Measured, conditioning
from precast.runtime.parity import Loaded
from precast.runtime.verify import summarise

__all__ = ["figures", "loaded", "producer", "staged"]


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


def loaded(variant: Variant, component: Component, writer: ArtifactWriter) -> Loaded:
    """A staged graph, with the options it ships with."""
    runner = backend_for(variant.engine, variant.provider).load(
        writer.path_of(variant.graph), session=variant.session, isa=variant.isa, threads=None
    )
    return Loaded(runner, component.inputs, component.outputs, component.states, variant.state)


def figures(precision: str, measured: Sequence[Measured]) -> dict[str, Any]:
    """What a manifest says of a variant's parity."""
    strained = conditioning(precision, measured)
    return {
        "gate": precision,
        "worst": {
            name: {key: float(f"{value:.9g}") for key, value in entry.items()}
            for name, entry in summarise(precision, measured).items()
        },
        "measured": [item.to_json() for item in measured],
        **({"conditioning": strained} if strained else {}),
    }


def producer(*names: str) -> dict[str, str]:
    """Versions of what a variant is made by: of Precast, of these packages, and of what runs it."""
    found = {name: version(name) for name in ("precast", *names)} | {"onnxruntime": str(engine().__version__)}
    # Local version labels (+cpu, +cu130) name a build, not what it computes.
    return {name: re.sub(r"\+.*", "", value) for name, value in found.items()}
