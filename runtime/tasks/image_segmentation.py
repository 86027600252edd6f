"""Image segmentation: a picture to its parts, each with a label and a mask."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from precast.runtime import arguments
from precast.runtime.errors import InputError, listing
from precast.runtime.segmentation import Thresholds, segmenter
from precast.runtime.tasks._pictures import SizedPictureTask, grey
from precast.runtime.tasks.base import Request, Row, id2label

__all__ = ["PIPELINE", "ImageSegmentation"]

_THRESHOLDS = {"threshold": "score", "mask_threshold": "mask", "overlap_mask_area_threshold": "overlap"}


class ImageSegmentation(SizedPictureTask):
    """A picture -> ``[{"score", "label", "mask"}]``: masks are Pillow images of the picture's size, white where the
    segment is. Scores are None where a model gives none.

    ``subtask`` is "panoptic", "instance" or "semantic", what the model can do of that; by default the first of them.
    ``label_ids_to_fuse``: labels whose segments are one together in panoptic results, none by default.
    """

    name = "image-segmentation"

    def __init__(self, model: Any, **defaults: Any) -> None:
        found = segmenter(model.output_names)
        if found is None:
            raise InputError(
                f"image-segmentation knows no model whose outputs are {listing(model.output_names)}. Call the model "
                "itself: precast.load(artifact)(...)."
            )
        self._kind = found
        super().__init__(model, **defaults)
        said = getattr(self.reader.image_processor, "segmentation", None)
        if said is not None:
            self._kind = found.told(said)

    def check(
        self,
        *,
        subtask: str | None = None,
        threshold: float | None = None,
        mask_threshold: float | None = None,
        overlap_mask_area_threshold: float | None = None,
        label_ids_to_fuse: Iterable[int] | None = None,
    ) -> dict[str, Any]:
        checked: dict[str, Any] = {}
        if subtask is not None:
            checked["subtask"] = arguments.choice("subtask of this model", subtask, self._kind.subtasks)
        given = zip(_THRESHOLDS, (threshold, mask_threshold, overlap_mask_area_threshold), strict=True)
        for name, value in given:
            if value is not None:
                checked[name] = arguments.number(name, value)
        if label_ids_to_fuse is not None:
            given_ids = arguments.entries("label_ids_to_fuse", label_ids_to_fuse, "numbers of labels")
            checked["label_ids_to_fuse"] = frozenset(
                arguments.whole("a label of label_ids_to_fuse", one, 0) for one in given_ids
            )
        return checked

    def keep(self, outputs: Mapping[str, np.ndarray], index: int, span: slice, row: Row) -> Any:
        return self._kind.keep({name: outputs[name][index] for name in self._kind.outputs}, self.size_of(row))

    def finish(self, request: Request, kept: list[Any], parameters: Mapping[str, Any]) -> list[dict[str, Any]]:
        given = {field: parameters[name] for name, field in _THRESHOLDS.items() if name in parameters}
        given["fused"] = parameters.get("label_ids_to_fuse", frozenset())
        subtask = parameters.get("subtask", self._kind.subtasks[0])
        size = self.size_of(request.rows[0])
        segments = self._kind.segments(kept[0], size, subtask, Thresholds(**given))
        labels = id2label(self.model.config, 1 + max((segment.label for segment in segments), default=-1))
        return [
            {"score": segment.score, "label": labels[segment.label], "mask": grey(segment.mask * np.uint8(255))}
            for segment in segments
        ]


PIPELINE = ImageSegmentation
