"""How components are wired: a port is filled by the caller, by its default, or by another component's output."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any, NamedTuple

from precast.runtime.artifact import Artifact, Component, Variant
from precast.runtime.backends.base import Array, Runner
from precast.runtime.errors import InputError, listing
from precast.runtime.ports import Port

__all__ = ["Flow", "Part", "in_order", "needed"]


class Part(NamedTuple):
    """A component that is loaded: what the manifest says of it, and its graph."""

    component: Component
    variant: Variant
    runner: Runner


def in_order(components: Mapping[str, Component], last: str) -> tuple[str, ...]:
    """The components that ``last`` needs, in the order they run, itself at the end."""
    found: dict[str, None] = {}

    def visit(name: str) -> None:
        for port in components[name].inputs:
            if port.origin is not None and port.origin[0] not in found:
                visit(port.origin[0])
        found[name] = None

    visit(last)
    return tuple(found)


def needed(artifact: Artifact, last: str) -> tuple[str, ...]:
    """The components that ``last`` needs: also those whose outputs the runtime sets out for it."""
    first = artifact.reading("alignment").get("component")
    kinds = [artifact.reading(kind).get("components", []) for kind in ("frames", "stages", "ranked")]
    named = [first] if first is not None else next(filter(None, kinds), [])
    before = [artifact.component(str(name)).name for name in (named if isinstance(named, list) else [named])]
    return tuple(dict.fromkeys(part for name in (*before, last) for part in in_order(artifact.components, name)))


class Flow:
    """Loaded components, in the order they run; the last one is what is asked for."""

    def __init__(self, parts: Mapping[str, Part]) -> None:
        self.parts = dict(parts)
        *before, self.last = self.parts
        self.before = tuple(before)

    def to(self, name: str) -> Flow:
        """The flow that ends at another one of its components: an artifact may hold several decoders, each at the end
        of its own."""
        components = {key: part.component for key, part in self.parts.items()}
        return Flow({key: self.parts[key] for key in in_order(components, name)})

    def given(self) -> tuple[Port, ...]:
        """The ports that a caller may fill, of all components; those with a source he may leave out."""
        found: dict[str, Port] = {}
        for part in self.parts.values():
            for port in part.component.inputs:
                found.setdefault(port.name, port)
        return tuple(found.values())

    def run(self, given: Mapping[str, Array]) -> dict[str, Array]:
        """Outputs of every component that can run with what is given and of whose outputs one is not given, the last
        one's first.

        Raises:
            InputError: none can run, or something that is given goes into none of those that can.
        """
        made, used = self._made(given, self.parts)
        if not made or given.keys() - used:
            self._refuse(given)
        outputs: dict[str, Array] = {}
        for name in reversed(made):
            outputs |= {key: value for key, value in made[name].items() if key not in outputs}
        return outputs

    def read(self, given: Mapping[str, Array]) -> tuple[dict[str, Array], dict[str, Array]]:
        """What the last component reads of the others, and all they made, once for many calls of it."""
        made, _ = self._made(given, self.before)
        read = {
            port.name: self._value(port, given, made)
            for port in self.parts[self.last].component.inputs
            if port.origin is not None
        }
        return read, {name: value for outputs in made.values() for name, value in outputs.items()}

    def _made(self, given: Mapping[str, Array], names: Collection[str]) -> tuple[dict[str, dict[str, Array]], set[str]]:
        """Outputs by component, and which of the given arrays went in."""
        made: dict[str, dict[str, Array]] = {}
        used: set[str] = set()
        for name in self._reached(given, names):
            component, _, runner = self.parts[name]
            inputs = {port.name: self._value(port, given, made) for port in component.inputs}
            used |= inputs.keys() & given.keys()
            made[name] = dict(zip(runner.output_names, runner.run(inputs), strict=True))
        return made, used

    def _reached(self, given: Mapping[str, Any], names: Collection[str]) -> Iterator[str]:
        """The components to run, in order: with everything they need, and with an output that is not given already."""
        reached: set[str] = set()
        for name in names:
            component = self.parts[name].component
            wanted = name == self.last or any(out.name not in given for out in component.outputs)
            filled = all(
                port.name in given or (port.origin is not None and port.origin[0] in reached)
                for port in component.inputs
            )
            if wanted and filled:
                reached.add(name)
                yield name

    @staticmethod
    def _value(port: Port, given: Mapping[str, Array], made: Mapping[str, Mapping[str, Array]]) -> Array:
        if port.name in given or port.origin is None:
            return given[port.name]
        component, name = port.origin
        return made[component][name] if name in made.get(component, {}) else given[name]

    def _refuse(self, given: Mapping[str, Any]) -> None:
        lacking = {
            name: [port.name for port in part.component.inputs if port.default is None and port.source is None]
            for name, part in self.parts.items()
        }
        needs = "; ".join(f"{name} needs {listing(names)}" for name, names in lacking.items() if names)
        raise InputError(f"nothing can be computed of {listing(given)} alone: {needs}.")
