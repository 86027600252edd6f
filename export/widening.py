"""Which weights of a language model 4 bits are too few for.

Rounding moves a model's answers little in most weights, and far in some: a narrow value projection, the head of a small
model. Each kind of weight, that of all layers, is rounded alone in the reference, and how far its answers move over a
few texts is measured. As small movements add up nearly (Gemma 3 270M: 0.051 and 0.040 alone, 0.093 together), those
that move them least for what they weigh get 4 bits while the gate has room for them, the others 8. Exporters usually
keep a fixed list; a measured one is different for every model, and what is exported passes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from torch import nn

from precast.export.reference import Part
from precast.export.texts import Sample
from precast.graphs.block_weight import WIDE
from precast.graphs.passes.quantize_weights import QuantizeWeights
from precast.runtime.divergence import BOUNDS

__all__ = ["widen"]

Array = np.ndarray[Any, Any]

_EVERY = 4  # text of the sample
# Share of the gate's bound that rounding weights may take: graphs round what they multiply by them too, and the few
# texts are not all.
_SHARE = 0.8


def widen(
    parts: Sequence[Part], traced: Mapping[str, ir.Model], rounding: QuantizeWeights, sample: Sample
) -> dict[str, float]:
    """Mark the weights in the traced graphs that are to have 8 bits.

    Returns: the kinds of weights that are, their names with * for numbers, and the mean divergence each alone caused.
    """
    kinds: dict[str, list[tuple[nn.Module, ir.Value, Callable[[], Array]]]] = {}
    for part in parts:
        parameters = {name for name, _ in part.module.named_parameters(remove_duplicate=False)}
        for weight, values in rounding.roundings(traced[part.name]):
            if weight.name not in parameters:
                continue  # a table that the model computes
            kind = re.sub(r"\d+", "*", f"{part.name}: {weight.name}")
            kinds.setdefault(kind, []).append((part.module, weight, values))
    few = sample.every(_EVERY)
    moved, sizes = {}, {}
    for kind, members in kinds.items():
        with _rounded([(module, str(weight.name), values) for module, weight, values in members]):
            moved[kind] = few.moved(parts).mean
        sizes[kind] = sum(weight.const_value.size for _, weight, _ in members if weight.const_value is not None)
    spent, wide = 0.0, {}
    for kind in sorted(moved, key=lambda kind: moved[kind] / sizes[kind]):
        if spent + moved[kind] <= _SHARE * BOUNDS["int4"][0]:
            spent += moved[kind]
            continue
        wide[kind] = moved[kind]
        for _, weight, _ in kinds[kind]:
            weight.meta[WIDE] = True
    return wide


@contextmanager
def _rounded(members: Sequence[tuple[nn.Module, str, Callable[[], Array]]]) -> Iterator[None]:
    """The reference with these weights as 4 bits hold them."""
    held: list[tuple[nn.Parameter, torch.Tensor]] = []
    try:
        for module, name, values in members:
            parameter = module.get_parameter(name)
            before, after = parameter.data, torch.from_numpy(values())
            # A tied weight may be two parameters of one memory.
            for other in module.parameters():
                if other is parameter or (other.data_ptr() == before.data_ptr() and other.shape == before.shape):
                    held.append((other, other.data))
                    other.data = after
        yield
    finally:
        for parameter, before in held:
            parameter.data = before
