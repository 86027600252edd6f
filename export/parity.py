"""What "the same" means, measured: inputs every export is tried on, the float64 judge, the gates, the record."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

from precast.export.blocks.tables import fill_tables
from precast.export.signatures import Signature
from precast.runtime.errors import ParityError

__all__ = ["Case", "Measured", "cases", "evaluate", "judge", "measure"]

Array = np.ndarray[Any, Any]

# Longest text tried where a model takes longer ones: the float64 judge needs S * S scores for every head.
LONGEST = 1024


@dataclass(frozen=True)
class Case:
    """One input every variant is tried on."""

    name: str
    inputs: dict[str, Array]


# (batch, length, padding); 0 stands for the longest length. Batch 1, 2 and odd, lengths around powers of two.
_SHAPES = (
    (1, 1, "none"),
    (2, 2, "none"),
    (3, 7, "right"),
    (1, 8, "left"),
    (2, 63, "right"),
    (1, 64, "none"),
    (1, 127, "left"),
    (2, 128, "right"),
    (1, 0, "none"),
)


def _mask(rng: np.random.Generator, rows: int, length: int, padding: str) -> Array:
    mask = np.ones((rows, length), dtype=np.int64)
    if padding != "none":
        for row in range(rows if rows == 1 else rows - 1):  # the last row of a batch is full
            real = int(rng.integers(1, length + 1)) if row else max(1, length // 2)
            mask[row, real:] = 0
            if padding == "left":
                mask[row] = mask[row, ::-1]
    return mask


def cases(signature: Signature, *, shapes: Sequence[tuple[int, int, str]] = _SHAPES, seed: int = 0) -> list[Case]:
    """Random inputs for a signature: every shape of ``shapes`` that the model takes, garbage in padded positions."""
    rng = np.random.default_rng(seed)
    longest = min(signature.limits.get("sequence", LONGEST), LONGEST)
    made: list[Case] = []
    for batch, asked, padding in shapes:
        length = asked or longest
        if length > longest:
            continue
        inputs: dict[str, Array] = {}
        for name, dims in signature.inputs.items():
            shape = tuple({"batch": batch, "choices": 3, "sequence": length}[dim] for dim in dims)
            if name == "attention_mask":
                inputs[name] = _mask(rng, int(np.prod(shape[:-1])), length, padding).reshape(shape)
            else:
                bound = signature.limits["type_vocab_size" if name == "token_type_ids" else "vocab_size"]
                inputs[name] = rng.integers(0, bound, size=shape, dtype=np.int64)
        made.append(Case(f"{batch}x{length}-{padding}", inputs))
    return made


class _Float64(TorchDispatchMode):
    """Runs a float32 model in float64: each operator's inputs are widened as it is called.

    So the judge of a model needs no second, twice as large copy of its weights.
    """

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if kwargs.get("dtype") is torch.float32:
            kwargs["dtype"] = torch.float64
        if func is torch.ops.aten.embedding.default:
            # A lookup is exact in any type: widen the rows, not the table.
            return func(*args, **kwargs).to(torch.float64)
        widen = lambda x: x.to(torch.float64) if isinstance(x, torch.Tensor) and x.dtype == torch.float32 else x  # noqa: E731
        return func(*tree_map(widen, args), **tree_map(widen, kwargs))


def evaluate(model: nn.Module, inputs: Mapping[str, Array]) -> dict[str, Array]:
    """Outputs of the eager reference model for one case."""
    with torch.no_grad():
        outputs = model(**{name: torch.from_numpy(array) for name, array in inputs.items()})
    return {name: value.numpy() for name, value in outputs.items()}


def judge(model: nn.Module, inputs: Mapping[str, Array]) -> dict[str, Array]:
    """The same in float64, weights widened operator by operator and tables computed anew."""
    fill_tables(model, torch.float64)
    try:
        with torch.no_grad(), _Float64():
            outputs = model(**{name: torch.from_numpy(array) for name, array in inputs.items()})
    finally:
        fill_tables(model)
    return {name: value.numpy() for name, value in outputs.items()}


@dataclass(frozen=True)
class Measured:
    """How far one output of one case is from the reference (PARITY.md): all figures over every element.

    ``error`` and ``reference_error`` are the largest differences from float64, of the artifact and of eager float32.
    """

    output: str
    case: str
    max_abs: float
    max_rel: float
    cosine: float
    argmax: float
    error: float
    reference_error: float
    scale: float
    excess: float  # largest of abs diff / allowed; above 1 the gate is broken

    def to_json(self) -> dict[str, Any]:
        """Figures to three significant digits: they are evidence, not state."""
        return {
            "output": self.output,
            "case": self.case,
            **{
                key: float(f"{value:.3g}")
                for key, value in self.__dict__.items()
                if key not in ("output", "case", "cosine", "argmax")
            },
            "cosine": float(f"{self.cosine:.9f}"),
            "argmax": float(f"{self.argmax:.6f}"),
        }


def measure(output: str, case: str, ours: Array, reference: Array, exact: Array) -> Measured:
    """Compare one output, [..., D]. A shape, NaN or Inf that differs is an infinite error."""
    if ours.shape != reference.shape or not np.array_equal(np.isfinite(ours), np.isfinite(reference)):
        inf = float("inf")
        return Measured(output, case, inf, inf, 0.0, 0.0, inf, inf, inf, inf)
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
        max_abs=float(difference.max(initial=0.0)),
        max_rel=float((difference / np.maximum(np.abs(reference64), 1e-6)).max(initial=0.0)),
        cosine=float(cosine.min(initial=1.0)),
        argmax=float((ours.argmax(-1) == reference.argmax(-1)).mean()) if ours.size else 1.0,
        error=float(np.abs(ours64 - exact).max(initial=0.0)),
        reference_error=float(np.abs(reference64 - exact).max(initial=0.0)),
        scale=scale,
        excess=float((difference / allowed).max(initial=0.0)),
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


GATES: dict[str, Callable[[Sequence[Measured]], list[str]]] = {"fp32": check_fp32}


def gate(precision: str, measured: Sequence[Measured], variant: str) -> None:
    """Hold measurements to the gate of a precision.

    Raises:
        ParityError: every broken bound is listed.
    """
    broken = GATES[precision](measured)
    if broken:
        raise ParityError(
            f"variant {variant} does not compute what the reference model computes; nothing was published. "
            + "; ".join(broken)
        )


def compare(
    run: Callable[[Mapping[str, Array]], Mapping[str, Array]],
    made: Sequence[Case],
    references: Sequence[Mapping[str, Array]],
    exact: Sequence[Mapping[str, Array]],
) -> Iterator[Measured]:
    """Measure every output of every case of a runner against recorded references."""
    for case, reference, truth in zip(made, references, exact, strict=True):
        outputs = run(case.inputs)
        for name, expected in reference.items():
            yield measure(name, case.name, outputs[name], expected, truth[name])
