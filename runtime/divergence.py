"""How far logits of low precision are from their reference's: Kullback-Leibler divergence and the most likely class of
each answer (P3 of PARITY.md). Of a language model these are positions of a text, and tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from precast.runtime.backends.base import Array
from precast.runtime.errors import ParityError

__all__ = ["BOUNDS", "Divergence", "kl_divergence"]

# Precision -> (largest mean divergence in nats, least share of positions with the same most likely token or None).
BOUNDS: dict[str, tuple[float, float | None]] = {"int8": (1e-3, 0.99), "int4": (5e-2, None)}


def kl_divergence(reference: Array, ours: Array, axis: int = -1) -> Array:
    """KL(softmax(reference) || softmax(ours)) in nats over the axis of classes, [..., V] -> [...], in float64."""
    p, q = (_log_softmax(logits.astype(np.float64), axis) for logits in (reference, ours))
    divergence: Array = (np.exp(p) * (p - q)).sum(axis=axis)
    # Rounding may leave a divergence of nothing below zero.
    return np.maximum(divergence, 0.0)


def _log_softmax(logits: Array, axis: int) -> Array:
    shifted = logits - logits.max(axis=axis, keepdims=True)
    normalised: Array = shifted - np.log(np.exp(shifted).sum(axis=axis, keepdims=True))
    return normalised


@dataclass(frozen=True)
class Divergence:
    """Figures over all positions of some texts.

    Args:
        text: the tokens are those of natural text; random ones leave near ties, whose most likely token says little.
        data: SHA-256 of the tokens.
    """

    kinds: ClassVar[tuple[str, ...]] = ("logits",)
    precisions: ClassVar[tuple[str, ...]] = tuple(BOUNDS)
    loss: ClassVar[str] = "agreement"

    mean: float
    worst: float
    top: float
    positions: int
    text: bool
    data: str

    @classmethod
    def over(cls, pairs: Mapping[str, Sequence[tuple[Array, Array]]], *, text: bool, data: str) -> Divergence:
        """The figures of (reference, ours) logits, [K, V] each."""
        divergences, same = [], []
        for reference, ours in pairs["logits"]:
            finite = bool(np.isfinite(ours).all())
            divergences.append(kl_divergence(reference, ours) if finite else np.full(len(reference), np.inf))
            same.append(reference.argmax(-1) == ours.argmax(-1))
        found, equal = np.concatenate(divergences), np.concatenate(same)
        return cls(float(found.mean()), float(found.max()), float(equal.mean()), len(found), text, data)

    def shares(self, precision: str) -> tuple[float, ...]:
        """How much of the bounds of a precision is used: by the mean, which small changes add up to nearly, and by the
        likeliest tokens that are others, where that is bounded."""
        most, least = BOUNDS[precision]
        others = () if least is None or not self.text else ((1 - self.top) / (1 - least),)
        return (self.mean / most, *others)

    @property
    def losses(self) -> dict[str, float]:
        """See `Metric.losses`."""
        return {"agreement": 1 - self.top, "kl": self.mean}

    def to_json(self) -> dict[str, Any]:
        return {
            "kl_mean": float(f"{self.mean:.4g}"),
            "kl_max": float(f"{self.worst:.4g}"),
            "same_top": round(self.top, 5),
            "positions": self.positions,
            "text": self.text,
            "data_sha256": self.data,
        }

    def gate(self, precision: str, variant: str) -> None:
        """Hold the figures to the bounds of a precision.

        Raises:
            ParityError: naming what is broken and by how much.
        """
        most, least = BOUNDS[precision]
        broken = []
        if not self.mean <= most:
            broken.append(f"mean KL divergence {self.mean:.2e} is above {most:g}")
        if least is not None and self.text and not self.top >= least:
            broken.append(f"the most likely token is the same at {self.top:.2%} of positions, below {least:.0%}")
        if broken:
            raise ParityError(
                f"variant {variant} is too far from the reference over {self.positions} positions of text, and is "
                f"refused: {'; '.join(broken)}. Export a higher precision."
            )

    @staticmethod
    def in_words(record: Mapping[str, Any]) -> str:
        """Recorded figures (`to_json`) in words."""
        what = "text" if record["text"] else "random tokens"
        return (
            f"mean KL divergence {record['kl_mean']:.1e} over {record['positions']} positions of {what}, "
            f"the same most likely token at {record['same_top']:.2%}"
        )
