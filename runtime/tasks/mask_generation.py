"""Mask generation: everything in a picture, each thing as a mask, found by a grid of points."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from typing import Any, NamedTuple

import numpy as np

from precast.runtime import arguments
from precast.runtime.errors import InputError
from precast.runtime.processors.image import open_picture
from precast.runtime.processors.image_steps import Extend, Resize
from precast.runtime.resampling import bilinear_weights
from precast.runtime.tasks._pictures import PictureTask
from precast.runtime.tasks._scores import UNSET

__all__ = ["PIPELINE", "MaskGeneration"]

_NEAR = 20.0  # pixels from the edge of a crop within which a mask is taken to be cut there
_MOST_POINTS = 1 << 10  # a side of a grid, of which there are a million points then, each with three masks
_MOST_LAYERS = 8  # of crops: 4 ^ 8 of them
_INTEGERS = {
    "points_per_crop": (1, _MOST_POINTS),
    "crops_n_layers": (0, _MOST_LAYERS),
    "crop_n_points_downscale_factor": (1, _MOST_POINTS),
}
_NUMBERS = (
    *("crop_overlap_ratio", "pred_iou_thresh", "stability_score_thresh", "stability_score_offset"),
    *("mask_threshold", "crops_nms_thresh"),
)

Array = np.ndarray[Any, Any]


class _Crop(NamedTuple):
    """A part of a picture: left, top, right, bottom, and which points of it are asked for, in pixels of it."""

    box: tuple[int, int, int, int]
    points: Array


class _Found(NamedTuple):
    """A mask as the lengths of its runs, its box in the picture, and how good the model holds it."""

    runs: list[int]
    box: Array
    score: np.float32


class MaskGeneration(PictureTask):
    """A picture -> ``{"masks": [bool [H, W]], "scores": [M]}``, the best first.

    Of every point of a grid of ``points_per_crop`` (32) a side the model makes masks, ``points_per_batch`` (64) at
    once. Those stay whose score is above ``pred_iou_thresh`` (0.88), that change by little where the threshold
    ``mask_threshold`` (0) does by ``stability_score_offset`` (1), so that their stability is above
    ``stability_score_thresh`` (0.95), and whose box overlaps none better by more than ``crops_nms_thresh`` (0.7).
    With ``crops_n_layers`` (0) parts of the picture are looked at as well, that overlap by ``crop_overlap_ratio``, with
    ``crop_n_points_downscale_factor`` (1) times fewer points a side in each layer. ``output_rle_mask`` adds
    ``rle_mask``, masks as run lengths, ``output_bboxes_mask`` ``bounding_boxes`` [M, 4], left, top, right, bottom.
    """

    name = "mask-generation"

    def __call__(self, inputs: Any = None, *, image: Any = None, **parameters: Any) -> Any:
        return super().__call__(image if inputs is None else inputs, **parameters)

    def check(
        self,
        *,
        points_per_batch: int | None = UNSET,
        points_per_crop: int | None = None,
        crops_n_layers: int | None = None,
        crop_overlap_ratio: float | None = None,
        crop_n_points_downscale_factor: int | None = None,
        pred_iou_thresh: float | None = None,
        stability_score_thresh: float | None = None,
        stability_score_offset: float | None = None,
        mask_threshold: float | None = None,
        crops_nms_thresh: float | None = None,
        output_rle_mask: bool | None = None,
        output_bboxes_mask: bool | None = None,
    ) -> dict[str, Any]:
        given = dict(locals())
        checked: dict[str, Any] = {}
        if points_per_batch is not UNSET:
            if points_per_batch is not None:
                points_per_batch = arguments.whole("points_per_batch", points_per_batch, most=_MOST_POINTS)
            checked["points_per_batch"] = points_per_batch
        for name, (least, most) in _INTEGERS.items():
            if given[name] is not None:
                checked[name] = arguments.whole(name, given[name], least, most=most)
        for name in _NUMBERS:
            if given[name] is not None:
                checked[name] = arguments.number(name, given[name])
        for name in ("output_rle_mask", "output_bboxes_mask"):
            if given[name] is not None:
                checked[name] = arguments.flag(name, given[name])
        return checked

    def answers(
        self,
        window: Sequence[Any],
        parameters: Mapping[str, Any],
        *,
        batch_size: int | None,
        limits: Mapping[str, Any],
    ) -> Iterator[Any]:
        """One picture after the other: points are what a batch is made of."""
        for item in window:
            picture = np.asarray(open_picture(item, upright=True))
            found = [one for crop in _crops(picture, parameters) for one in self._of(picture, crop, parameters)]
            yield _result(found, picture.shape[:2], parameters)

    def _of(self, picture: Array, crop: _Crop, parameters: Mapping[str, Any]) -> Iterator[_Found]:
        """The masks of a part of a picture that may stay."""
        left, top, right, bottom = crop.box
        own, (height, width) = picture[top:bottom, left:right], (bottom - top, right - left)
        resized, padded = self._sizes(width, height)
        points = (crop.points * (np.array(resized) / (width, height)))[:, None].astype(np.float32)
        given = {self.reader.image_processor.port: self.reader.image_processor.pixels(open_picture(own))[None]}
        every = parameters.get("points_per_batch", 64) or len(points)
        lines: tuple[Array, Array] | None = None
        for start in range(0, len(points), every):
            outputs = self.model(**given, input_points=points[None, start : start + every])
            given = {"image_embeddings": outputs["image_embeddings"]} if "image_embeddings" in outputs else given
            masks, scores = outputs["pred_masks"][0], outputs["iou_scores"][0]
            masks, scores = masks.reshape(-1, *masks.shape[2:]), scores.reshape(-1)
            if lines is None:
                rows, columns = masks.shape[1:]
                lines = (
                    bilinear_weights(resized[1], height) @ bilinear_weights(rows, padded[1])[: resized[1]],
                    bilinear_weights(resized[0], width) @ bilinear_weights(columns, padded[0])[: resized[0]],
                )
            least = parameters.get("pred_iou_thresh", 0.88)
            for number in np.flatnonzero(scores > least) if least > 0 else range(len(scores)):
                runs = _kept(lines[0] @ masks[number] @ lines[1].T, crop.box, picture.shape[:2], parameters)
                if runs is not None:
                    yield _Found(*runs, scores[number])

    def _sizes(self, width: int, height: int) -> tuple[tuple[int, int], tuple[int, int]]:
        """Width and height of a picture as it is resized, and as it is padded then."""
        steps = self.reader.image_processor.steps
        resize = next((step for step in steps if isinstance(step, Resize)), None)
        pad = next((step for step in steps if isinstance(step, Extend)), None)
        resized = (width, height) if resize is None else resize.size(width, height)
        return resized, resized if pad is None else (pad.width, pad.height)


def _crops(picture: Array, parameters: Mapping[str, Any]) -> Iterator[_Crop]:
    """The picture, and in each layer twice as many parts a side, which overlap."""
    height, width = picture.shape[:2]
    for layer in range(parameters.get("crops_n_layers", 0) + 1):
        fewer = parameters.get("crop_n_points_downscale_factor", 1) ** layer
        side = int(parameters.get("points_per_crop", 32) / fewer)
        if side < 1:
            raise InputError(
                f"crop_n_points_downscale_factor leaves no point of points_per_crop in layer {layer} of the crops."
            )
        place = np.linspace(1 / (2 * side), 1 - 1 / (2 * side), side)
        grid = np.stack(np.meshgrid(place, place), axis=-1).reshape(-1, 2)
        parts = 2**layer
        overlap = int(parameters.get("crop_overlap_ratio", 512 / 1500) * min(height, width) * (2 / parts))
        overlap = overlap if layer else 0
        wide, high = (math.ceil((overlap * (parts - 1) + edge) / parts) for edge in (width, height))
        for across, down in product(range(parts), range(parts)):
            left, top = (wide - overlap) * across, (high - overlap) * down
            right, bottom = min(left + wide, width), min(top + high, height)
            if right <= left or bottom <= top:
                raise InputError(
                    f"A picture of {width} x {height} has no parts of layer {layer} of crops: {parts} a side, which "
                    f"overlap by {overlap} pixels. Lower crops_n_layers or crop_overlap_ratio."
                )
            yield _Crop((left, top, right, bottom), grid * (right - left, bottom - top))


def _kept(
    logits: Array, crop: tuple[int, int, int, int], size: tuple[int, int], parameters: Mapping[str, Any]
) -> tuple[list[int], Array] | None:
    """Runs and box in the picture of a mask of a crop; None where it is unsteady or cut at the crop's edge."""
    threshold, offset = parameters.get("mask_threshold", 0.0), parameters.get("stability_score_offset", 1.0)
    least = parameters.get("stability_score_thresh", 0.95)
    if least > 0:
        inner, outer = (np.count_nonzero(logits > threshold + step) for step in (offset, -offset))
        if not outer or not np.float32(inner) / np.float32(outer) > np.float32(least):
            return None
    mask = logits > threshold
    left, top, right, bottom = crop
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    box = np.array([columns[0], rows[0], columns[-1], rows[-1]] if len(rows) else [0] * 4, np.int64)
    box += (left, top, left, top)
    height, width = size
    near = (np.abs(box - crop) <= _NEAR) & ~(np.abs(box - (0, 0, width, height)) <= _NEAR)
    if near.any():
        return None
    if (bottom - top, right - left) != size:
        mask = np.pad(mask, [(top, height - bottom), (left, width - right)])
    return _runs(mask), box


def _runs(mask: Array) -> list[int]:
    """Lengths of runs, column by column, of what is no mask first: COCO's."""
    flat = mask.T.reshape(-1)
    ends = np.flatnonzero(np.concatenate(([flat[0]], flat[1:] != flat[:-1], [True])))
    first: list[int] = [0] if flat[0] else []
    starts = ends if flat[0] else np.concatenate(([0], ends))
    lengths: list[int] = np.diff(starts).tolist()
    return first + lengths


def _mask(runs: Sequence[int], size: tuple[int, int]) -> Array:
    """A mask [H, W] of its runs."""
    flat = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
    return np.ascontiguousarray(flat.reshape(size[1], size[0]).T)


def _best(boxes: Array, scores: Array, most: float) -> list[int]:
    """Boxes [M, 4] that overlap no better one by more than ``most``, the best first: non-maximum suppression."""
    boxes = boxes.astype(np.float32)
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    order, kept = np.argsort(-scores, kind="stable"), []
    while len(order):
        best, order = int(order[0]), order[1:]
        kept.append(best)
        near = np.minimum(boxes[best, 2:], boxes[order, 2:]) - np.maximum(boxes[best, :2], boxes[order, :2])
        shared = np.prod(np.maximum(near, 0), axis=1)
        with np.errstate(invalid="ignore", divide="ignore"):
            over = shared / (areas[best] + areas[order] - shared) > most
        order = order[~over]
    return kept


def _result(found: Sequence[_Found], size: tuple[int, int], parameters: Mapping[str, Any]) -> dict[str, Any]:
    boxes = np.array([one.box for one in found], np.int64).reshape(-1, 4)
    scores = np.array([one.score for one in found], np.float32)
    kept = _best(boxes, scores, parameters.get("crops_nms_thresh", 0.7))
    result: dict[str, Any] = {"masks": [_mask(found[index].runs, size) for index in kept], "scores": scores[kept]}
    if parameters.get("output_rle_mask"):
        result["rle_mask"] = [{"size": list(size), "counts": found[index].runs} for index in kept]
    if parameters.get("output_bboxes_mask"):
        result["bounding_boxes"] = boxes[kept]
    return result


PIPELINE = MaskGeneration
