"""What every kind of segmentation says."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol, TypeAlias

import numpy as np

__all__ = ["Segment", "Segmenter", "Size", "Thresholds"]

Size: TypeAlias = tuple[int, int]
"""Of a picture: height, width."""


class Segment(NamedTuple):
    """A part of a picture: the number of its label, its score or None, and where it is, bool [height, width]."""

    label: int
    score: float | None
    mask: np.ndarray


class Thresholds(NamedTuple):
    """What upstream's pipeline calls ``threshold``, ``mask_threshold`` and ``overlap_mask_area_threshold``: the least
    score of a segment, the least probability of its pixels, and what share of these no other segment may have taken;
    and labels whose segments are one together, which upstream's image processors call ``label_ids_to_fuse``."""

    score: float = 0.9
    mask: float = 0.5
    overlap: float = 0.5
    fused: frozenset[int] = frozenset()


class Segmenter(Protocol):
    """A kind of model, as ``SEGMENTER`` of its file.

    Args:
        outputs: of a model of this kind. subtasks: what it can be asked for; the first is what it is asked for by
            default.
    """

    @property
    def outputs(self) -> tuple[str, ...]: ...

    @property
    def subtasks(self) -> tuple[str, ...]: ...

    def told(self, said: Mapping[str, Any]) -> Segmenter:
        """This kind as an image processor's class reads it: ``processing.image.segmentation`` of a manifest."""

    def keep(self, outputs: Mapping[str, np.ndarray], size: Size) -> Any:
        """What `segments` needs of the outputs for one picture of that size, which have no batch axis."""

    def segments(self, kept: Any, size: Size, subtask: str, thresholds: Thresholds) -> list[Segment]:
        """The segments of that picture, in upstream's order."""
