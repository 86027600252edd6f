"""export_model(): from a checkpoint to a published artifact, the stages in order."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import platform
import re
import resource
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import onnx_ir as ir
import torch

from precast.export import evaluation, parity, static_embedding
from precast.export.checkpoints.open import open_checkpoint
from precast.export.embedding import declared_task
from precast.export.emit import Emitted, Written, emit
from precast.export.locate import explained
from precast.export.operators import counted
from precast.export.processing import write_processing
from precast.export.reference import Part, Reference, build, served_tasks
from precast.export.sensitivity import sensitivity
from precast.export.signatures import Signature
from precast.export.trace import trace
from precast.graphs import contract
from precast.graphs.block_weight import META, Blocks
from precast.graphs.fingerprint import fingerprint
from precast.graphs.passes.base import Report, run
from precast.graphs.passes.quantize_weights import QuantizeWeights
from precast.graphs.recipes import Evidence, Recipe, assigned, recipes_for
from precast.graphs.work import work
from precast.runtime import arguments
from precast.runtime.artifact import (
    ArtifactWriter,
    Component,
    FileRecord,
    Manifest,
    Source,
    Variant,
)
from precast.runtime.backends.engines import backend_for
from precast.runtime.backends.onnxruntime import engine
from precast.runtime.errors import InputError, ParityError
from precast.runtime.gates import Measured, broken, conditioning, gate, settled
from precast.runtime.metrics import metric_for
from precast.runtime.parity import Loaded, Recorded, compare, write_record
from precast.runtime.ports import Out
from precast.runtime.verify import summarise

__all__ = ["Progress", "export_model"]

# Called with the name of each stage as it begins.
Progress = Callable[[str], None]


class _Cost:
    """Seconds of each stage, and the peak memory of the process, for the manifest's ``cost``."""

    def __init__(self, progress: Progress | None) -> None:
        self._progress = progress
        self._began = time.perf_counter()
        self._stages: list[tuple[str, float]] = []

    def stage(self, name: str) -> None:
        self._stages.append((name, time.perf_counter()))
        if self._progress is not None:
            self._progress(name)

    def to_json(self) -> dict[str, Any]:
        ends = [start for _, start in self._stages[1:]] + [time.perf_counter()]
        # Linux counts ru_maxrss in KiB, macOS in bytes.
        unit = 1 if sys.platform == "darwin" else 1024
        return {
            "seconds": round(time.perf_counter() - self._began, 3),
            "stages": {name: round(end - start, 3) for (name, start), end in zip(self._stages, ends, strict=True)},
            "peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit,
            "machine": platform.machine(),
            "python": platform.python_version(),
        }


def export_model(
    source: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    task: str | None = None,
    precision: str = "fp32",
    target: str = "cpu",
    cache: str | None = None,
    add: bool = False,
    overwrite: bool = False,
    revision: str | None = None,
    token: str | None = None,
    progress: Progress | None = None,
) -> Path:
    """Export a checkpoint to a verified artifact in the folder ``out``; nothing is published unless every gate passes.

    Args:
        source: a folder with a checkpoint, or a Hub id.
        task: what to export it for; None: what config.json's ``architectures`` says.
        precision, target: the variant to make, see ``precast.graphs.recipes``.
        cache: ``int8`` holds a language model's keys and values in 8 bits, a quarter of the memory, where the CPU
            kernels are there; None: in float32.
        add: put the variant into the artifact that is there. overwrite: replace that artifact by exchange.
        revision, token: for a Hub id.

    Raises:
        PrecastError: one of its kinds, with what was wrong and what to do; ``out`` is as it was before.
    """
    arguments.path("source", source)
    for name, value in (("precision", precision), ("target", target)):
        arguments.text(name, value)
    for name, given in (("task", task), ("cache", cache), ("revision", revision)):
        if given is not None:
            arguments.text(name, given, instead=", or None")
    if progress is not None:
        arguments.call("progress", progress)
    add, overwrite = arguments.flag("add", add), arguments.flag("overwrite", overwrite)
    if add and overwrite:
        raise InputError("add and overwrite exclude each other: add keeps the other variants, overwrite replaces them.")
    known = recipes_for(target, precision, cache)
    cost = _Cost(progress)
    mode = "add" if add else "overwrite" if overwrite else "create"
    with ArtifactWriter(arguments.path("out", out), mode=mode) as writer:
        cost.stage("reading the checkpoint")
        checkpoint = open_checkpoint(source, revision=revision, token=token)
        family = static_embedding.FAMILY if static_embedding.holds(checkpoint.modules) else None
        reference = build(
            checkpoint.config,
            checkpoint.tensors,
            task or declared_task(checkpoint),
            family=family,
            release=checkpoint.release,
        )
        weights = sum(value.nbytes for value in {id(v): v for v in reference.model.parameters()}.values())
        writer.ensure_space(weights)
        what = f"a {reference.model_type} for {reference.head.task}"
        made_by = _missing(_fitting(known, reference, what), writer)
        metric = metric_for(precision, reference.head.task, what)
        processing, tokenizer = write_processing(checkpoint, reference, writer)

        source_record = Source(
            checkpoint.id,
            checkpoint.revision,
            {name: FileRecord(info.size, info.sha256) for name, info in checkpoint.digests().items()},
        )
        names = [part.name for part in reference.parts]
        variants = [(name, recipes[name].variant) for name in names for recipes in made_by]
        writer.admit(source_record, reference.model_type, variants)

        cost.stage("tracing")
        traced = {part.name: _trace(part, reference.blocks) for part in reference.parts}
        outputs = {part.name: _outs(part.signature, traced[part.name]) for part in reference.parts}
        checkpoint.release()

        text: evaluation.EvaluationSet | None = None
        evidence: dict[str, Evidence] = {}
        if metric is not None:
            cost.stage("reading text with the reference")
            with parity.streaming(reference.model, checkpoint.release):
                text = evaluation.evaluation_set(reference.parts, tokenizer, metric)
            roundings = _roundings(made_by[0])
            if roundings:
                cost.stage("rounding weights in the reference, to see which need more bits")
                with parity.streaming(reference.model, checkpoint.release):
                    found = sensitivity(reference.parts, traced, roundings, text, precision)
                evidence = {name: Evidence(sensitive=weights) for name, weights in found.weights.items()}

        cost.stage("optimising the graph and writing the weights")
        promised = {part.name: counted(part.module, part.signature.example()) for part in reference.parts}
        written = Written(checkpoint.release)
        lowered = [
            {
                name: _lower(
                    recipes[name], evidence.get(name, Evidence()), name, model, promised[name], writer, written
                )
                for name, model in traced.items()
            }
            for recipes in made_by
        ]

        cost.stage("computing the reference, in float32 and float64")
        with parity.streaming(reference.model, checkpoint.release):
            recorded = parity.record(reference.parts, parity.cases_for(reference.parts))
        record_name = f"parity/{names[-1]}.npz"
        writer.write_bytes(record_name, write_record(recorded))
        facts = _facts(reference)
        signatures = {part.name: part.signature for part in reference.parts}
        # The session below holds weights of its own: the reference's are not needed any more.
        del traced, reference
        checkpoint.release()
        _return_memory()

        cost.stage("verifying the graph against it")

        def again() -> tuple[Part, ...]:
            """The reference once more, where a refusal is doubted or to be explained."""
            return build(checkpoint.config, checkpoint.tensors, task).parts

        components: dict[str, Component] = {}
        for name, signature in signatures.items():
            states = parity.successors(signature)
            components[name] = Component(name, signature.ports, outputs[name], {}, signature.dims, states)
        for made in lowered:
            for variant, name in _verified(made, components, writer, recorded, promised, text, again):
                component = components[name]
                components[name] = component._replace(variants={**component.variants, variant.name: variant})
            _return_memory()

        cost.stage("publishing")
        manifest = Manifest(
            source=source_record,
            model_type=facts["model_type"],
            tasks={name: {"component": names[-1]} for name in facts["tasks"]},
            default_task=facts["tasks"][0],
            components=components,
            producer=_producer(),
            processing={**processing, **facts["ignored"]},
            parity={name: {"file": record_name, "cases": [item.case.name for item in recorded]} for name in names},
            cost=cost.to_json(),
        )
        return writer.publish(manifest)


def _return_memory() -> None:
    """Give freed memory back to the system: tracing leaves a heap full of holes, and the session needs room."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)  # glibc only; elsewhere there is nothing to do


def _facts(reference: Reference) -> dict[str, Any]:
    """What the manifest says of the reference model, once that is gone."""
    return {
        "model_type": reference.model_type,
        "tasks": served_tasks(reference.head, reference.spec),
        "ignored": {
            "ignored_weights": list(reference.ignored),
            "ignored_config": list(reference.ignored_config),
        },
    }


def _trace(part: Part, blocks: Mapping[torch.nn.Parameter, Blocks]) -> ir.Model:
    """The part's graph; initializers know the blocks that the checkpoint holds them in."""
    signature = part.signature
    traced = trace(part.module, signature.example(), signature.dynamic, signature.outputs, part.name, signature.bounds)
    for name, parameter in part.module.named_parameters(remove_duplicate=False):
        if parameter in blocks and name in traced.graph.initializers:
            traced.graph.initializers[name].meta[META] = blocks[parameter]
    return traced


def _fitting(known: Sequence[Recipe], reference: Reference, what: str) -> list[dict[str, Recipe]]:
    """The recipe of each component, in each variant that this machine can run: others cannot be verified here, and the
    one that runs anywhere always is made.

    Raises:
        InputError: there is none for a component of this model; or not here.
    """
    fitting = assigned(known, {part.name: part.signature.role for part in reference.parts}, what)
    made = [
        recipes
        for recipes in fitting
        if all(backend_for(one.engine, one.provider).supports(one.isa) for one in recipes.values())
    ]
    wanted = next(
        (one.cache for recipes in fitting if recipes not in made for one in recipes.values() if one.cache), None
    )
    if wanted is not None:
        raise InputError(
            f"cache {wanted!r} needs the CPU kernels of precast, which are not here: `precast env` says why. "
            "Export without it."
        )
    return made


def _missing(made_by: Sequence[dict[str, Recipe]], writer: ArtifactWriter) -> list[dict[str, Recipe]]:
    """Without the variant that runs anywhere, where the artifact that is added to has it: an int8 cache shares it."""
    held = (
        set()
        if writer.base is None
        else {name for component in writer.base.manifest.components.values() for name in component.variants}
    )

    def fresh(recipes: Mapping[str, Recipe]) -> bool:
        return all(one.variant not in held for one in recipes.values())

    left = [recipes for recipes in made_by if fresh(recipes) or all(one.isa is not None for one in recipes.values())]
    return left if any(map(fresh, left)) else list(made_by)


def _roundings(recipes: Mapping[str, Recipe]) -> dict[str, QuantizeWeights]:
    """The pass that rounds weights, of each component whose recipe needs to know which of them are sensitive."""
    return {
        name: next(step for step in recipe.passes() if isinstance(step, QuantizeWeights))
        for name, recipe in recipes.items()
        if recipe.evidence == "weights"
    }


@dataclass(frozen=True)
class _Lowered:
    """One recipe's graph of one part, written to the staged artifact."""

    recipe: Recipe
    part: str
    emitted: Emitted
    reports: tuple[Report, ...]
    operators: Mapping[str, int]
    opsets: Mapping[str, int]
    fingerprint: str
    work: Mapping[str, Any]


def _lower(
    chosen: Recipe,
    evidence: Evidence,
    part: str,
    traced: ir.Model,
    promised: Mapping[str, int],
    writer: ArtifactWriter,
    written: Written,
) -> _Lowered:
    """Make the graph of one recipe from the traced one and write it; equal weights are stored once."""
    vocabulary = contract.vocabulary(traced)
    model = traced.clone()
    reports = run(model, chosen.passes(evidence))
    operators = contract.operators(model)
    contract.check(promised, vocabulary, operators, chosen.dialect.name, reports)
    digest, cost = fingerprint(model), work(model)
    opsets = {name or "ai.onnx": number for name, number in sorted(model.opset_imports.items())}
    emitted = emit(model, writer, f"{part}.{chosen.variant}.onnx", written)
    return _Lowered(chosen, part, emitted, tuple(reports), operators, opsets, digest, cost)


def _verified(
    lowered: Mapping[str, _Lowered],
    components: Mapping[str, Component],
    writer: ArtifactWriter,
    recorded: Sequence[Recorded],
    promised: Mapping[str, Mapping[str, int]],
    text: evaluation.EvaluationSet | None,
    again: Callable[[], Sequence[Part]],
) -> Iterator[tuple[Variant, str]]:
    """Run the staged graphs of one recipe, with the options they ship with, on every recorded input, and hold them to
    the gate; then the variant of each component."""
    recipes = {name: item.recipe for name, item in lowered.items()}
    parts = {name: _loaded(item, components[name], writer) for name, item in lowered.items()}
    *_, last = recipes  # what a task asks for
    precision, variant = recipes[last].precision, recipes[last].variant
    measured: list[Measured] = list(compare(parts, recorded))
    if precision == "fp32" and broken("fp32", measured):
        measured = list(settled(measured, parity.reordered(again(), recorded)))
    try:
        gate(precision, measured, variant)
    except ParityError as error:
        raise explained(error, again, recipes, [item.case for item in recorded], measured) from None
    judged: dict[str, Any] = {}
    if text is not None:
        # A cache that rounds is seen by who reads it: not by the call that fills it.
        whole = all(recipe.cache is None for recipe in recipes.values())
        found = (text if whole else text.in_pieces()).judged(parts)
        found.gate(precision, variant)
        judged = {text.metric: found.to_json()}
    for name, item in lowered.items():
        own = [figures for figures in measured if figures.component == name]
        state = item.recipe.dialect.state if components[name].states else {}
        made = _variant(item, own, promised[name], state)
        yield (made._replace(parity={**made.parity, **judged}) if name == last else made), name


def _loaded(item: _Lowered, component: Component, writer: ArtifactWriter) -> Loaded:
    """A staged graph, with the options it ships with."""
    chosen = item.recipe
    runner = backend_for(chosen.engine, chosen.provider).load(
        writer.path_of(item.emitted.graph), session=chosen.session, isa=chosen.isa, threads=None
    )
    return Loaded(runner, component.inputs, component.outputs, component.states, chosen.dialect.state)


def _variant(
    item: _Lowered, measured: Sequence[Measured], promised: Mapping[str, int], state: Mapping[str, Any]
) -> Variant:
    chosen = item.recipe
    strained = conditioning(chosen.precision, measured)
    return Variant(
        name=chosen.variant,
        graph=item.emitted.graph,
        target=chosen.target,
        precision=chosen.precision,
        dialect=chosen.dialect.name,
        provider=chosen.provider,
        engine=chosen.engine,
        opset=item.opsets,
        session=dict(chosen.session),
        isa=chosen.isa,
        weights=item.emitted.weights,
        operators=item.operators,
        fusions=contract.fusions(promised, chosen.dialect.name),
        fingerprint=item.fingerprint,
        recipe=tuple({"pass": r.name, "changed": r.changed, "declined": r.declined} for r in item.reports),
        parity={
            "gate": chosen.precision,
            "worst": {
                name: {key: float(f"{value:.9g}") for key, value in entry.items()}
                for name, entry in summarise(chosen.precision, measured).items()
            },
            "measured": [figures.to_json() for figures in measured],
            **({"conditioning": strained} if strained else {}),
        },
        producer=_producer(),
        work=item.work,
        state=state,
    )


def _outs(signature: Signature, model: ir.Model) -> tuple[Out, ...]:
    """A component's outputs, of the types and shapes its graph gives them."""
    values = zip(signature.outs, model.graph.outputs, strict=True)
    return tuple(
        out._replace(shape=tuple(_dim(dim) for dim in value.shape or ()), dtype=_dtype(value)) for out, value in values
    )


def _dtype(value: ir.Value) -> str:
    return str((value.dtype or ir.DataType.FLOAT).numpy())


def _dim(dim: Any) -> int | str:
    return dim if isinstance(dim, int) else str(getattr(dim, "value", dim))


def _producer() -> dict[str, str]:
    names = ("precast", "torch", "onnx", "onnx-ir", "onnxscript", "onnxruntime")
    found = {}
    for name in names:
        # Local version labels (+cpu, +cu130) name a build, not what it computes.
        found[name] = re.sub(r"\+.*", "", torch.__version__ if name == "torch" else _version(name))
    return found


def _version(name: str) -> str:
    if name == "onnxruntime":
        return str(engine().__version__)
    return version(name)
