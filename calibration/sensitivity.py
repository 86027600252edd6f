"""Which weights need more bits than their precision has.

Rounding moves a model's answers little in most weights, and far in some: a narrow value projection, the head of a
small model. First all weights are rounded; where answers stay well within their bounds, that is all. Else each kind of
weight, that of all layers, is rounded alone, and how far answers move over a few inputs is measured. As small movements
add up nearly (Gemma 3 270M in 4 bits: 0.051 and 0.040 alone, 0.093 together), those that move them least for what they
weigh keep the few bits while there is room for them, and the others are sensitive; less room is given until all of them
together are within the bounds. Exporters usually keep a fixed list; a measured one is different for every model, and
what is exported passes.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple, Protocol

__all__ = ["FEW", "Judge", "Sensitivity", "kind_of", "sensitive_kinds"]

# Share of the bounds that rounding weights may take: graphs round what they multiply by them too, and a few inputs are
# not all.
_SHARE = 0.8
FEW = 4  # one in so many inputs is what a kind of weights is looked at alone over
_TRIES = 5  # with half the room of the one before


class Judge(Protocol):
    """How much of each bound is used where weights of these kinds are rounded; the first of small movements adds up
    nearly. ``few``: over a few of the inputs."""

    def __call__(self, kinds: Collection[str], /, *, few: bool = False) -> Sequence[float]: ...


class Sensitivity(NamedTuple):
    """Kinds of weights and the share of the bounds that each alone takes: of all that were rounded alone, none where
    that was not needed, and of those that need more bits."""

    alone: Mapping[str, float]
    sensitive: Mapping[str, float]


def kind_of(component: str, weight: str) -> str:
    """The kind of a weight: its name, with * for the numbers of layers."""
    return re.sub(r"\d+", "*", f"{component}: {weight}")


def sensitive_kinds(sizes: Mapping[str, int], judge: Judge) -> Sensitivity:
    """The kinds that need more bits; ``sizes`` has the weights of each kind."""
    if not sizes or _fits(judge(list(sizes))):
        return Sensitivity({}, {})
    alone = {kind: judge([kind], few=True)[0] for kind in sizes}
    cheapest = sorted(sizes, key=lambda kind: alone[kind] / sizes[kind])
    few_bits = cheapest
    # Alone and over a few inputs they move it by more or less than together over all: twice the room is tried too.
    for room in (*(_SHARE * 2.0 ** (1 - attempt) for attempt in range(_TRIES)), 0.0):
        chosen, spent = list[str](), 0.0
        for kind in cheapest:
            if spent + alone[kind] <= room:
                spent += alone[kind]
                chosen.append(kind)
        if chosen != few_bits:
            few_bits = chosen
            if not few_bits or _fits(judge(few_bits)):
                break
    return Sensitivity(alone, {kind: alone[kind] for kind in sizes if kind not in few_bits})


def _fits(shares: Sequence[float]) -> bool:
    """Whether answers are within all bounds, with room to spare."""
    return all(share <= _SHARE for share in shares)
