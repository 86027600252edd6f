"""Staged variants as they ship: loaded, and described for the manifest. No graph is opened but by its engine."""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

from precast.runtime.artifact import ArtifactWriter, Component, Variant
from precast.runtime.backends.engines import backend_for
from precast.runtime.backends.onnxruntime import engine
from precast.runtime.gates import Measured, conditioning
from precast.runtime.parity import Loaded
from precast.runtime.verify import summarise

__all__ = ["figures", "loaded", "producer"]


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
