"""A loaded graph takes and gives what the manifest says: what is allocated and indexed by the one fits the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from precast.runtime.artifact import Component, Variant
from precast.runtime.backends.base import Runner
from precast.runtime.errors import ArtifactError, listing
from precast.runtime.ports import Out, Port
from precast.runtime.states import int8_slot, takes_slots

__all__ = ["check_graph"]


def check_graph(component: Component, variant: Variant, runner: Runner) -> None:
    """Compare names, types, ranks and fixed sizes of all inputs and outputs.

    Raises:
        ArtifactError: naming the graph and what differs.
    """
    states = {name for state in component.states for name in (state.input, state.output)}
    pairs = (
        ("takes", component.inputs, runner.input_specs, runner.input_names),
        ("gives", component.outputs, runner.output_specs, runner.output_names),
    )
    for verb, specs, found, names in pairs:
        expected = {spec.name for spec in specs}
        if expected != set(names):
            raise ArtifactError(
                f"{variant.graph} {verb} {listing(sorted(names))}, its manifest says {listing(sorted(expected))}. "
                "Export it again."
            )
        for spec in specs:
            wanted = _stored(spec, variant.state) if spec.name in states else spec
            actual = found[spec.name]
            if not _agree(wanted, actual):
                raise ArtifactError(
                    f"{variant.graph} {verb} {spec.name!r} as {_form(actual)}, its manifest says {_form(wanted)}. "
                    "Export it again."
                )


def _stored(spec: Port | Out, layout: Mapping[str, Any]) -> Port | Out:
    """A state as the variant's graph holds it."""
    last = spec.shape[-1] if spec.shape else None
    if layout.get("int8") is True and takes_slots(spec) and isinstance(last, int):
        return spec._replace(dtype="int8", shape=(*spec.shape[:-1], int8_slot(last)))
    return spec


def _agree(wanted: Port | Out, found: Port | Out) -> bool:
    """A name stands for any size."""
    fixed: Sequence[tuple[Any, Any]] = [
        pair for pair in zip(wanted.shape, found.shape, strict=False) if all(isinstance(size, int) for size in pair)
    ]
    same = wanted.dtype == found.dtype and len(wanted.shape) == len(found.shape)
    return same and all(one == other for one, other in fixed)


def _form(spec: Port | Out) -> str:
    return f"{spec.dtype} [{', '.join(map(str, spec.shape))}]"
