"""How much of what maps of low precision show is their reference's (P3 of PARITY.md): depths and pictures, whose
numbers are the answer themselves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from precast.runtime.backends.base import Array
from precast.runtime.two_bounds import TwoBounds

__all__ = ["BOUNDS", "Maps"]

# Precision -> (least mean R2, least R2 of any call): what cosines of 0.999 and 0.99 leave of vectors around zero.
BOUNDS: dict[str, tuple[float, float]] = {"int8": (0.998, 0.98), "int4": (0.998, 0.98)}


@dataclass(frozen=True)
class Maps(TwoBounds):
    """R2 of the maps of each call: the share of the reference's variance that ours explain, 1 where they are the same.

    Args:
        data: SHA-256 of the inputs.
    """

    kinds: ClassVar[tuple[str, ...]] = ("scores",)
    precisions: ClassVar[tuple[str, ...]] = tuple(BOUNDS)
    loss: ClassVar[str] = "variance"
    bounds: ClassVar[Mapping[str, tuple[float, float]]] = BOUNDS
    figure: ClassVar[str] = "R2"
    digits: ClassVar[int] = 5
    fault: ClassVar[str] = "shows too little of what the reference shows"

    calls: int
    data: str

    @classmethod
    def over(cls, pairs: Mapping[str, Sequence[tuple[Array, Array]]], *, text: bool, data: str) -> Maps:
        """The figures of (reference, ours) maps, of any shape; of what is not finite R2 is no more than -1."""
        found = np.array([_explained(*pair) for pair in pairs["scores"]])
        return cls(float(found.mean()), float(found.min()), len(found), data)

    @property
    def counted(self) -> str:
        return f"{self.calls} calls"

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
