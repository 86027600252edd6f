"""What "the same" means, measured and judged: the figures of every output, and the gate of every precision for outputs
of every kind (PARITY.md).

A right model passes and a wrong one does not. What the constants of the float32 gate stand on is repeated by
``python -m benchmarks gate``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np

from precast.runtime.backends.base import Array
from precast.runtime.divergence import kl_divergence
from precast.runtime.errors import ParityError, listing
from precast.runtime.outs import Out

__all__ = [
    "CALM",
    "EAGER",
    "GATES",
    "LEAST",
    "STRAINED",
    "Bounds",
    "Gate",
    "Measured",
    "Population",
    "beside",
    "broken",
    "conditioning",
    "gate",
    "measure",
    "populations",
    "replayed",
    "settled",
    "share",
]


@dataclass(frozen=True)
class Bounds:
    """What an output may be, in multiples of eager's figures: the root mean square of its errors against float64, the
    largest of them, and its distance from eager's answer where that is more than a share of the scale allows."""

    rms: float
    largest: float
    answer: float


# They belong to float32, never to a model. Where float32 is strained, a few rows that magnify every rounding make up
# the errors of eager and ours, and which one is the larger there is luck.
CALM = Bounds(rms=1.5, largest=3.0, answer=4.0)
STRAINED = Bounds(rms=2.0, largest=4.0, answer=5.0)
# Strained: eager itself is further from float64 than this share of what an answer may be off.
_STRAIN = 0.25
# Numbers of an output that its errors are judged over: the largest of a few hundred rounding errors is luck.
LEAST = 4096
_FEW = 512


@dataclass(frozen=True)
class Measured:
    """How far one output of one case is from the reference (PARITY.md): all figures over every element.

    ``error`` and ``reference_error`` are the largest differences from float64, of the artifact and of eager float32;
    ``rms`` and ``reference_rms`` their root mean squares over ``size`` numbers. ``argmax`` is the share of answers that
    are the same, an answer being where along the axis of classes the largest number is, and of true and false each.
    """

    output: str
    kind: str  # of the output
    case: str
    component: str
    max_abs: float
    max_rel: float
    cosine: float  # the smallest, along the axis of classes
    argmax: float
    error: float
    reference_error: float
    scale: float  # the largest of the reference's numbers
    excess: float  # largest of abs diff / allowed
    size: int
    rms: float
    reference_rms: float
    beyond: float  # the largest abs diff of those above the allowed
    strain: float  # largest of eager's own error / allowed
    kl: float | None = None  # of logits: mean divergence in nats
    orders: int | None = None  # of eager's sums, where its figures are the largest of several

    def to_json(self) -> dict[str, Any]:
        """Figures to three significant digits: they are evidence, not state."""
        return {
            "output": self.output,
            "case": self.case,
            **{
                key: float(f"{value:.3g}")
                for key, value in self.__dict__.items()
                if key not in ("output", "kind", "case", "component", "cosine", "argmax", "size") and value is not None
            },
            "size": self.size,
            "cosine": float(f"{self.cosine:.9f}"),
            "argmax": float(f"{self.argmax:.6f}"),
        }


def measure(out: Out, case: str, ours: Array, reference: Array, exact: Array, component: str = "encoder") -> Measured:
    """Compare what one output was in one case, in any shape that has the output's axis. Another shape, another type of
    true and false, NaN or Inf at other places are an infinite error.

    True and false are compared as 1 and 0, where eager float32 and float64 agree: where they do not, the number behind
    them is as near to its border as float32 can tell, and either answer is right. Codes are compared with those of
    float64, where it is sure of them: else it has a negative number.
    """
    same = ours.shape == reference.shape and (ours.dtype == bool) == (reference.dtype == bool)
    shown = np.isfinite(reference)
    if same and not shown.all():  # what is infinite alike is no number to compare
        same = all(
            np.array_equal(each[~shown], reference[~shown]) for each in (ours, exact)
        )  # what is no number differs
    if not same or not np.array_equal(np.isfinite(ours), shown):
        inf = float("inf")
        figures = {"cosine": 0.0, "argmax": 0.0, "size": reference.size} | dict.fromkeys(_INFINITE, inf)
        return Measured(out.name, out.kind, case, component, **figures)  # type: ignore[arg-type]
    if not shown.all():
        ours, reference, exact = (np.where(shown, each, 0) for each in (ours, reference, exact))
    flags = reference.dtype == bool
    if out.kind == "codes":
        ours, reference, flags = np.where(exact < 0, exact, ours), exact, True
    scale = float(np.maximum(reference.max(initial=0), -reference.min(initial=0).astype(np.float64)))
    found = _Figures()
    for block in _blocks(out.axis, ours, reference, exact):
        found.add(*block, scale=scale, flags=flags, logits=out.kind == "logits")
    return Measured(
        output=out.name,
        kind=out.kind,
        case=case,
        component=component,
        cosine=found.cosine,
        argmax=found.equal / found.answers if ours.size else 1.0,
        scale=scale,
        size=ours.size,
        rms=found.squares**0.5 / max(1, ours.size) ** 0.5,
        reference_rms=found.reference_squares**0.5 / max(1, ours.size) ** 0.5,
        kl=found.divergence / found.answers if out.kind == "logits" and ours.size else None,
        **found.largest,  # type: ignore[arg-type]
    )


# Of all numbers the largest, each.
_LARGEST: tuple[str, ...] = ("max_abs", "max_rel", "error", "reference_error", "excess", "beyond", "strain")
_INFINITE = (*_LARGEST, "scale", "rms", "reference_rms")

# Numbers that are compared at a time: what is made of them on the way stays in a core's own cache.
_BLOCK = 1 << 15


def _blocks(axis: int, *arrays: Array) -> Iterator[tuple[Array, ...]]:
    """The same rows of every array at a time, [rows, classes], ``axis`` being that of the classes."""
    rows = [np.moveaxis(array, axis, -1) for array in arrays]
    rows = [array.reshape(-1, array.shape[-1]) if array.size else array.reshape(0, 1) for array in rows]
    count = max(1, _BLOCK // rows[0].shape[1])
    for start in range(0, len(rows[0]), count):
        yield tuple(array[start : start + count] for array in rows)


@dataclass
class _Figures:
    """What blocks of rows add up to."""

    largest: dict[str, float] = field(default_factory=lambda: dict.fromkeys(_LARGEST, 0.0))
    cosine: float = 1.0
    equal: int = 0
    answers: int = 0
    squares: float = 0.0
    reference_squares: float = 0.0
    divergence: float = 0.0

    def add(self, ours: Array, reference: Array, exact: Array, *, scale: float, flags: bool, logits: bool) -> None:
        if flags:
            ours = np.where(reference == exact, ours, reference)
        answers = np.equal(ours, reference) if flags else np.equal(ours.argmax(-1), reference.argmax(-1))
        self.equal, self.answers = self.equal + int(answers.sum()), self.answers + answers.size
        ours64, reference64, exact64 = (array.astype(np.float64) for array in (ours, reference, exact))
        magnitude = np.abs(reference64)
        allowed = 1e-5 * max(1.0, scale / 10) + 1e-5 * magnitude
        difference = np.abs(ours64 - reference64)
        error, reference_error = np.abs(ours64 - exact64), np.abs(reference64 - exact64)
        seen = {
            "max_abs": difference,
            "max_rel": difference / np.maximum(magnitude, 1e-6),
            "error": error,
            "reference_error": reference_error,
            "excess": difference / allowed,
            "beyond": difference[difference > allowed],
            "strain": reference_error / allowed,
        }
        for name, values in seen.items():  # NaN is larger than anything
            self.largest[name] = float(np.maximum(self.largest[name], values.max(initial=0.0)))
        self.squares += float(np.square(error).sum())
        self.reference_squares += float(np.square(reference_error).sum())
        norms = np.sqrt(np.square(ours64).sum(-1)) * np.sqrt(np.square(reference64).sum(-1))
        dots = (ours64 * reference64).sum(-1)
        cosines = np.divide(dots, norms, out=np.ones_like(dots), where=norms > 0)
        self.cosine = float(np.minimum(self.cosine, cosines.min(initial=1.0)))
        if logits:
            self.divergence += float(kl_divergence(reference64, ours64).sum())


# What another run of eager may add to. Not its strain: which bounds hold is said by one run, and stays.
EAGER = ("reference_error", "reference_rms")


def beside(measured: Sequence[Measured], eager: Mapping[tuple[str, str], Mapping[str, Any]]) -> list[Measured]:
    """Measurements beside another run of eager too, of which ``eager`` holds the figures by output and case."""
    found = []
    for item in measured:
        seen = eager.get((item.output, item.case), {})
        if not seen.get("orders"):
            # One run alone is measured anew, not taken from a record that rounds to three digits.
            found.append(item)
            continue
        figures = {key: max(getattr(item, key), seen.get(key) or 0.0) for key in EAGER}
        found.append(replace(item, orders=int(seen["orders"]) + (item.orders or 0), **figures))
    return found


def settled(
    measured: Sequence[Measured], orders: Iterable[Mapping[tuple[str, str], Mapping[str, Any]]]
) -> Sequence[Measured]:
    """Measurements that break the float32 gate, beside eager in as many other orders of its sums as it takes to hold,
    or in all: a right model may round unluckily where eager was lucky, and no order of a sum is the right one."""
    for eager in orders:
        measured = beside(measured, eager)
        if not broken("fp32", measured):
            break
    return measured


@dataclass(frozen=True)
class Population:
    """One output over all its cases, which is what the float32 gate judges; ``measured`` are its cases."""

    measured: tuple[Measured, ...]

    @property
    def name(self) -> str:
        return self.measured[0].output

    @property
    def kind(self) -> str:
        return self.measured[0].kind

    @property
    def size(self) -> int:
        return sum(item.size for item in self.measured)

    @property
    def unit(self) -> float:
        """One unit in the last place at the output's scale."""
        scale = max(item.scale for item in self.measured)
        return float(np.spacing(np.float32(scale))) if np.isfinite(scale) else 0.0

    def largest(self, figure: str) -> float:
        """The largest of one figure over all cases; NaN is larger than anything."""
        return float(np.max([getattr(item, figure) for item in self.measured]))

    def rms(self, figure: str) -> float:
        """Root mean square over all numbers of ``rms`` or ``reference_rms``."""
        total = sum(item.size * getattr(item, figure) ** 2 for item in self.measured)
        return float(np.sqrt(total / max(1, self.size)))

    @property
    def strained(self) -> bool:
        return not self.largest("strain") <= _STRAIN

    @property
    def bounds(self) -> Bounds:
        # Of several orders the largest is no luck: what is let pass for the sake of luck is not needed.
        return STRAINED if self.strained and self.measured[0].orders is None else CALM

    @property
    def shares(self) -> dict[str, float]:
        """How much of each bound is used; above 1, or NaN, it is broken.

        ``rms`` and ``largest``: errors against float64, compared with eager's. ``answer``: the distance from eager,
        allowed 1e-5 * max(1, scale / 10) + 1e-5 * |ref| at every element, or, where that is more, a multiple of
        eager's own largest error: who is a quarter of the allowed from the truth cannot ask others for more.
        """
        unit, eager, bounds = self.unit, self.largest("reference_error"), self.bounds
        own = bounds.answer * eager
        answers = [
            item.excess if not item.excess > 1 or own == 0 else min(item.excess, item.beyond / own)
            for item in self.measured
        ]
        found = {
            "largest": _share(self.largest("error"), bounds.largest * eager + unit),
            "answer": float(np.max(answers)),
        }
        # Artifacts made before may hold fewer numbers of a small output than are drawn now: too few for a mean.
        if self.size >= _FEW:
            found["rms"] = _share(self.rms("rms"), bounds.rms * self.rms("reference_rms") + unit)
        return found


def _share(value: float, bound: float) -> float:
    return value / bound if np.isfinite(value) and bound > 0 else 0.0 if value == 0 else float("inf")


def populations(measured: Sequence[Measured]) -> list[Population]:
    """The cases of every output of every component together, in the order they come."""
    found: dict[tuple[str, str], list[Measured]] = {}
    for item in measured:
        found.setdefault((item.component, item.output), []).append(item)
    return [Population(tuple(items)) for items in found.values()]


def _errors(population: Population) -> list[str]:
    """What an output breaks of the float32 gate, with by how much."""
    name, shares, bounds = population.name, population.shares, population.bounds
    eager, reference_rms = population.largest("reference_error"), population.rms("reference_rms")
    found = []
    if not shares.get("rms", 0.0) <= 1:
        rms = population.rms("rms")
        found.append(
            f"{name}: the root mean square of its errors against float64, {rms:.2e}, is {_times(rms, reference_rms)} "
            f"eager's {reference_rms:.2e}, and may be {bounds.rms:g} times that"
        )
    if not shares["largest"] <= 1:
        error = population.largest("error")
        found.append(
            f"{name}: its largest error against float64, {error:.2e}, is {_times(error, eager)} eager's {eager:.2e}, "
            f"and may be {bounds.largest:g} times that"
        )
    if not shares["answer"] <= 1:
        worst = max(population.measured, key=lambda item: (not item.excess <= 1, item.beyond))
        found.append(
            f"{name} {worst.case}: abs diff {worst.max_abs:.2e} from eager is {worst.excess:.2f} times the allowed "
            f"1e-5 * {max(1.0, worst.scale / 10):.3g} + 1e-5 * |ref|, and {_times(worst.beyond, eager)} eager's own "
            f"largest error {eager:.2e}, of which it may be {bounds.answer:g} times"
        )
    return found


def _times(value: float, of: float) -> str:
    return f"{value / of:.2f} times" if of > 0 else "more than"


def _directions(population: Population) -> list[str]:
    """The same of vectors, whose direction is what they are for."""
    turned = [
        f"{item.output} {item.case}: cosine {item.cosine:.9f} is below 0.999999"
        for item in population.measured
        if not item.cosine >= 0.999999
    ]
    return _errors(population) + turned


def _flags(population: Population) -> list[str]:
    """True and false are the same, wherever float32 can tell them apart; numbers in their place are eager's."""
    return [
        f"{item.output} {item.case}: abs diff {item.max_abs:.1e} from eager where float32 can tell true from false, "
        f"the same at {item.argmax:.2%} of {item.size} values"
        for item in population.measured
        if not item.excess <= 1
    ]


def _codes(population: Population) -> list[str]:
    """Codes are float64's, wherever it is sure of them."""
    return [
        f"{item.output} {item.case}: other codes than those float64 is sure of, the same at {item.argmax:.2%} of "
        f"{item.size} places"
        for item in population.measured
        if item.max_abs != 0  # NaN too
    ]


def _finite(population: Population) -> list[str]:
    """What low precision owes on any input: numbers. How good they are is what its task's metric measures
    (`precast.runtime.metrics`)."""
    return [f"{item.output} {item.case}: not finite" for item in population.measured if not np.isfinite(item.excess)]


# Another processor's kernels may round other ways; twice what the export saw is another model.
_REPLAYED = 2.0
_REPLAYED_LEAST = 1e-4


def _diverged(item: Measured, exported: Mapping[str, Any]) -> str:
    """What a replay breaks of what the export measured; nothing where that has no such figure."""
    before = exported.get("kl")
    if before is None or item.kl is None or item.kl <= _REPLAYED * before + _REPLAYED_LEAST:
        return ""
    return f"{item.output} {item.case}: KL divergence {item.kl:.2e}, at its export {before:.2e}"


class Gate(NamedTuple):
    """What outputs of one kind are held to in one precision.

    Args:
        broken: the rules that an output breaks over all its cases, each with by how much.
        against_eager: its errors are bounded by eager float32's own (`Population.shares`).
        replayed: what a case's replay breaks of what its export measured, or nothing; None: ``broken`` says it all.
    """

    broken: Callable[[Population], list[str]]
    against_eager: bool = False
    replayed: Callable[[Measured, Mapping[str, Any]], str] | None = None


# Kinds of outputs that are float numbers; "" is one of which nothing else is known.
_NUMBERS = ("", *"number logits states embedding scores features boxes points pixels waveform".split())

# Precision -> kind of output (`precast.runtime.ports.KINDS`) -> its gate. A kind that is not there is refused.
GATES: Mapping[str, Mapping[str, Gate]] = {
    "fp32": {
        **dict.fromkeys(_NUMBERS, Gate(_errors, against_eager=True)),
        **dict.fromkeys(("states", "embedding"), Gate(_directions, against_eager=True)),
        **dict.fromkeys(("mask", "pixel_mask"), Gate(_flags)),
        "codes": Gate(_codes),
    },
    **{
        precision: {**dict.fromkeys(_NUMBERS, Gate(_finite)), "logits": Gate(_finite, replayed=_diverged)}
        for precision in ("int8", "int4")
    },
}


def _gate(precision: str, population: Population) -> Gate:
    found = GATES[precision].get(population.kind)
    if found is None:
        raise ParityError(
            f"output {population.name!r} is of kind {population.kind!r}, which has no gate in precision {precision}, "
            f"and is refused. Kinds with one: {listing(kind for kind in GATES[precision] if kind)}. Export another "
            "precision, or upgrade precast."
        )
    return found


def broken(precision: str, measured: Sequence[Measured]) -> list[str]:
    """What breaks the gate of a precision, or an empty list.

    Raises:
        ParityError: an output is of a kind that has no gate there.
    """
    return [reason for each in populations(measured) for reason in _gate(precision, each).broken(each)]


def gate(precision: str, measured: Sequence[Measured], variant: str) -> None:
    """Hold measurements to the gate of a precision.

    Raises:
        ParityError: every broken bound is listed.
    """
    found = broken(precision, measured)
    if found:
        raise ParityError(
            f"variant {variant} does not compute what the reference model computes, and is refused: {'; '.join(found)}"
        )


def replayed(precision: str, measured: Sequence[Measured], expected: Mapping[str, Any], variant: str) -> None:
    """Hold a replay to the gate of its precision, beside what its export (``expected``) measured: of eager in float32,
    of the variant itself in low precision.

    Raises:
        ParityError: every broken bound is listed.
    """
    seen = {(entry["output"], entry["case"]): entry for entry in expected.get("measured", ())}
    measured = beside(measured, seen)
    gate(precision, measured, variant)
    found = []
    for population in populations(measured):
        check = _gate(precision, population).replayed
        if check is not None:
            found += [check(item, seen.get((item.output, item.case), {})) for item in population.measured]
    if any(found):
        raise ParityError(
            f"variant {variant} does not compute here what its export measured: {'; '.join(filter(None, found))}"
        )


def share(precision: str, population: Population) -> float | None:
    """How much of the bounds that eager's own errors are to an output it uses; None where they are none to it."""
    return max(population.shares.values()) if _gate(precision, population).against_eager else None


def conditioning(precision: str, measured: Sequence[Measured]) -> dict[str, dict[str, float]]:
    """Of the outputs that are held to eager's own errors those that eager float32 itself computes no better than to a
    quarter of what we may be off from it: ``eager_error``, its largest error, and ``bound``, what the distance from it
    was held to."""
    return {
        item.name: {
            "eager_error": float(f"{item.largest('reference_error'):.3g}"),
            "bound": float(f"{item.bounds.answer * item.largest('reference_error'):.3g}"),
        }
        for item in populations(measured)
        if item.strained and _gate(precision, item).against_eager
    }
