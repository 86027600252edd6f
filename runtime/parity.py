"""What "the same" means, measured: differences, gates, and the record that an artifact carries of them.

The record holds inputs, eager float32 outputs and their distance from float64, so that the gates of an export can be
held again wherever the artifact runs, without torch.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from precast.runtime.artifact import StateSpec, TensorSpec
from precast.runtime.backends.base import Array, Runner
from precast.runtime.divergence import kl_divergence
from precast.runtime.errors import ArtifactError, ParityError
from precast.runtime.states import Memory

__all__ = [
    "GATES",
    "Case",
    "Loaded",
    "Measured",
    "Recorded",
    "compare",
    "gate",
    "measure",
    "read_record",
    "replayed",
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
        after: the name of the case whose states this call takes up: a decoder's cache, an encoder's outputs.
        capacity: tokens that the states of a call without predecessor have room for.
    """

    name: str
    inputs: Mapping[str, Array]
    component: str = "encoder"
    after: str | None = None
    capacity: int = 0


@dataclass(frozen=True)
class Loaded:
    """A component ready to run: its graph and, where it remembers something, how its states look."""

    runner: Runner
    inputs: Sequence[TensorSpec] = ()
    states: Sequence[StateSpec] = ()
    layout: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Recorded:
    """A case with what the reference made of it: float32 outputs, and float64 outputs ("the truth")."""

    case: Case
    reference: Mapping[str, Array]
    exact: Mapping[str, Array]


@dataclass(frozen=True)
class Measured:
    """How far one output of one case is from the reference (PARITY.md): all figures over every element.

    ``error`` and ``reference_error`` are the largest differences from float64, of the artifact and of eager float32.
    """

    output: str
    case: str
    component: str
    max_abs: float
    max_rel: float
    cosine: float
    argmax: float
    error: float
    reference_error: float
    scale: float
    excess: float  # largest of abs diff / allowed; above 1 the gate is broken
    kl: float | None = None  # of logits: mean divergence in nats

    def to_json(self) -> dict[str, Any]:
        """Figures to three significant digits: they are evidence, not state."""
        return {
            "output": self.output,
            "case": self.case,
            **{
                key: float(f"{value:.3g}")
                for key, value in self.__dict__.items()
                if key not in ("output", "case", "component", "cosine", "argmax") and value is not None
            },
            "cosine": float(f"{self.cosine:.9f}"),
            "argmax": float(f"{self.argmax:.6f}"),
        }


def measure(
    output: str, case: str, ours: Array, reference: Array, exact: Array, component: str = "encoder"
) -> Measured:
    """Compare one output, [..., D]. A shape, NaN or Inf that differs is an infinite error."""
    if ours.shape != reference.shape or not np.array_equal(np.isfinite(ours), np.isfinite(reference)):
        inf = float("inf")
        return Measured(output, case, component, inf, inf, 0.0, 0.0, inf, inf, inf, inf)
    ours64, reference64 = ours.astype(np.float64), reference.astype(np.float64)
    difference = np.abs(ours64 - reference64)
    largest = float(np.abs(reference64).max(initial=0.0))
    scale = largest if largest > 10 else 1.0
    allowed = 1e-5 * scale + 1e-5 * np.abs(reference64)
    norms = np.linalg.norm(ours64, axis=-1) * np.linalg.norm(reference64, axis=-1)
    dots = (ours64 * reference64).sum(axis=-1)
    cosine = np.divide(dots, norms, out=np.ones_like(dots), where=norms > 0)
    return Measured(
        output=output,
        case=case,
        component=component,
        max_abs=float(difference.max(initial=0.0)),
        max_rel=float((difference / np.maximum(np.abs(reference64), 1e-6)).max(initial=0.0)),
        cosine=float(cosine.min(initial=1.0)),
        argmax=float((ours.argmax(-1) == reference.argmax(-1)).mean()) if ours.size else 1.0,
        error=float(np.abs(ours64 - exact).max(initial=0.0)),
        reference_error=float(np.abs(reference64 - exact).max(initial=0.0)),
        scale=scale,
        excess=float((difference / allowed).max(initial=0.0)),
        kl=float(kl_divergence(reference, ours).mean()) if output == "logits" and ours.size else None,
    )


def check_fp32(measured: Sequence[Measured]) -> list[str]:
    """The gate of P0 and P1: what breaks it, or an empty list.

    The error against float64 is compared over all cases of an output: the largest error of one short case is a
    handful of numbers, whose eager error is small by luck as often as not.
    """
    broken = []
    for item in measured:
        if not item.excess <= 1.0:
            broken.append(
                f"{item.output} {item.case}: abs diff {item.max_abs:.2e} is {item.excess:.2f} times the allowed "
                f"1e-5 * {item.scale:.3g} + 1e-5 * |ref|"
            )
    for output in dict.fromkeys(item.output for item in measured):
        ours = max(item.error for item in measured if item.output == output)
        eager = max(item.reference_error for item in measured if item.output == output)
        if not ours <= 2 * eager:
            broken.append(f"{output}: error {ours:.2e} against float64 is over twice eager's {eager:.2e}")
    for item in measured:
        if item.output in ("last_hidden_state", "pooler_output") and not item.cosine >= 0.999999:
            broken.append(f"{item.output} {item.case}: cosine {item.cosine:.9f} is below 0.999999")
    return broken


def check_finite(measured: Sequence[Measured]) -> list[str]:
    """What low precision owes on any input: numbers. How good they are is measured over text (`Divergence`)."""
    return [f"{item.output} {item.case}: not finite" for item in measured if not np.isfinite(item.excess)]


GATES: dict[str, Callable[[Sequence[Measured]], list[str]]] = {
    "fp32": check_fp32,
    "int8": check_finite,
    "int4": check_finite,
}
# Another processor's kernels may round other ways; twice what the export saw is another model.
_REPLAYED = 2.0
_LEAST = 1e-4


def replayed(precision: str, measured: Sequence[Measured], expected: Mapping[str, Any], variant: str) -> None:
    """Hold a replay to the gate of its precision and, in low precision, to what its export measured (``expected``).

    Raises:
        ParityError: every broken bound is listed.
    """
    gate(precision, measured, variant)
    if precision == "fp32":
        return
    seen = {(entry["output"], entry["case"]): entry for entry in expected.get("measured", ())}
    broken = []
    for item in measured:
        before = seen.get((item.output, item.case), {}).get("kl")
        if before is not None and item.kl is not None and not item.kl <= _REPLAYED * before + _LEAST:
            broken.append(f"{item.output} {item.case}: KL divergence {item.kl:.2e}, at its export {before:.2e}")
    if broken:
        raise ParityError(f"variant {variant} does not compute here what its export measured: {'; '.join(broken)}")


def gate(precision: str, measured: Sequence[Measured], variant: str) -> None:
    """Hold measurements to the gate of a precision.

    Raises:
        ParityError: every broken bound is listed.
    """
    broken = GATES[precision](measured)
    if broken:
        raise ParityError(
            f"variant {variant} does not compute what the reference model computes, and is refused: "
            + "; ".join(broken)
        )


def compare(parts: Mapping[str, Loaded], recorded: Sequence[Recorded]) -> Iterator[Measured]:
    """Measure every recorded output of every case; ``parts`` are the components the cases call, by name."""
    for item, outputs in run_cases(parts, recorded):
        for name, expected in item.reference.items():
            yield measure(name, item.case.name, outputs[name], expected, item.exact[name], item.case.component)


def run_cases(
    parts: Mapping[str, Loaded], recorded: Sequence[Recorded]
) -> Iterator[tuple[Recorded, Mapping[str, Array]]]:
    """Every case with what the loaded components make of it.

    States go from case to case in place, as they do when the model is used.
    """
    memories: dict[str, Memory] = {}
    given: dict[str, dict[str, Array]] = {}
    for item in recorded:
        case = item.case
        part = parts[case.component]
        if part.states:
            outputs = _step(part, case, item.reference, memories, given)
        else:
            outputs = dict(zip(part.runner.output_names, part.runner.run(case.inputs), strict=True))
            given[case.name] = outputs
        yield item, outputs


def _step(
    part: Loaded,
    case: Case,
    reference: Mapping[str, Array],
    memories: dict[str, Memory],
    given: dict[str, dict[str, Array]],
) -> dict[str, Array]:
    """One call of a component with states."""
    rows = len(next(iter(case.inputs.values())))
    if case.after in memories:
        memory = memories[case.after]
    else:
        memory = Memory(part.runner, part.inputs, part.states, rows=rows, capacity=case.capacity, layout=part.layout)
    memories[case.name] = memory
    # What an encoder made of the text goes into every call of its decoder.
    given[case.name] = given.get(case.after or "", {})
    wanted = {spec.name for spec in part.inputs}
    read = {name: array for name, array in given[case.name].items() if name in wanted}
    outputs = {name: np.zeros_like(array) for name, array in reference.items()}
    memory.prepare(rows, {**case.inputs, **read}, outputs)()
    return outputs


def write_record(recorded: Sequence[Recorded]) -> bytes:
    """The record as an .npz of fixed bytes: no times, no pickles. float64 is kept as its distance from float32.

    Cases are kept in order until `RECORD_LIMIT` is reached, the first one always; none without those it goes on from.
    """
    packed, size = io.BytesIO(), 0
    kept: set[str] = set()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_STORED) as archive:
        for index, item in enumerate(recorded):
            arrays = {f"{index}|{item.case.name}|input|{name}": array for name, array in item.case.inputs.items()}
            for name, array in item.reference.items():
                arrays[f"{index}|{item.case.name}|output|{name}"] = array
                distance = (item.exact[name] - array).astype(np.float32)
                arrays[f"{index}|{item.case.name}|distance|{name}"] = distance
            case = item.case
            if case.component != "encoder" or case.after is not None:
                chain = f"{index}|{case.name}|chain|{case.component}"
                arrays[chain if case.after is None else f"{chain}>{case.after}"] = np.array([case.capacity])
            needed = sum(array.nbytes for array in arrays.values())
            if (index and size + needed > RECORD_LIMIT) or (case.after is not None and case.after not in kept):
                continue
            size += needed
            kept.add(case.name)
            for name, array in arrays.items():
                data = io.BytesIO()
                np.lib.format.write_array(data, np.ascontiguousarray(array), allow_pickle=False)
                archive.writestr(zipfile.ZipInfo(f"{name}.npy", (1980, 1, 1, 0, 0, 0)), data.getvalue())
    return packed.getvalue()


def read_record(data: bytes) -> list[Recorded]:
    """The cases of `write_record`. Raises ArtifactError for anything else."""
    cases: dict[str, dict[str, dict[str, Array]]] = {}
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            for key in arrays.files:
                index, case, kind, name = key.split("|")
                cases.setdefault(f"{index}|{case}", {"input": {}, "output": {}, "distance": {}, "chain": {}})[kind][
                    name
                ] = arrays[key]
        return [
            Recorded(
                _case(key.split("|")[1], parts["input"], parts["chain"]),
                parts["output"],
                {name: array + parts["distance"][name].astype(np.float64) for name, array in parts["output"].items()},
            )
            for key, parts in cases.items()
        ]
    except (ValueError, KeyError, OSError, zipfile.BadZipFile) as error:
        raise ArtifactError(f"the parity record is damaged: {error}") from error


def _case(name: str, inputs: dict[str, Array], chain: dict[str, Array]) -> Case:
    for where, capacity in chain.items():
        component, _, after = where.partition(">")
        return Case(name, inputs, component, after or None, int(capacity[0]))
    return Case(name, inputs)
