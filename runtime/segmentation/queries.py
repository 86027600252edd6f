"""Models that ask for one segment a query, each with labels and a mask, as upstream reads them.
https://arxiv.org/abs/2107.06278"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np

from precast.runtime.fields import Fields
from precast.runtime.resampling import banded, bilinear, likeliest, nearest, smallest_integers
from precast.runtime.segmentation.base import Segment, Size, Thresholds
from precast.runtime.tasks.base import sigmoid, softmax

__all__ = ["SEGMENTER", "Queries"]

_DIGITS = 6  # of scores, as upstream rounds them
_MOST = 1 << 12  # pixels of a side at which masks are compared


class _Kept(NamedTuple):
    """Of Q queries: ``labels`` [Q, L + 1], the last one none's, and ``masks`` [Q, H, W], both as logits."""

    labels: np.ndarray
    masks: np.ndarray


@dataclass(frozen=True)
class Queries:
    """Of ``class_queries_logits`` [Q, L + 1] and ``masks_queries_logits`` [Q, H, W].

    ``side``: masks are brought to so many pixels a side first, whatever the picture's; 0: they are taken as they are.
    """

    side: int = 0

    outputs: ClassVar[tuple[str, ...]] = ("class_queries_logits", "masks_queries_logits")
    subtasks: ClassVar[tuple[str, ...]] = ("panoptic", "instance", "semantic")

    def told(self, said: Mapping[str, Any]) -> Queries:
        fields = Fields(dict(said), "processing.image.segmentation")
        rule = f"an integer from 0 to {_MOST}"
        return type(self)(fields.take("side", rule, lambda v: type(v) is int and 0 <= v <= _MOST, 0))

    def keep(self, outputs: Mapping[str, np.ndarray], size: Size) -> _Kept:
        labels, masks = (np.array(outputs[name], np.float32) for name in self.outputs)
        return _Kept(labels, masks)

    def segments(self, kept: _Kept, size: Size, subtask: str, thresholds: Thresholds) -> list[Segment]:
        if self.side:
            kept = kept._replace(masks=bilinear(kept.masks, self.side, self.side))
        if subtask == "semantic":
            return _semantic(kept, size)
        return (_instances if subtask == "instance" else _panoptic)(kept, size, thresholds)


def _semantic(kept: _Kept, size: Size) -> list[Segment]:
    """Each place has the label of which all queries together say the most."""
    labels, masks = softmax(kept.labels)[:, :-1], sigmoid(kept.masks)
    scores = (labels.T @ masks.reshape(len(masks), -1)).reshape(-1, *masks.shape[1:])
    found = likeliest(scores, *size)
    return [Segment(int(label), None, found == label) for label in np.unique(found)]


def _instances(kept: _Kept, size: Size, thresholds: Thresholds) -> list[Segment]:
    """The likeliest pairs of a query and a label, as many as there are queries; later ones lie over earlier ones."""
    labels = softmax(kept.labels)[:, :-1]
    count = len(labels)
    best = np.argsort(-labels.ravel(), kind="stable")[:count]
    rows, columns = (nearest(here, there) for here, there in zip(kept.masks.shape[1:], size, strict=True))
    owner = np.full(size, -1, np.int64)
    found: list[tuple[int, float]] = []
    for place in best:
        query, label = divmod(int(place), labels.shape[1])
        logits = kept.masks[query]
        inside = logits > 0
        sure = sigmoid(logits[inside]).sum(dtype=np.float32) / (np.float32(inside.sum()) + np.float32(1e-6))
        score = float(labels[query, label] * sure)
        mask = inside[rows[:, None], columns]
        if score >= thresholds.score and mask.any():
            owner[mask] = len(found)
            found.append((label, round(score, _DIGITS)))
    return [Segment(label, score, owner == number) for number, (label, score) in enumerate(found)]


def _panoptic(kept: _Kept, size: Size, thresholds: Thresholds) -> list[Segment]:
    """Each place belongs to the query whose label and mask together are the likeliest there."""
    every = softmax(kept.labels)
    labels, scores = every.argmax(-1), every.max(-1)
    chosen = (labels != every.shape[1] - 1) & (scores > thresholds.score)
    labels, scores = labels[chosen], scores[chosen]
    if not len(labels):
        return []
    owner = np.empty(size, smallest_integers(len(labels)))
    whole = np.zeros(len(labels), np.int64)
    for rows, values in banded(sigmoid(kept.masks[chosen]), *size):
        values = values * scores[:, None, None]
        owner[rows] = values.argmax(0)
        whole += (values >= np.float32(thresholds.mask)).sum((1, 2))
    parts = np.zeros(size, np.int64)
    found: list[tuple[int, int, float]] = []
    fused: dict[int, int] = {}
    last = 0
    for number, (label, score) in enumerate(zip(labels.tolist(), scores.tolist(), strict=True)):
        mask = owner == number
        own = int(mask.sum())
        if not (own and whole[number] and np.float32(own) / np.float32(whole[number]) > np.float32(thresholds.overlap)):
            continue
        # What is counted on from a fused part may have a number that another part has: so upstream counts, too.
        last = fused.get(label, last + 1)
        parts[mask] = last
        found.append((last, label, round(score, _DIGITS)))
        if label in thresholds.fused:
            fused[label] = last
    return [Segment(label, score, parts == part) for part, label, score in found]


SEGMENTER = Queries()
