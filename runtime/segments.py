"""How far segments that low precision finds in pictures are from its reference's (P3 of PARITY.md): what they are, as
classes are judged everywhere, and where, as maps are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from precast.runtime.backends.base import Array
from precast.runtime.divergence import Divergence
from precast.runtime.maps import Maps

__all__ = ["Segments"]


@dataclass(frozen=True)
class Segments:
    """Figures over all segments that some pictures may hold, likely ones or not.

    Args:
        labels: how far their labels are. masks: how much of what is said of each place is the reference's.
    """

    kinds: ClassVar[tuple[str, ...]] = ("logits", "scores")
    precisions: ClassVar[tuple[str, ...]] = tuple(one for one in Divergence.precisions if one in Maps.precisions)
    loss: ClassVar[str] = "variance"

    labels: Divergence
    masks: Maps

    @classmethod
    def over(cls, pairs: Mapping[str, Sequence[tuple[Array, Array]]], *, text: bool, data: str) -> Segments:
        """The figures of (reference, ours): logits [K, labels], and masks before they are cut, of any shape."""
        return cls(Divergence.over(pairs, text=text, data=data), Maps.over(pairs, text=text, data=data))

    def shares(self, precision: str) -> tuple[float, ...]:
        """How much of the bounds of a precision is used, as `Divergence.shares`; and of those of the masks."""
        first, *others = self.labels.shares(precision)
        mean, *rest = self.masks.shares(precision)
        return (max(first, mean), *others, *rest)

    @property
    def losses(self) -> dict[str, float]:
        """See `Metric.losses`."""
        return {**self.labels.losses, **self.masks.losses}

    def to_json(self) -> dict[str, Any]:
        return {**self.masks.to_json(), **self.labels.to_json()}

    def gate(self, precision: str, variant: str) -> None:
        """Hold the figures to the bounds of a precision.

        Raises:
            ParityError: naming what is broken and by how much.
        """
        self.labels.gate(precision, variant)
        self.masks.gate(precision, variant)

    @staticmethod
    def in_words(record: Mapping[str, Any]) -> str:
        """Recorded figures (`to_json`) in words."""
        return (
            f"{Maps.in_words(record)}, mean KL divergence {record['kl_mean']:.1e} of the labels of "
            f"{record['positions']} segments, the same likeliest at {record['same_top']:.2%}"
        )
