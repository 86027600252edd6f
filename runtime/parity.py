"""What an artifact carries to prove what it computes: inputs, eager float32 outputs and their distance from float64.

So the gates of an export (`precast.runtime.gates`) can be held again wherever the artifact runs, without torch.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from precast.runtime.artifact import Component, StateSpec
from precast.runtime.backends.base import Array, Runner
from precast.runtime.gates import Measured, measure
from precast.runtime.ports import Out, Port
from precast.runtime.states import Memory

__all__ = [
    "Case",
    "Loaded",
    "Recorded",
    "compare",
    "filled",
    "finished",
    "run_cases",
    "write_record",
]

# Outputs recorded with an artifact; further cases are measured at export, and only their figures are kept.
RECORD_LIMIT = 8 << 20


@dataclass(frozen=True)
class Case:
    """One call every variant is tried on.

    Args:
        component: which part of the model is called.
        after: names of the cases that this call takes something up from: a decoder's cache, other components' outputs.
        capacity: tokens that the states of a call without predecessor have room for.
    """

    name: str
    inputs: Mapping[str, Array]
    component: str = "encoder"
    after: tuple[str, ...] = ()
    capacity: int = 0


@dataclass(frozen=True)
class Loaded:
    """A component ready to run: its graph, what goes in and out and, where it remembers something, how its states
    look."""

    runner: Runner
    inputs: Sequence[Port] = ()
    outputs: Sequence[Out] = ()
    states: Sequence[StateSpec] = ()
    layout: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Recorded:
    """A case with what the reference made of it: float32 outputs, and float64 outputs ("the truth"); of true and false
    both are bool."""

    case: Case
    reference: Mapping[str, Array]
    exact: Mapping[str, Array]


def filled(port: Port, components: Mapping[str, Component] | Mapping[str, Any]) -> bool:
    """Whether an output of another component goes into the port: a case then holds nothing for it."""
    if port.origin is None or port.origin[0] not in components or port.kind == "codes":
        return False
    return any(out.name == port.origin[1] for out in components[port.origin[0]].outputs)


def compare(parts: Mapping[str, Loaded], recorded: Sequence[Recorded]) -> Iterator[Measured]:
    """Measure every recorded output of every case; ``parts`` are the components the cases call, by name."""
    outs = {name: {out.name: out for out in part.outputs} for name, part in parts.items()}
    for item, outputs in run_cases(parts, recorded):
        case = item.case
        for name, expected in item.reference.items():
            out = outs[case.component][name]
            yield measure(out, case.name, outputs[name], expected, item.exact[name], case.component)


def run_cases(
    parts: Mapping[str, Loaded], recorded: Sequence[Recorded]
) -> Iterator[tuple[Recorded, Mapping[str, Array]]]:
    """Every case with what the loaded components make of it.

    States go from case to case in place, as they do when the model is used.
    """
    memories: dict[str, Memory] = {}
    made: dict[str, dict[str, Array]] = {}
    for item, over in zip(recorded, finished([item.case for item in recorded]), strict=True):
        case = item.case
        part = parts[case.component]
        # What other components made goes into every call behind theirs.
        before = {name: array for other in case.after for name, array in made[other].items()}
        inputs = {**case.inputs, **_read(part.inputs, case.inputs, before)}
        if part.states:
            outputs = _step(part, case, inputs, item.reference, memories)
        else:
            outputs = dict(zip(part.runner.output_names, part.runner.run(inputs), strict=True))
        made[case.name] = before if part.states else {**before, **outputs}
        for name in over:
            made.pop(name, None)
            memories.pop(name, None)
        yield item, outputs


def finished(cases: Sequence[Case]) -> Iterator[list[str]]:
    """After each case in order, the names of those from which nothing is taken up any more: what they left behind, the
    caches of whole texts, need be held no longer."""
    last = {case.name: index for index, case in enumerate(cases)}
    last |= {name: index for index, case in enumerate(cases) for name in case.after}
    for index, case in enumerate(cases):
        yield [name for name in (case.name, *case.after) if last.get(name) == index]


def _read(ports: Sequence[Port], given: Mapping[str, Array], before: Mapping[str, Array]) -> dict[str, Array]:
    """What fills the ports that a case leaves to other components."""
    origins = {port.name: port.origin[1] for port in ports if port.origin is not None and port.name not in given}
    return {name: before[found] for name, found in origins.items() if found in before}


def _step(
    part: Loaded,
    case: Case,
    inputs: Mapping[str, Array],
    reference: Mapping[str, Array],
    memories: dict[str, Memory],
) -> dict[str, Array]:
    """One call of a component with states."""
    rows = len(next(iter(case.inputs.values())))
    memory = next((memories[name] for name in case.after if name in memories), None)
    if memory is None:
        memory = part.runner.memory(part.inputs, part.states, rows=rows, capacity=case.capacity, layout=part.layout)
    memories[case.name] = memory
    outputs = {name: np.zeros_like(array) for name, array in reference.items()}
    memory.prepare(rows, inputs, outputs)()
    return outputs


def write_record(recorded: Sequence[Recorded]) -> bytes:
    """The record as an .npz of fixed bytes: no times, no pickles. float64 is kept as its distance from float32, to
    which true and false are 1 and 0.

    Cases are kept in order until `RECORD_LIMIT` is reached, the first one always; none without those it goes on from.
    """
    packed, size = io.BytesIO(), 0
    kept: set[str] = set()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_STORED) as archive:
        for index, item in enumerate(recorded):
            arrays = {f"{index}|{item.case.name}|input|{name}": array for name, array in item.case.inputs.items()}
            for name, array in item.reference.items():
                arrays[f"{index}|{item.case.name}|output|{name}"] = array
                exact = item.exact[name].astype(np.float64)
                # Of what is infinite alike there is none.
                distance = np.subtract(exact, array, out=np.zeros_like(exact), where=np.isfinite(exact))
                distance = distance.astype(np.float32)
                arrays[f"{index}|{item.case.name}|distance|{name}"] = distance
            case = item.case
            if case.component != "encoder" or case.after:
                chain = ">".join((case.component, *case.after))
                arrays[f"{index}|{case.name}|chain|{chain}"] = np.array([case.capacity])
            needed = sum(array.nbytes for array in arrays.values())
            if (index and size + needed > RECORD_LIMIT) or not kept.issuperset(case.after):
                continue
            size += needed
            kept.add(case.name)
            for name, array in arrays.items():
                data = io.BytesIO()
                np.lib.format.write_array(data, np.ascontiguousarray(array), allow_pickle=False)
                archive.writestr(zipfile.ZipInfo(f"{name}.npy", (1980, 1, 1, 0, 0, 0)), data.getvalue())
    return packed.getvalue()
