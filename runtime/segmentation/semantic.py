"""Models that score all labels at every place: a segment is where a label's score is the largest."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from precast.runtime.resampling import likeliest
from precast.runtime.segmentation.base import Segment, Size, Thresholds

__all__ = ["SEGMENTER", "Semantic"]


class Semantic:
    """Of ``logits`` [L, H, W]; no thresholds matter."""

    outputs = ("logits",)
    subtasks = ("semantic",)

    def told(self, said: Mapping[str, Any]) -> Semantic:
        return self

    def keep(self, outputs: Mapping[str, np.ndarray], size: Size) -> np.ndarray:
        """The label of every pixel, [height, width]."""
        return likeliest(outputs["logits"], *size)

    def segments(self, kept: np.ndarray, size: Size, subtask: str, thresholds: Thresholds) -> list[Segment]:
        return [Segment(int(label), None, kept == label) for label in np.unique(kept)]


SEGMENTER = Semantic()
