"""Per task: names, dimensions and limits of what goes in and what comes out."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from precast.export.families import Family
from precast.export.heads import Head
from precast.export.spec import Spec

__all__ = ["Signature", "signature"]


@dataclass(frozen=True)
class Signature:
    """Inputs are int64 with the named dimensions; every input but ``input_ids`` may be left out at run time.

    Args:
        limits: ``vocab_size``, ``type_vocab_size`` (ids are below them) and ``max_positions`` (the longest sequence).
        per_text: the outputs are a few numbers for each text.
    """

    inputs: dict[str, tuple[str, ...]]
    outputs: tuple[str, ...]
    limits: dict[str, int]
    per_text: bool = False

    @property
    def longest(self) -> dict[str, int]:
        """Largest values of named dimensions, for `trace`."""
        return {"sequence": self.limits["max_positions"]} if "max_positions" in self.limits else {}

    @property
    def dynamic(self) -> dict[str, dict[int, str]]:
        """Per input, which axes vary, for `trace`."""
        return {name: dict(enumerate(dims)) for name, dims in self.inputs.items()}

    def example(self) -> dict[str, torch.Tensor]:
        """Inputs to trace with: distinct tensors (equal ones would be merged) of distinct sizes."""
        sizes = {"batch": 2, "choices": 3, "sequence": min(5, self.limits.get("max_positions", 5))}
        return {name: torch.ones([sizes[dim] for dim in dims], dtype=torch.int64) for name, dims in self.inputs.items()}


def signature(family: Family, spec: Spec, head: Head, absent: frozenset[str] = frozenset()) -> Signature:
    """The signature of ``head`` for a checkpoint; ``absent`` are the optional parts it lacks."""
    dims = ("batch", "choices", "sequence") if head.choices else ("batch", "sequence")
    names = [name for name in family.inputs(spec) if name != "token_type_ids" or family.token_types(spec) > 1]
    limits = {"vocab_size": int(spec.vocab_size)}  # type: ignore[attr-defined]
    if "token_type_ids" in names:
        limits["type_vocab_size"] = family.token_types(spec)
    longest = family.limits(spec)
    if longest is not None:
        limits["max_positions"] = longest
    outputs = tuple(name for name in head.outputs if name.removesuffix("_output") not in absent)
    return Signature(dict.fromkeys(names, dims), outputs, limits, head.per_text)
