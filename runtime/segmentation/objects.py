"""Detectors that say where each of their objects is, as upstream reads them: of which every segment is an object, and
instances are not counted twice. https://arxiv.org/abs/2005.12872"""

from __future__ import annotations

from typing import Any, ClassVar

from precast.runtime.segmentation.base import Segment, Size, Thresholds
from precast.runtime.segmentation.queries import Queries

__all__ = ["SEGMENTER", "Objects"]


class Objects(Queries):
    """Of ``logits`` [Q, L + 1] and ``pred_masks`` [Q, H, W]."""

    outputs: ClassVar[tuple[str, ...]] = ("logits", "pred_masks")

    def segments(self, kept: Any, size: Size, subtask: str, thresholds: Thresholds) -> list[Segment]:
        if subtask == "instance":
            subtask, thresholds = "panoptic", thresholds._replace(fused=frozenset())
        return super().segments(kept, size, subtask, thresholds)


SEGMENTER = Objects()
