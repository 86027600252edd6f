"""How far objects that a detector of low precision finds are from its reference's (P3 of PARITY.md): what they are, as
classes are judged everywhere, and where."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from precast.runtime.backends.base import Array
from precast.runtime.divergence import Divergence
from precast.runtime.errors import ParityError

__all__ = ["BOUNDS", "Objects", "overlaps"]

# Precision -> least mean intersection over union of a box with its reference's.
BOUNDS: dict[str, float] = {"int8": 0.99, "int4": 0.95}


@dataclass(frozen=True)
class Objects:
    """Figures over all objects that a detector may find in some pictures, likely ones or not.

    Args:
        labels: how far their labels are. overlap: mean intersection over union of the boxes. worst: the least.
    """

    kinds: ClassVar[tuple[str, ...]] = ("logits", "boxes")
    precisions: ClassVar[tuple[str, ...]] = tuple(BOUNDS)
    loss: ClassVar[str] = "overlap"

    labels: Divergence
    overlap: float
    worst: float

    @classmethod
    def over(cls, pairs: Mapping[str, Sequence[tuple[Array, Array]]], *, text: bool, data: str) -> Objects:
        """The figures of (reference, ours): logits [K, labels], and boxes [K, 4], each its middle and its size."""
        found = np.concatenate([overlaps(*pair) for pair in pairs["boxes"]])
        return cls(Divergence.over(pairs, text=text, data=data), float(found.mean()), float(found.min()))

    def shares(self, precision: str) -> tuple[float, ...]:
        """How much of the bounds of a precision is used, as `Divergence.shares`; and of that of the boxes."""
        first, *others = self.labels.shares(precision)
        return (max(first, (1 - self.overlap) / (1 - BOUNDS[precision])), *others)

    @property
    def losses(self) -> dict[str, float]:
        """See `Metric.losses`."""
        return {**self.labels.losses, "overlap": 1 - self.overlap}

    def to_json(self) -> dict[str, Any]:
        figures = {"iou_mean": round(self.overlap, 5), "iou_worst": round(self.worst, 5)}
        return {**self.labels.to_json(), **figures}

    def gate(self, precision: str, variant: str) -> None:
        """Hold the figures to the bounds of a precision.

        Raises:
            ParityError: naming what is broken and by how much.
        """
        self.labels.gate(precision, variant)
        if not self.overlap >= BOUNDS[precision]:
            raise ParityError(
                f"variant {variant} finds objects too far from where the reference finds them, and is refused: the "
                f"mean intersection over union {self.overlap:.4f} of {self.labels.positions} boxes is below "
                f"{BOUNDS[precision]:g}. Export a higher precision."
            )

    @staticmethod
    def in_words(record: Mapping[str, Any]) -> str:
        """Recorded figures (`to_json`) in words."""
        return (
            f"intersection over union {record['iou_mean']:.4f} on average over {record['positions']} boxes, mean KL "
            f"divergence {record['kl_mean']:.1e} of their labels, the same likeliest at {record['same_top']:.2%}"
        )


def overlaps(reference: Array, ours: Array) -> Array:
    """[K]: intersection over union of boxes [K, 4], each (x, y) of its middle, width and height; 0 of what is not
    finite, and 1 of two that are nothing at one place."""
    finite = np.asarray(np.isfinite(ours).all(axis=-1))
    a, b = reference.astype(np.float64), np.where(finite[:, None], ours, 0).astype(np.float64)
    same = (a == b).all(axis=-1) & finite
    sizes = [np.maximum(each[:, 2:], 0) for each in (a, b)]
    low = np.maximum(*(each[:, :2] - size / 2 for each, size in zip((a, b), sizes, strict=True)))
    high = np.minimum(*(each[:, :2] + size / 2 for each, size in zip((a, b), sizes, strict=True)))
    common = np.maximum(high - low, 0).prod(axis=-1)
    union = sum(size.prod(axis=-1) for size in sizes) - common
    found = np.divide(common, union, out=np.zeros_like(common), where=union > 0)
    result: Array = np.where(same, 1.0, np.where(finite, found, 0.0))
    return result
