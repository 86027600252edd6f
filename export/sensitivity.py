"""Sensitivity of a checkpoint's weights (`precast.calibration.sensitivity`): measured in its reference, which reads
rounded weights and keeps its own."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import onnx_ir as ir
import torch
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from precast.calibration.evaluation_set import EvaluationSet
from precast.calibration.sensitivity import FEW, Sensitivity, kind_of, sensitive_kinds
from precast.export.evaluation import judged_reference
from precast.export.reference import Part
from precast.graphs.block_weight import Parts
from precast.graphs.passes.quantize_weights import QuantizeWeights, Rounding
from precast.runtime.metrics import Metric

__all__ = ["sensitivity"]

_CHUNK = 1 << 19  # weights that are floats at a time


class _RoundedWeight(NamedTuple):
    """A weight of a component, and what it was rounded to."""

    part: str
    found: Rounding
    parts: Parts

    def rows(self, which: slice | np.ndarray[Any, Any]) -> torch.Tensor:
        """Some rows of it, as floats."""
        values, scales, zeros = self.parts
        return torch.from_numpy(
            self.found.values((values[which], scales[which], None if zeros is None else zeros[which]))
        )


def sensitivity(
    parts: Sequence[Part],
    traced: Mapping[str, ir.Model],
    roundings: Mapping[str, QuantizeWeights],
    evaluation: EvaluationSet,
    precision: str,
) -> tuple[Mapping[str, Sequence[str]], Sensitivity]:
    """Which weights need more bits than ``roundings``, by component, give them in a precision; and of which kinds these
    are."""
    # Held as blocks: a second copy of a large model as floats would not fit.
    kinds: dict[str, dict[int, _RoundedWeight]] = {}
    for part in parts:
        if part.name not in roundings:
            continue
        parameters = dict(part.module.named_parameters(remove_duplicate=False))
        for found in roundings[part.name].roundings(traced[part.name]):
            name = str(found.weight.name)
            if name in parameters:  # else a table that the model computes
                held = _RoundedWeight(part.name, found, found.parts())
                kinds.setdefault(kind_of(part.name, name), {})[parameters[name].data_ptr()] = held
    subset = evaluation.every(FEW)

    def judge(chosen: Collection[str], *, few: bool = False) -> Sequence[float]:
        found = _judged(parts, [kinds[kind] for kind in chosen], subset if few else evaluation)
        return found.shares(precision)

    sizes = {kind: sum(math.prod(held.found.shape) for held in members.values()) for kind, members in kinds.items()}
    measured = sensitive_kinds(sizes, judge)
    weights: dict[str, list[str]] = {}
    for kind in measured.sensitive:
        for held in kinds[kind].values():
            weights.setdefault(held.part, []).append(str(held.found.weight.name))
    return weights, measured


def _judged(parts: Sequence[Part], kinds: Iterable[Mapping[int, _RoundedWeight]], evaluation: EvaluationSet) -> Metric:
    """How far the reference's answers are from what they were with these weights rounded."""
    rounded = {address: held for members in kinds for address, held in members.items()}
    with _ReadRounded(rounded) as mode:
        found = judged_reference(evaluation, parts)
    assert mode.read == set(rounded), "a weight was rounded that no linear layer and no embedding reads"
    return found


class _ReadRounded(TorchFunctionMode):
    """Linear layers and embeddings read what weights were rounded to; these stay as they are.

    ``rounded``: by the address of a weight's data, which tied parameters share.
    """

    def __init__(self, rounded: Mapping[int, _RoundedWeight]) -> None:
        super().__init__()
        self._rounded = rounded
        self.read = set[int]()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        held = self._rounded.get(args[1].data_ptr()) if func in (F.linear, F.embedding) else None
        if held is None:
            return func(*args, **(kwargs or {}))
        self.read.add(args[1].data_ptr())
        given, weight, *others = args
        if func is F.embedding:
            ids, places = np.unique(given.numpy(), return_inverse=True)
            return F.embedding(torch.from_numpy(places.reshape(given.shape)), held.rows(ids))
        # In parts that a processor's cache holds: floats of a whole table of words would be written and read again.
        step = max(1, _CHUNK // weight.shape[1])
        made = [F.linear(given, held.rows(slice(at, at + step))) for at in range(0, len(weight), step)]
        whole = torch.cat(made, dim=-1)
        bias = others[0] if others else (kwargs or {}).get("bias")
        return whole if bias is None else whole + bias
