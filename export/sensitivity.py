"""Sensitivity of a model's weights: for which of them its precision has too few bits.

Rounding moves a model's answers little in most weights, and far in some: a narrow value projection, the head of a small
model. First all weights are rounded in the reference; where its answers stay well within the gate of its task's metric,
that is all. Else each kind of weight, that of all layers, is rounded alone, and how far answers move over a few texts
is measured. As small movements add up nearly (Gemma 3 270M in 4 bits: 0.051 and 0.040 alone, 0.093 together), those
that move them least for what they weigh keep the few bits while there is room for them, and the others are sensitive;
less room is given until all of them together are within the gate. Exporters usually keep a fixed list; a measured one
is different for every model, and what is exported passes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import onnx_ir as ir
import torch
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from precast.calibration.evaluation_set import EvaluationSet
from precast.export.evaluation import judged_reference
from precast.export.reference import Part
from precast.graphs.block_weight import Parts
from precast.graphs.passes.quantize_weights import QuantizeWeights, Rounding
from precast.runtime.metrics import Metric

__all__ = ["Sensitivity", "sensitivity"]

_EVERY = 4  # text of the evaluation set
# Share of the gate's bounds that rounding weights may take: graphs round what they multiply by them too, and the few
# texts are not all.
_SHARE = 0.8
_TRIES = 5  # with half the room of the one before
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


class Sensitivity(NamedTuple):
    """The weights that need more bits.

    Args:
        weights: component -> their names. kinds: the same with * for numbers, and the share of the gate that each alone
            takes.
    """

    weights: Mapping[str, Sequence[str]]
    kinds: Mapping[str, float]


def sensitivity(
    parts: Sequence[Part],
    traced: Mapping[str, ir.Model],
    roundings: Mapping[str, QuantizeWeights],
    evaluation: EvaluationSet,
    precision: str,
) -> Sensitivity:
    """Which weights need more bits than ``roundings``, by component, give them in a precision."""
    # Held as blocks: a second copy of a large model as floats would not fit.
    kinds: dict[str, dict[int, _RoundedWeight]] = {}
    for part in parts:
        if part.name not in roundings:
            continue
        parameters = dict(part.module.named_parameters(remove_duplicate=False))
        for found in roundings[part.name].roundings(traced[part.name]):
            name = str(found.weight.name)
            if name in parameters:  # else a table that the model computes
                kind = re.sub(r"\d+", "*", f"{part.name}: {name}")
                held = _RoundedWeight(part.name, found, found.parts())
                kinds.setdefault(kind, {})[parameters[name].data_ptr()] = held
    if not kinds or _fits(_judged(parts, kinds.values(), evaluation), precision):
        return Sensitivity({}, {})
    subset = evaluation.every(_EVERY)
    alone = {kind: _judged(parts, [members], subset).shares(precision)[0] for kind, members in kinds.items()}
    sizes = {kind: sum(np.prod(held.found.shape) for held in members.values()) for kind, members in kinds.items()}
    cheapest = sorted(kinds, key=lambda kind: alone[kind] / sizes[kind])
    few_bits = cheapest
    # Alone and over a few texts they move it by more or less than together over all: twice the room is tried too.
    for room in (*(_SHARE * 2.0 ** (1 - attempt) for attempt in range(_TRIES)), 0.0):
        chosen, spent = list[str](), 0.0
        for kind in cheapest:
            if spent + alone[kind] <= room:
                spent += alone[kind]
                chosen.append(kind)
        if chosen != few_bits:
            few_bits = chosen
            if not few_bits or _fits(_judged(parts, [kinds[kind] for kind in few_bits], evaluation), precision):
                break
    sensitive = {kind: alone[kind] for kind in kinds if kind not in few_bits}
    weights: dict[str, list[str]] = {}
    for kind in sensitive:
        for held in kinds[kind].values():
            weights.setdefault(held.part, []).append(str(held.found.weight.name))
    return Sensitivity(weights, sensitive)


def _fits(found: Metric, precision: str) -> bool:
    """Whether it is within the gate's bounds, with room to spare."""
    return all(share <= _SHARE for share in found.shares(precision))


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
