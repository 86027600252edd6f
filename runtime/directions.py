"""How far vectors of low precision point from their reference's (P3 of PARITY.md): embeddings, and states of tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from precast.runtime.backends.base import Array
from precast.runtime.two_bounds import TwoBounds

__all__ = ["BOUNDS", "Directions"]

# Precision -> (least mean cosine, least cosine of any vector).
BOUNDS: dict[str, tuple[float, float]] = {"int8": (0.999, 0.99), "int4": (0.999, 0.99)}


@dataclass(frozen=True)
class Directions(TwoBounds):
    """Cosines of all vectors with their reference's.

    Args:
        text: the tokens are those of natural text, else random ones.
        data: SHA-256 of the tokens.
    """

    kinds: ClassVar[tuple[str, ...]] = ("states", "embedding")
    precisions: ClassVar[tuple[str, ...]] = tuple(BOUNDS)
    loss: ClassVar[str] = "cosine"
    bounds: ClassVar[Mapping[str, tuple[float, float]]] = BOUNDS
    figure: ClassVar[str] = "cosine"
    digits: ClassVar[int] = 6
    fault: ClassVar[str] = "points too far from the reference"

    vectors: int
    text: bool
    data: str

    @classmethod
    def over(cls, pairs: Mapping[str, Sequence[tuple[Array, Array]]], *, text: bool, data: str) -> Directions:
        """The figures of (reference, ours) vectors, [K, C] each; of what is not finite the cosine is -1."""
        found = np.concatenate([_cosines(*pair) for of_kind in pairs.values() for pair in of_kind])
        return cls(float(found.mean()), float(found.min()), len(found), text, data)

    @property
    def counted(self) -> str:
        return f"{self.vectors} vectors"

    @property
    def losses(self) -> dict[str, float]:
        """See `Metric.losses`."""
        return {"cosine": 1 - self.mean}

    def to_json(self) -> dict[str, Any]:
        return {
            "mean": round(self.mean, 7),
            "worst": round(self.worst, 7),
            "vectors": self.vectors,
            "text": self.text,
            "data_sha256": self.data,
        }

    @staticmethod
    def in_words(record: Mapping[str, Any]) -> str:
        """Recorded figures (`to_json`) in words."""
        what = "text" if record["text"] else "random tokens"
        return (
            f"cosine {record['mean']:.6f} on average and {record['worst']:.6f} at worst "
            f"over {record['vectors']} vectors of {what}"
        )


def _cosines(reference: Array, ours: Array) -> Array:
    """[K] of [K, C]; vectors of nothing point nowhere, and agree with each other alone."""
    finite = np.asarray(np.isfinite(ours).all(axis=-1))
    a, b = reference.astype(np.float64), np.where(finite[:, None], ours, 0).astype(np.float64)
    norms = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
    nothing = np.asarray(~a.any(axis=-1) & ~b.any(axis=-1))
    cosines = np.divide((a * b).sum(axis=-1), norms, out=nothing.astype(np.float64), where=norms > 0)
    return np.where(finite, cosines, -1.0)
