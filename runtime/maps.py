"""How much of what maps of low precision show is their reference's (P3 of PARITY.md): depths and pictures, whose
numbers are the answer themselves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from precast.runtime.backends.base import Array
from precast.runtime.errors import ParityError

__all__ = ["BOUNDS", "Maps"]

# Precision -> (least mean R2, least R2 of any call): what cosines of 0.999 and 0.99 leave of vectors around zero.
BOUNDS: dict[str, tuple[float, float]] = {"int8": (0.998, 0.98), "int4": (0.998, 0.98)}


@dataclass(frozen=True)
class Maps:
    """R2 of the maps of each call: the share of the reference's variance that ours explain, 1 where they are the same.

    Args:
        text: not asked here. data: SHA-256 of the inputs.
    """

    kinds: ClassVar[tuple[str, ...]] = ("scores",)
    precisions: ClassVar[tuple[str, ...]] = tuple(BOUNDS)
    loss: ClassVar[str] = "variance"

    mean: float
    worst: float
    calls: int
    data: str

    @classmethod
    def over(cls, pairs: Mapping[str, Sequence[tuple[Array, Array]]], *, text: bool, data: str) -> Maps:
        """The figures of (reference, ours) maps, of any shape; of what is not finite R2 is no more than -1."""
        found = np.array([_explained(*pair) for pair in pairs["scores"]])
        return cls(float(found.mean()), float(found.min()), len(found), data)

    def shares(self, precision: str) -> tuple[float, ...]:
        """How much of the bounds of a precision is used, as `Directions.shares`."""
        mean, worst = BOUNDS[precision]
        return ((1 - self.mean) / (1 - mean), (1 - self.worst) / (1 - worst))

    @property
    def losses(self) -> dict[str, float]:
        """See `Metric.losses`."""
        return {"variance": 1 - self.mean}

    def to_json(self) -> dict[str, Any]:
        return {
            "r2_mean": round(self.mean, 7),
            "r2_worst": round(self.worst, 7),
            "calls": self.calls,
            "data_sha256": self.data,
        }

    def gate(self, precision: str, variant: str) -> None:
        """Hold the figures to the bounds of a precision.

        Raises:
            ParityError: naming what is broken and by how much.
        """
        mean, worst = BOUNDS[precision]
        broken = []
        if not self.mean >= mean:
            broken.append(f"the mean R2 {self.mean:.5f} is below {mean:g}")
        if not self.worst >= worst:
            broken.append(f"the worst R2 {self.worst:.5f} is below {worst:g}")
        if broken:
            raise ParityError(
                f"variant {variant} shows too little of what the reference shows over {self.calls} calls, and is "
                f"refused: {'; '.join(broken)}. Export a higher precision."
            )

    @staticmethod
    def in_words(record: Mapping[str, Any]) -> str:
        """Recorded figures (`to_json`) in words."""
        mean, worst = record["r2_mean"], record["r2_worst"]
        return f"R2 {mean:.5f} on average and {worst:.5f} at worst over {record['calls']} calls"


def _explained(reference: Array, ours: Array) -> float:
    if not np.isfinite(ours).all():
        return -1.0
    exact = reference.astype(np.float64)
    lost = float(((ours - exact) ** 2).sum())
    spread = float(((exact - exact.mean()) ** 2).sum())
    if spread == 0.0:
        return 1.0 if lost == 0.0 else -1.0
    return 1.0 - lost / spread
