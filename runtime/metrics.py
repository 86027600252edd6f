"""What low precision is judged by, task by task (P3 of PARITY.md): the metrics that a row of the catalogue may name.

fp32 is held to eager's own errors (`precast.runtime.gates`), and needs none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Protocol

from precast.runtime.backends.base import Array
from precast.runtime.catalogue import CATALOGUE
from precast.runtime.directions import Directions
from precast.runtime.divergence import Divergence
from precast.runtime.errors import InputError, listing
from precast.runtime.maps import Maps
from precast.runtime.objects import Objects
from precast.runtime.segments import Segments

__all__ = ["METRICS", "Metric", "judgements", "metric_for"]


class Metric(Protocol):
    """Figures over all answers to an evaluation set.

    ``kinds`` are those of the outputs it is computed of, ``loss`` is what a budget bounds where it does not say.
    """

    kinds: ClassVar[tuple[str, ...]]
    precisions: ClassVar[tuple[str, ...]]
    loss: ClassVar[str]

    @classmethod
    def over(cls, pairs: Mapping[str, Sequence[tuple[Array, Array]]], *, text: bool, data: str) -> Metric:
        """The figures of (reference, ours) of outputs of each kind, call by call, [K, C] each: answers, and the classes
        of each."""

    def shares(self, precision: str) -> tuple[float, ...]:
        """How much of each of its bounds is used; the first of small changes adds up nearly."""

    @property
    def losses(self) -> Mapping[str, float]:
        """What a budget may bound, by name, 0 where nothing is lost: "cosine" (1 - mean), "agreement" (share of answers
        whose likeliest class is another), "kl" (mean divergence in nats), "overlap" (1 - mean intersection over union),
        "variance" (the share of it that is not the reference's)."""

    def gate(self, precision: str, variant: str) -> None:
        """Raise ParityError where a bound is broken, naming it and by how much."""

    def to_json(self) -> dict[str, Any]:
        """What the manifest holds under the metric's name."""

    @staticmethod
    def in_words(record: Mapping[str, Any]) -> str:
        """What the manifest holds, in words."""


# By the name that rows of the catalogue, and parity records, have for it.
METRICS: Mapping[str, type[Metric]] = {
    "divergence": Divergence,
    "cosine": Directions,
    "objects": Objects,
    "maps": Maps,
    "segments": Segments,
}


def judgements(parity: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """What a variant's parity holds of each metric, by its name."""
    return {name: dict(parity[name]) for name in METRICS if name in parity}


def metric_for(precision: str, task: str, what: str) -> str | None:
    """The name of the metric that a model of a task is judged by in a precision; None: its errors judge it.

    Args:
        what: the model in words, for errors: "a bert for fill-mask".

    Raises:
        InputError: the precision is judged by a metric, and the task has none for it.
    """
    judging = [name for name, metric in METRICS.items() if precision in metric.precisions]
    if not judging:
        return None
    named = CATALOGUE[task].metric
    if named in judging:
        return named
    tasks = listing(facts.name for facts in CATALOGUE.values() if facts.endings and facts.metric in judging)
    raise InputError(
        f"precision {precision!r} is judged by what a task's answers lose by it, which is measured of {tasks} so far, "
        f"and {what} is none. Export it with precision fp32."
    )
