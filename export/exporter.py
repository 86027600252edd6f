"""export_model(): from a checkpoint to a published artifact, the stages in order."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from precast.calibration.cost import Cost, Progress
from precast.calibration.shipped import figures, loaded, producer
from precast.export import apart
from precast.export.prepared import Lowered, Prepared, Request
from precast.runtime import arguments
from precast.runtime.artifact import ArtifactWriter, Manifest, Variant
from precast.runtime.errors import InputError, ParityError
from precast.runtime.gates import Measured, broken, gate, settled
from precast.runtime.parity import compare

__all__ = ["Progress", "export_model"]

_MADE_BY = ("torch", "onnx", "onnx-ir", "onnxscript")


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
    request = Request(
        source if isinstance(source, str) else Path(source), task, precision, target, cache, revision, token
    )
    cost = Cost(progress)
    mode = "add" if add else "overwrite" if overwrite else "create"
    with ArtifactWriter(arguments.path("out", out), mode=mode) as writer:
        prepared = _prepared(request, writer, cost)

        cost.stage("verifying the graph against it")
        components = dict(prepared.components)
        for lowered in prepared.lowered:
            for name, variant in _verified(lowered, request, prepared, writer):
                component = components[name]
                components[name] = component._replace(variants={**component.variants, variant.name: variant})
            _return_memory()

        cost.stage("publishing")
        *_, asked = components  # what a task asks for
        cases = [item.case.name for item in prepared.recorded]
        manifest = Manifest(
            source=prepared.source,
            model_type=prepared.model_type,
            tasks={name: {"component": asked} for name in prepared.tasks},
            default_task=prepared.tasks[0],
            components=components,
            producer=producer(*_MADE_BY),
            processing=prepared.processing,
            parity={name: {"file": prepared.record, "cases": cases} for name in components},
            cost=cost.to_json(),
        )
        return writer.publish(manifest)


def _prepared(request: Request, writer: ArtifactWriter, cost: Cost) -> Prepared:
    """Everything that needs torch, here or in a process of its own."""
    if apart.possible():
        prepared, cost.peak = apart.prepare_apart(request, writer, cost.stage)
        return prepared
    from precast.export.preparation import prepare

    prepared = prepare(request, writer, cost.stage)
    _return_memory()  # the sessions to come hold weights of their own
    return prepared


def _return_memory() -> None:
    """Give freed memory back to the system: tracing leaves a heap full of holes, and the session needs room."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)  # glibc only; elsewhere there is nothing to do


def _verified(
    lowered: Lowered, request: Request, prepared: Prepared, writer: ArtifactWriter
) -> Iterator[tuple[str, Variant]]:
    """Run the staged graphs of one recipe, with the options they ship with, on every recorded input, and hold them to
    the gate; then the variant of each component."""
    parts = {name: loaded(variant, prepared.components[name], writer) for name, variant in lowered.variants.items()}
    *_, last = lowered.variants  # what a task asks for
    precision, made = lowered.variants[last].precision, lowered.variants[last].name
    measured: list[Measured] = list(compare(parts, prepared.recorded))
    if precision == "fp32" and broken("fp32", measured):
        from precast.export.preparation import reordered

        measured = list(settled(measured, reordered(request, prepared)))
    try:
        gate(precision, measured, made)
    except ParityError as error:
        from precast.export.preparation import explain

        raise explain(error, request, prepared, made, measured) from None
    judged: dict[str, Any] = {}
    if prepared.text is not None:
        # A cache that rounds is seen by who reads it: not by the call that fills it.
        text = prepared.text.in_pieces() if lowered.rounds_cache else prepared.text
        found = text.judged(parts)
        found.gate(precision, made)
        judged = {text.metric: found.to_json()}
    for name, variant in lowered.variants.items():
        said = figures(variant.precision, [item for item in measured if item.component == name])
        yield name, variant._replace(parity=said | (judged if name == last else {}), producer=producer(*_MADE_BY))
