"""What an export does with torch: a checkpoint's graphs, staged, and the record that they are held to."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx_ir as ir
import torch

from precast.calibration.evaluation_set import EvaluationSet
from precast.calibration.staged import staged
from precast.export import evaluation, parity, static_embedding
from precast.export.checkpoints.checkpoint import Checkpoint
from precast.export.checkpoints.open import open_checkpoint
from precast.export.embedding import declared_task
from precast.export.locate import explained
from precast.export.operators import counted
from precast.export.prepared import Lowered, Prepared, Request
from precast.export.processing import write_processing
from precast.export.reference import Part, Reference, build, served_tasks
from precast.export.sensitivity import sensitivity
from precast.export.signatures import Signature
from precast.export.trace import trace
from precast.graphs import contract
from precast.graphs.block_weight import META, Blocks
from precast.graphs.emit import Written
from precast.graphs.passes.base import run
from precast.graphs.passes.quantize_weights import QuantizeWeights
from precast.graphs.recipes import Evidence, Recipe, assigned, recipes_for
from precast.runtime.artifact import ArtifactWriter, Component, FileRecord, Source, Variant
from precast.runtime.backends.engines import backend_for
from precast.runtime.errors import InputError, ParityError
from precast.runtime.gates import Measured
from precast.runtime.metrics import metric_for
from precast.runtime.outs import Out
from precast.runtime.parity import write_record

__all__ = ["explain", "outs", "prepare", "reordered"]


def prepare(request: Request, writer: ArtifactWriter, stage: Callable[[str], None]) -> Prepared:
    """Stage a checkpoint's graphs, weights and data in ``writer``, and the record of what the reference computes.

    Args:
        stage: called with the name of each stage as it begins.

    Raises:
        PrecastError: one of its kinds, with what was wrong and what to do.
    """
    known = recipes_for(request.target, request.precision, request.cache)
    stage("reading the checkpoint")
    checkpoint = open_checkpoint(request.source, revision=request.revision, token=request.token)
    reference = _reference(checkpoint, request.task)
    weights = sum(value.nbytes for value in {id(v): v for v in reference.model.parameters()}.values())
    writer.ensure_space(weights)
    made_by = _missing(_fitting(known, reference), writer)
    metric = metric_for(request.precision, reference.head.task, _what(reference))
    processing, tokenizer = write_processing(checkpoint, reference, writer)

    source = Source(
        checkpoint.id,
        checkpoint.revision,
        {name: FileRecord(info.size, info.sha256) for name, info in checkpoint.digests().items()},
    )
    names = [part.name for part in reference.parts]
    variants = [(name, recipes[name].variant) for name in names for recipes in made_by]
    writer.admit(source, reference.model_type, variants)

    stage("tracing")
    traced = {part.name: _trace(part, reference.blocks) for part in reference.parts}
    components = {part.name: _component(part, traced[part.name]) for part in reference.parts}
    checkpoint.release()

    text: EvaluationSet | None = None
    evidence: dict[str, Evidence] = {}
    if metric is not None:
        stage("reading text with the reference")
        with parity.streaming(reference.model, checkpoint.release):
            text = evaluation.evaluation_set(reference.parts, tokenizer, metric)
        roundings = _roundings(made_by[0])
        if roundings:
            stage("rounding weights in the reference, to see which need more bits")
            with parity.streaming(reference.model, checkpoint.release):
                sensitive, _ = sensitivity(reference.parts, traced, roundings, text, request.precision)
            evidence = {name: Evidence(sensitive=names) for name, names in sensitive.items()}

    stage("optimising the graph and writing the weights")
    promised = {part.name: counted(part.module, part.signature.example()) for part in reference.parts}
    written = Written(checkpoint.release)
    lowered: list[Lowered] = []
    for recipes in made_by:
        made = {
            name: _lower(
                recipes[name], evidence.get(name, Evidence()), components[name], model, promised[name], writer, written
            )
            for name, model in traced.items()
        }
        _check_rounded(made.values(), recipes, _what(reference))
        lowered.append(Lowered(made, any(recipe.cache is not None for recipe in recipes.values())))

    stage("computing the reference, in float32 and float64")
    with parity.streaming(reference.model, checkpoint.release):
        recorded = parity.record(reference.parts, parity.cases_for(reference.parts))
    record = f"parity/{names[-1]}.npz"
    writer.write_bytes(record, write_record(recorded))
    return Prepared(
        checkpoint=_place(request, checkpoint),
        source=source,
        model_type=reference.model_type,
        tasks=served_tasks(reference.head, reference.spec),
        processing={
            **processing,
            "ignored_weights": list(reference.ignored),
            "ignored_config": list(reference.ignored_config),
        },
        components=components,
        lowered=lowered,
        recorded=recorded,
        record=record,
        text=text,
    )


def reordered(request: Request, prepared: Prepared) -> Iterator[dict[tuple[str, str], dict[str, float]]]:
    """See `precast.export.parity.reordered`: of the reference, made anew."""
    return parity.reordered(_again(request, prepared).parts, prepared.recorded)


def explain(
    error: ParityError, request: Request, prepared: Prepared, variant: str, measured: Sequence[Measured]
) -> ParityError:
    """See `precast.export.locate.explained`: of ``variant``, whose graphs were refused."""
    known = recipes_for(request.target, request.precision, request.cache)
    fitting = _fitting(known, _again(request, prepared))
    recipes = next(one for one in fitting if all(recipe.variant == variant for recipe in one.values()))
    cases = [item.case for item in prepared.recorded]
    return explained(error, lambda: _again(request, prepared).parts, recipes, cases, measured)


def _reference(checkpoint: Checkpoint, task: str | None) -> Reference:
    return build(
        checkpoint.config,
        checkpoint.tensors,
        task or declared_task(checkpoint),
        family=static_embedding.FAMILY if static_embedding.holds(checkpoint.modules) else None,
        release=checkpoint.release,
    )


def _again(request: Request, prepared: Prepared) -> Reference:
    """The reference once more, where a refusal is doubted or to be explained."""
    return _reference(open_checkpoint(prepared.checkpoint), request.task)


def _place(request: Request, checkpoint: Checkpoint) -> Path:
    """What opens the same checkpoint, now that it is here."""
    given = Path(request.source).expanduser()
    return given if given.exists() else checkpoint.folder


def _what(reference: Reference) -> str:
    return f"a {reference.model_type} for {reference.head.task}"


def _trace(part: Part, blocks: Mapping[torch.nn.Parameter, Blocks]) -> ir.Model:
    """The part's graph; initializers know the blocks that the checkpoint holds them in."""
    signature = part.signature
    traced = trace(part.module, signature.example(), signature.dynamic, signature.outputs, part.name, signature.bounds)
    for name, parameter in part.module.named_parameters(remove_duplicate=False):
        if parameter in blocks and name in traced.graph.initializers:
            traced.graph.initializers[name].meta[META] = blocks[parameter]
    return traced


def _fitting(known: Sequence[Recipe], reference: Reference) -> list[dict[str, Recipe]]:
    """The recipe of each component, in each variant that this machine can run: others cannot be verified here, and the
    one that runs anywhere always is made.

    Raises:
        InputError: there is none for a component of this model; or not here.
    """
    fitting = assigned(known, {part.name: part.signature.role for part in reference.parts}, _what(reference))
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


def _check_rounded(made: Iterable[Variant], recipes: Mapping[str, Recipe], what: str) -> None:
    """Raises InputError where weights were to be rounded and no component has one."""
    if not _roundings(recipes):
        return
    steps = {step.name for recipe in recipes.values() for step in recipe.passes() if isinstance(step, QuantizeWeights)}
    if not any(step["changed"] for variant in made for step in variant.recipe if step["pass"] in steps):
        [precision] = {recipe.precision for recipe in recipes.values()}
        raise InputError(
            f"precision {precision!r} is made of the weights of linear layers and of token embeddings, and {what} has "
            "none of these: it would be what fp32 is. Export it with precision fp32."
        )


def _roundings(recipes: Mapping[str, Recipe]) -> dict[str, QuantizeWeights]:
    """The pass that rounds weights, of each component whose recipe needs to know which of them are sensitive."""
    return {
        name: next(step for step in recipe.passes() if isinstance(step, QuantizeWeights))
        for name, recipe in recipes.items()
        if recipe.evidence == "weights"
    }


def _lower(
    chosen: Recipe,
    evidence: Evidence,
    component: Component,
    traced: ir.Model,
    promised: Mapping[str, int],
    writer: ArtifactWriter,
    written: Written,
) -> Variant:
    """Make the graph of one recipe from the traced one and write it; equal weights are stored once."""
    vocabulary = contract.vocabulary(traced)
    model = traced.clone()
    reports = run(model, chosen.passes(evidence))
    operators = contract.operators(model)
    contract.check(promised, vocabulary, operators, chosen.dialect.name, reports)
    fusions = contract.fusions(promised, chosen.dialect.name)
    return staged(chosen, component, model, reports, fusions, writer, written)


def _component(part: Part, traced: ir.Model) -> Component:
    signature = part.signature
    made = outs(signature, traced)
    return Component(part.name, signature.ports, made, {}, signature.dims, parity.successors(signature))


def outs(signature: Signature, model: ir.Model) -> tuple[Out, ...]:
    """A component's outputs, of the types and shapes its graph gives them; what is computed of its inputs' dimensions
    has the name that the output gives it."""
    named = {dim for port in signature.ports for dim in port.shape if isinstance(dim, str)}

    def shape(out: Out, value: ir.Value) -> tuple[int | str, ...]:
        found = tuple(_dim(dim) for dim in value.shape or ())
        if len(found) != len(out.shape):
            return found
        return tuple(
            dim if isinstance(dim, int) or dim in named else own for dim, own in zip(found, out.shape, strict=True)
        )

    values = zip(signature.outs, model.graph.outputs, strict=True)
    return tuple(out._replace(shape=shape(out, value), dtype=_dtype(value)) for out, value in values)


def _dtype(value: ir.Value) -> str:
    return str((value.dtype or ir.DataType.FLOAT).numpy())


def _dim(dim: Any) -> int | str:
    return dim if isinstance(dim, int) else str(getattr(dim, "value", dim))
