"""What one field of a manifest says of another must hold, so that no later stage meets a name that leads nowhere."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

from precast.runtime.artifact.component import Component
from precast.runtime.artifact.file_names import check_file_names
from precast.runtime.errors import listing
from precast.runtime.fields import is_text, refuse

if TYPE_CHECKING:
    from precast.runtime.artifact.manifest import Manifest

__all__ = ["check_references"]

_WEIGHT = re.compile(r"weights/([0-9a-f]{64})\.bin")


def check_references(manifest: Manifest, own_name: str) -> None:
    """Of a manifest, whose own file is called ``own_name``.

    Raises:
        ArtifactError: naming the field, its rule and its value.
    """
    check_file_names(manifest.files, "files")
    if own_name in (name.lower() for name in manifest.files):
        refuse("files", f"without {own_name} itself", own_name)
    if not manifest.components:
        refuse("components", "one component or more", {})
    if manifest.default_task not in manifest.tasks:
        refuse("default_task", f"one of the tasks ({listing(sorted(manifest.tasks))})", manifest.default_task)
    for name, task in manifest.tasks.items():
        if not (is_text(task.get("component")) and task["component"] in manifest.components):
            known = listing(sorted(manifest.components))
            refuse(f"tasks.{name}.component", f"one of the components ({known})", task.get("component"))
    for component in manifest.components.values():
        taken, given = ({spec.name for spec in specs} for specs in (component.inputs, component.outputs))
        for state in component.states:
            if state.input not in taken or state.output not in given:
                where = f"components.{component.name}.states"
                refuse(where, "an input and an output of the component", [state.input, state.output])
        _check_states(component)
        _check_sources(component, manifest.components)
        for variant in component.variants.values():
            where = f"components.{component.name}.variants.{variant.name}"
            if variant.graph not in manifest.files:
                refuse(f"{where}.graph", "a file listed in 'files'", variant.graph)
            for path in variant.weights:
                match = _WEIGHT.fullmatch(path) or refuse(
                    f"{where}.weights", "paths of the form weights/<sha256>.bin", path
                )
                if path not in manifest.files or manifest.files[path].sha256 != match[1]:
                    refuse(f"{where}.weights", "files listed in 'files' under their own SHA-256", path)


def _check_states(component: Component) -> None:
    """States are arrays that calls replace in place: [batch, ...], of fixed sizes but for slots on the third axis."""
    inputs, outputs = ({spec.name: spec for spec in specs} for specs in (component.inputs, component.outputs))
    for index, state in enumerate(component.states):
        where = f"components.{component.name}.states[{index}]"
        if [other.input for other in component.states].count(state.input) > 1:
            refuse(f"{where}.input", "the input of one state", state.input)
        first, *sizes = inputs[state.input].shape or ("",)
        named = [axis for axis, size in enumerate(sizes, 1) if isinstance(size, str)]
        slots = len(sizes) == 3 and named == [2] and str(sizes[1]).startswith("capacity")
        old, new = inputs[state.input], outputs[state.output]
        fits = (old.dtype, old.shape) == (new.dtype, new.shape) and old.dtype == "float32"
        if first != "batch" or not (slots or not named) or not fits:
            rule = "float32 [batch, sizes ...] or [batch, heads, capacity, width], of one form before and after a call"
            refuse(where, rule, [old.to_json(), new.to_json()])


def _check_sources(component: Component, components: Mapping[str, Component]) -> None:
    """What one component takes of another is there, has its form, and leads to no circle."""
    for port in component.inputs:
        if port.origin is None:
            continue
        where = f"components.{component.name}.inputs.{port.name}.source"
        other, name = port.origin
        if other not in components or component.name in _before(components, other):
            refuse(where, "a component that can run before this one", port.source)
        found = components[other].output(name) or components[other].input(name)
        if found is None or found.dtype != port.dtype or len(found.shape) != len(port.shape):
            refuse(where, f"what {other!r} takes or gives as {port.dtype} of {len(port.shape)} dimensions", port.source)


def _before(components: Mapping[str, Component], name: str) -> set[str]:
    """The component and all that run in front of it."""
    found, waiting = set[str](), [name]
    while waiting:
        at = waiting.pop()
        if at not in found and at in components:
            found.add(at)
            waiting += [port.origin[0] for port in components[at].inputs if port.origin is not None]
    return found
