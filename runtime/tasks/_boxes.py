"""Objects of a detector's outputs: which of them count, with what scores, and where they are in the picture.

How that is done goes with the image processor's class, and is data of the artifact: ``{"scores": "softmax"}`` for
classes that exclude each other, the last of which stands for no object; ``{"scores": "sigmoid", "most": 100}`` for
classes that do not, of which the best of all objects count (without ``most``, as many as there are objects).
``"square"``: pictures lie in the corner of a square as large as their longer side, whose shares boxes are.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from precast.runtime import arguments
from precast.runtime.errors import InputError
from precast.runtime.fields import Fields, is_number
from precast.runtime.tasks.base import sigmoid, softmax

__all__ = ["EDGES", "Detection", "Objects", "read_threshold"]

EDGES = ("xmin", "ymin", "xmax", "ymax")


def read_threshold(value: Any) -> float:
    """``threshold``: the score that objects are above."""
    number = arguments.listed(value)
    if not is_number(number):
        raise InputError(f"threshold must be a number, mostly of 0 to 1; received {value!r:.80}.")
    return float(number)


class Objects(NamedTuple):
    """Scores [N], numbers of labels [N], and corners [N, 4] in pixels: left, top, right, bottom."""

    scores: np.ndarray
    labels: np.ndarray
    corners: np.ndarray

    def above(self, threshold: float) -> Objects:
        """Those of a larger score, in the same order."""
        kept = self.scores > threshold
        return Objects(self.scores[kept], self.labels[kept], self.corners[kept])


class Detection(NamedTuple):
    """How objects are made of outputs. ``most``: how many of them at most; 0: as many as the model looks for."""

    scores: str
    most: int = 0
    square: bool = False

    @classmethod
    def of(cls, processor: Any, task: str) -> Detection:
        """As an image processor says; raises InputError where it does not."""
        said = getattr(processor, "detection", None)
        if said is None:
            raise InputError(
                f"{task} needs an image processor of a detector, whose class says how scores are made of logits; "
                "this one's does not. Pass another: pipeline(..., image_processor=...)."
            )
        return cls.read(said)

    @classmethod
    def read(cls, data: Mapping[str, Any]) -> Detection:
        """From ``processing.image.detection`` of a manifest."""
        fields = Fields(dict(data), "processing.image.detection")
        made = cls(
            fields.choice("scores", ("softmax", "sigmoid")), fields.count("most", 0), fields.flag("square", False)
        )
        fields.close()
        return made

    def __call__(self, logits: np.ndarray, boxes: np.ndarray, size: tuple[int, int]) -> Objects:
        """Of logits [Q, L] and boxes [Q, 4], centres, widths and heights as shares of a picture of ``size`` (width,
        height)."""
        if self.scores == "softmax":
            shares = softmax(logits)[:, :-1]
            return Objects(shares.max(axis=-1), shares.argmax(axis=-1), self._corners(boxes, size))
        shares = sigmoid(logits).astype(np.float32).reshape(-1)
        best = np.argsort(-shares, kind="stable")[: self.most or len(logits)]
        return Objects(shares[best], best % logits.shape[1], self._corners(boxes[best // logits.shape[1]], size))

    def of_one(self, logits: np.ndarray, boxes: np.ndarray, size: tuple[int, int]) -> Objects:
        """All objects in their order, of logits of what one text says [Q], or of each of its tokens [Q, S], the best
        of which counts."""
        scores = sigmoid(logits if logits.ndim == 1 else logits.max(axis=-1)).astype(np.float32)
        return Objects(scores, np.zeros(len(scores), np.int64), self._corners(boxes, size))

    def labels(self, logits: np.ndarray) -> int:
        """How many labels there are names of."""
        return int(logits.shape[-1]) - (self.scores == "softmax")

    def _corners(self, boxes: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        """In float32, as upstream's are."""
        edges = np.array((max(size),) * 4 if self.square else size * 2, np.float32)
        centre, half = boxes[:, :2], np.float32(0.5) * boxes[:, 2:]
        corners: np.ndarray = np.concatenate((centre - half, centre + half), axis=1) * edges
        return corners
