"""Object detection: what is in a picture, and where."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from precast.runtime.tasks._boxes import EDGES, Detection, read_threshold
from precast.runtime.tasks._pictures import SizedPictureTask
from precast.runtime.tasks.base import Request, Row, id2label

__all__ = ["PIPELINE", "ObjectDetection"]

_USUAL = 0.5


class ObjectDetection(SizedPictureTask):
    """A picture -> ``[{"score", "label", "box": {"xmin", "ymin", "xmax", "ymax"}}]`` of each object whose score is
    above ``threshold`` (0.5), in pixels of the picture."""

    name = "object-detection"

    def __init__(self, model: Any, **defaults: Any) -> None:
        super().__init__(model, **defaults)
        self._detection = Detection.of(self.reader.image_processor, self.name)

    def check(self, *, threshold: float | None = None, timeout: float | None = None) -> dict[str, Any]:
        # timeout: of downloads, in upstream's call; here pictures are files.
        return {} if threshold is None else {"threshold": read_threshold(threshold)}

    def keep(self, outputs: Mapping[str, np.ndarray], index: int, span: slice, row: Row) -> dict[str, np.ndarray]:
        return {name: np.asarray(outputs[name][index], np.float32) for name in ("logits", "pred_boxes")}

    def finish(self, request: Request, kept: list[Any], parameters: Mapping[str, Any]) -> list[dict[str, Any]]:
        logits, boxes = kept[0]["logits"], kept[0]["pred_boxes"]
        height, width = self.size_of(request.rows[0])
        found = self._detection(logits, boxes, (width, height)).above(parameters.get("threshold", _USUAL))
        names = id2label(self.model.config, self._detection.labels(logits))
        return [
            {"score": float(score), "label": names[label], "box": dict(zip(EDGES, map(int, corners), strict=True))}
            for score, label, corners in zip(*found, strict=True)
        ]


PIPELINE = ObjectDetection
