"""A parity record read back: every array, name and size is held to what the manifest says before a graph sees it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import NoReturn

import numpy as np

from precast.runtime.arrays import read_npz
from precast.runtime.artifact import Component
from precast.runtime.backends.base import Array
from precast.runtime.errors import ArtifactError, listing
from precast.runtime.fields import shown
from precast.runtime.parity import Case, Recorded, filled
from precast.runtime.ports import Out, Port

__all__ = ["read_record"]

_AGAIN = "Export or download it again."
_KEY = re.compile(r"([0-9]{1,6})\|([^|]{1,200})\|(input|output|distance|chain)\|([^|]{1,200})")
_MOST_TOKENS = 1 << 20


def read_record(data: bytes, components: Sequence[Component]) -> list[Recorded]:
    """The cases of `precast.runtime.parity.write_record`, in order, which call ``components``.

    Raises:
        ArtifactError: it is no such record; it has no case of a component; or a case lacks an input or an output that
            the manifest promises, or holds one of another type, shape or range.
    """
    cases = [_recorded(index, name, parts) for (index, name), parts in _grouped(data).items()]
    known = {component.name: component for component in components}
    promised = {name: _promised(component, known) for name, component in known.items()}
    room: dict[str, int] = {}
    for item in cases:
        case = item.case
        where = f"case {shown(case.name)}"
        if case.component not in known:
            _refuse(f"{where} must call one of {listing(sorted(known))}", case.component)
        if case.name in room or not room.keys() >= set(case.after):
            _refuse(f"{where} must have a name of its own and go on from cases before it", listing(case.after))
        room[case.name] = max((room[name] for name in case.after), default=0) or case.capacity
        component = known[case.component]
        taken, given = promised[case.component]
        sizes: dict[str, int] = {}
        _check(f"{where}, inputs", case.inputs, taken, sizes)
        _check(f"{where}, outputs", item.reference, given, sizes)
        _check_ranges(where, case, component, room[case.name])
    missing = sorted(set(known) - {item.case.component for item in cases})
    if missing:
        _refuse("it must hold a case of every component", f"none of {listing(missing)}")
    return cases


def _grouped(data: bytes) -> dict[tuple[str, str], dict[str, dict[str, Array]]]:
    """(number, case) -> kind -> name -> array."""
    found: dict[tuple[str, str], dict[str, dict[str, Array]]] = {}
    for key, array in read_npz(data, "the parity record").items():
        match = _KEY.fullmatch(key)
        if match is None:
            _refuse("its arrays must be named number|case|input, output, distance or chain|name", key)
        parts = found.setdefault((match[1], match[2]), {"input": {}, "output": {}, "distance": {}, "chain": {}})
        parts[match[3]][match[4]] = array
    return found


def _recorded(index: str, name: str, parts: Mapping[str, Mapping[str, Array]]) -> Recorded:
    outputs, distances = parts["output"], parts["distance"]
    where = f"case {shown(name)}"
    fed = parts["input"] or any(">" in place for place in parts["chain"])
    if not fed:  # what a component makes for others alone is no output of a case
        _refuse(f"{where} must hold inputs", f"{len(parts['input'])}")
    for output, array in outputs.items():
        distance = distances.get(output)
        typed = array.dtype in (np.float32, np.bool_, np.int64)
        if distance is None or distance.shape != array.shape or not typed or distance.dtype != np.float32:
            kinds = "must be float32, true and false or whole numbers, with a distance of its shape"
            _refuse(f"{where}, output {shown(output)} {kinds}", array.dtype)
    exact = {output: _exact(where, output, array, distances[output]) for output, array in outputs.items()}
    if len(parts["chain"]) > 1:
        _refuse(f"{where} must have one place in a chain", listing(parts["chain"]))
    for place, array in parts["chain"].items():
        component, *after = place.split(">")
        if array.shape != (1,) or array.dtype.kind != "i" or not 0 <= array[0] <= _MOST_TOKENS:
            _refuse(f"{where} must have room for 0 to {_MOST_TOKENS} tokens", array.tolist())
        return Recorded(Case(name, parts["input"], component, tuple(after), int(array[0])), outputs, exact)
    return Recorded(Case(name, parts["input"]), outputs, exact)


def _exact(where: str, output: str, array: Array, distance: Array) -> Array:
    """The float64 output that is so far from the recorded one."""
    exact: Array = array + distance.astype(np.float64)
    if array.dtype == np.int64:
        if not np.array_equal(exact, np.rint(exact)):
            _refuse(f"{where}, output {shown(output)} must be whole numbers in float64 too", "a distance that is none")
        return exact.astype(np.int64)
    if array.dtype != bool:
        return exact
    truth: Array = exact == 1
    if not np.isin(exact, (0, 1)).all():
        _refuse(f"{where}, output {shown(output)} must be true or false in float64 too", "a distance past that")
    return truth


def _promised(component: Component, components: Mapping[str, Component]) -> tuple[list[Port], list[Out]]:
    """What a case gives to a component, and what it records of it: no states, and of what goes to another component
    nothing that is that one's alone."""
    given = {port.name for port in component.inputs if filled(port, components)}
    given |= {state.input for state in component.states}
    hidden = {state.output for state in component.states}
    hidden |= {out.name for out in component.outputs if out.kind == "features"}
    return (
        [port for port in component.inputs if port.name not in given],
        [out for out in component.outputs if out.name not in hidden],
    )


def _check(where: str, arrays: Mapping[str, Array], specs: Sequence[Port | Out], sizes: dict[str, int]) -> None:
    """Names, types and shapes; a dimension's name stands for one size in all arrays of a case."""
    names = [spec.name for spec in specs]
    if set(arrays) != set(names):
        _refuse(f"{where} must be those of the manifest ({listing(names)})", listing(sorted(arrays)))
    for spec in specs:
        array = arrays[spec.name]
        fits = array.dtype == spec.dtype and array.ndim == len(spec.shape) and array.size > 0
        for dim, size in zip(spec.shape, array.shape, strict=False):
            fits = fits and size == (sizes.setdefault(dim, size) if isinstance(dim, str) else dim)
        if not fits:
            shape = ", ".join(str(dim if isinstance(dim, int) else sizes.get(dim, dim)) for dim in spec.shape)
            _refuse(f"{where}: {shown(spec.name)} must be {spec.dtype} [{shape}]", f"{array.dtype} {list(array.shape)}")


def _check_ranges(where: str, case: Case, component: Component, room: int) -> None:
    """What indexes a table or a cache stays inside it."""
    for port in component.inputs:
        bound, array = port.below, case.inputs.get(port.name)
        if bound is not None and array is not None and not (array.min() >= 0 and array.max() < bound):
            _refuse(f"{where}: {port.name} must be 0 to {bound - 1}", f"{array.min()} to {array.max()}")
        if port.kind == "rows" and array is not None and array.min() < -1:
            _refuse(f"{where}: {port.name} must be -1, for none, or a row", f"{array.min()}")
    if "past_lengths" in case.inputs and "lengths" in case.inputs:
        past, new = case.inputs["past_lengths"], case.inputs["lengths"]
        if past.min() < 0 or new.min() < 0 or max(past.max(), new.max()) > room or (past + new).max() > room:
            _refuse(f"{where} must need no more than its room for {room} tokens", f"{past.max()} and {new.max()}")


def _refuse(rule: str, value: object) -> NoReturn:
    raise ArtifactError(f"the parity record is damaged: {rule}, got {shown(value)}. {_AGAIN}")
