"""A reference traced, and its graphs in every dialect and recipe that a family is held in, loaded to be compared."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx_ir as ir
import pytest
import torch

from precast.export import parity
from precast.export.families import ALIASES
from precast.export.operators import counted
from precast.export.reference import Part
from precast.export.trace import trace
from precast.graphs import contract
from precast.graphs.dialects.base import Dialect
from precast.graphs.emit import Folder, emit
from precast.graphs.passes.base import run
from precast.graphs.passes.canonical import Canonical
from precast.graphs.passes.clean import Clean
from precast.graphs.passes.fold_constants import FoldConstants
from precast.graphs.passes.lower import Lower
from precast.graphs.passes.narrow_weights import NarrowWeights
from precast.graphs.recipes import RECIPES
from precast.runtime import flow
from precast.runtime.artifact import Component, Variant
from precast.runtime.backends.onnxruntime import OnnxRuntime
from precast.runtime.gates import Measured, broken, gate, settled
from precast.runtime.generation.graph_engine import GraphEngine
from precast.runtime.parity import Loaded, Recorded, compare
from support import fingerprints


def wide(model_type: str) -> pytest.MarkDecorator:
    """Marks a sweep that runs for changes that touch this family, and whenever all are asked for."""
    return pytest.mark.wide(ALIASES.get(model_type, model_type).replace("-", "_"))


def states(model: torch.nn.Module, layers: Iterable[torch.nn.Module]) -> tuple[list[torch.Tensor], list[Any]]:
    kept: list[torch.Tensor] = []
    hooks = [
        # A pre-norm layer returns the two parts of its hidden state.
        layer.register_forward_hook(lambda _m, _i, out: kept.append(sum(out) if isinstance(out, tuple) else out))
        for layer in layers
    ]
    return kept, hooks


def lowerings() -> dict[str, tuple[Any, Any, str | None]]:
    """name -> (dialect, passes, isa): each dialect unoptimised, and each fp32 recipe that differs from the others."""
    found: dict[str, tuple[Any, Any, str | None]] = {}
    seen: set[tuple[str, ...]] = set()
    for item in RECIPES:
        if item.precision != "fp32":
            continue  # held to its divergence over text, with real weights
        if item.isa is not None and os.environ.get("PRECAST_KERNELS") == "off":
            continue  # a build that is meant to be without kernels
        raw = (item.dialect, lambda dialect=item.dialect: (FoldConstants(), Clean(), Lower(dialect), Canonical()))
        for name, (dialect, passes) in ((f"raw-{item.dialect.name}", raw), (item.variant, (item.dialect, item.passes))):
            # Random weights are never narrow: that pass leaves them as they are.
            steps = tuple(step.name for step in passes() if not isinstance(step, NarrowWeights))
            if steps not in seen:
                seen.add(steps)
                found[name] = (dialect, passes, item.isa)
    return found


def engine_of(parts: Sequence[Part], loaded: Mapping[str, Loaded]) -> GraphEngine:
    """What generation runs on, of graphs that are no artifact."""
    made = {}
    for part in parts:
        own = part.signature
        width = part.module.lm_head.out_features if own.states else None  # type: ignore[union-attr]
        outs = tuple(
            out._replace(shape=(*out.shape[:-1], width)) if out.name == "logits" and width else out for out in own.outs
        )
        component = Component(part.name, own.ports, outs, {}, own.dims, parity.successors(own))
        variant = Variant("test", "", "cpu", "fp32", "", "", state=loaded[part.name].layout)
        made[part.name] = flow.Part(component, variant, loaded[part.name].runner)
    needed = flow.in_order({name: part.component for name, part in made.items()}, parts[-1].name)
    join = parts[-1].module.processing().get("join")  # type: ignore[operator]
    return GraphEngine(flow.Flow({name: made[name] for name in needed}), join)


@dataclass(frozen=True)
class Lowered:
    """The parts of a model in one dialect or by one recipe."""

    name: str
    dialect: Dialect
    parts: dict[str, Loaded]

    @property
    def ships(self) -> bool:
        return not self.name.startswith("raw-")


def lower(parts: Sequence[Part], folder: Path, where: str, *, raw: bool = True) -> Iterator[Lowered]:
    """Trace ``parts`` once, and lower and load them in every way, each held to its contract and to the fingerprints
    recorded for ``where``; ``raw``: also each dialect unoptimised."""
    traced = {
        part.name: trace(
            part.module,
            part.signature.example(),
            part.signature.dynamic,
            part.signature.outputs,
            part.name,
            part.signature.bounds,
        )
        for part in parts
    }
    promised = {part.name: counted(part.module, part.signature.example()) for part in parts}
    protos = {name: ir.to_proto(graph) for name, graph in traced.items()}
    fingerprints.check(where, {f"{name} traced": graph for name, graph in traced.items()})
    for name, (dialect, passes, isa) in lowerings().items():
        lowered = Lowered(name, dialect, {})
        if not (raw or lowered.ships):
            continue
        for part in parts:
            graph = ir.from_proto(protos[part.name])
            reports = run(graph, passes())
            fingerprints.check(where, {f"{part.name} {name}": graph})
            if lowered.ships:
                found = contract.vocabulary(traced[part.name]), contract.operators(graph)
                contract.check(promised[part.name], *found, dialect.name, reports)
            written = Folder(folder / name / part.name)
            emit(graph, written, "graph.onnx")
            runner = OnnxRuntime("CPUExecutionProvider").load(
                written.path / "graph.onnx", session={}, threads=1, isa=isa
            )
            own = part.signature
            lowered.parts[part.name] = Loaded(runner, own.ports, own.outs, parity.successors(own), dialect.state)
        yield lowered


def held(parts: Sequence[Part], recorded: Sequence[Recorded], lowered: Lowered) -> list[Measured]:
    """What ``lowered`` measures beside the reference, held to the gate as an export holds it: where one order of
    eager's sums was small by luck, other orders say how far float32 goes."""
    measured = list(compare(lowered.parts, recorded))
    if broken("fp32", measured):
        measured = list(settled(measured, parity.reordered(parts, recorded)))
    gate("fp32", measured, lowered.name)
    return measured
