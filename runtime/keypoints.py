"""Keypoints of pictures, chosen of a detector's map of scores, and matches of two pictures' keypoints: how many there
are depends on the pictures, so that no graph can hold them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from precast.runtime.artifact import Artifact
from precast.runtime.backends.base import Array
from precast.runtime.errors import InputError
from precast.runtime.fields import Fields, is_number
from precast.runtime.flow import Flow
from precast.runtime.model import Model, Outputs

__all__ = ["KeypointModel", "Matching", "Selection", "chosen", "overwrite"]


class Selection(NamedTuple):
    """Which pixels are keypoints: those with a score ``above`` a number, that is the largest within a ``radius`` of
    pixels, not within ``border`` pixels of the left and the upper edge (upstream looks at no others, whatever it says),
    and of these the ``most`` with the largest score."""

    above: float
    radius: int
    border: int
    most: int | None = None

    @classmethod
    def read(cls, fields: Fields) -> Selection:
        above = fields.take("above", "a number", is_number)
        made = cls(float(above), fields.count("radius"), fields.count("border"), fields.optional_count("most", None))
        fields.close()
        return made

    def __call__(self, scores: Array) -> tuple[Array, Array]:
        """Of scores [H, W]: keypoints [K, 2], x and y, and their scores [K]; in the order of rows where all are kept,
        else the best first."""
        kept = _largest_near(scores, self.radius)
        rows, columns = np.nonzero(kept > self.above)
        inside = (rows >= self.border) & (columns >= self.border)
        rows, columns = rows[inside], columns[inside]
        found = kept[rows, columns]
        if self.most is not None and self.most < len(found):
            best = np.argsort(-found, kind="stable")[: self.most]
            rows, columns, found = rows[best], columns[best], found[best]
        return np.stack((columns, rows), axis=1).astype(scores.dtype), found


class Matching(NamedTuple):
    """Which keypoints match: those that are each other's surest, and surer than a number.

    ``hides``: scores up to that number are 0. ``layers``: of a model that never stops early.
    """

    above: float
    hides: bool = False
    layers: int | None = None

    @classmethod
    def read(cls, fields: Fields) -> Matching:
        above = fields.take("above", "a number", is_number)
        made = cls(float(above), fields.flag("hides", False), fields.optional_count("layers", None))
        fields.close()
        return made

    def __call__(self, assignment: Array) -> tuple[Array, Array]:
        """Of logarithms of how likely [B, K, K]: matches [B, 2, K], numbers of keypoints of the other picture or -1,
        and scores."""
        first, second = assignment.argmax(axis=2), assignment.argmax(axis=1)
        mutual = np.arange(first.shape[1]) == np.take_along_axis(second, first, axis=1)
        back = np.arange(second.shape[1]) == np.take_along_axis(first, second, axis=1)
        zero = assignment.dtype.type(0)
        scores = np.where(mutual, np.exp(assignment.max(axis=2)), zero)
        sure = scores > self.above
        if self.hides:
            scores = np.where(sure, scores, zero)
            sure = scores > 0
        valid = mutual & sure
        other = np.where(back, np.take_along_axis(scores, second, axis=1), zero)
        matches = np.where(valid, first, -1), np.where(back & np.take_along_axis(valid, second, axis=1), second, -1)
        return np.stack(matches, axis=1), np.stack((scores, other), axis=1)


def chosen(selection: Selection, score_map: Array, image_size: Array) -> dict[str, Array]:
    """Keypoints of pictures or pairs of them, their scores and a mask, filled up to the most; there is one at least,
    which may be none.

    Args:
        score_map: [B, H, W] or [B, 2, H, W]. image_size: [B, 2], width and height.
    """
    rows, number = score_map.shape[:-2], score_map.dtype
    found = [selection(one) for one in score_map.reshape(-1, *score_map.shape[-2:])]
    most = max(1, *(len(own) for _, own in found))
    keypoints = np.zeros((len(found), most, 2), number)
    scores, mask = np.zeros((len(found), most), number), np.zeros((len(found), most), np.int64)
    for row, (places, own) in enumerate(found):
        keypoints[row, : len(own)], scores[row, : len(own)], mask[row, : len(own)] = places, own, 1
    keypoints = keypoints.reshape(*rows, most, 2) / image_size.reshape(rows[0], *(1,) * len(rows), 2)
    return {"keypoints": keypoints, "scores": scores.reshape(*rows, most), "mask": mask.reshape(*rows, most)}


class KeypointModel(Model):
    """A model of two components between which keypoints are chosen: ``detector`` makes maps of pictures, the other
    reads these at the keypoints. Called with ``pixel_values`` it chooses them; they may be given beside these, with
    their mask."""

    def __init__(self, artifact: Artifact, flow: Flow) -> None:
        super().__init__(artifact, flow)
        said, found = (dict(artifact.reading(kind)) for kind in ("keypoints", "matching"))
        self.selection = Selection.read(Fields(said, "processing.keypoints"))
        self.matching = Matching.read(Fields(found, "processing.matching")) if found else None

    def __call__(self, *positional: Any, **inputs: Any) -> Outputs:
        """Of a detector: ``keypoints [B, K, 2]``, of 0 to 1 of width and height, ``scores [B, K]``,
        ``descriptors [B, K, D]`` and ``mask [B, K]``, 0 where a picture has fewer than others. Of a matcher of pairs
        ``[B, 2, 3, H, W]``: ``matches [B, 2, K]``, the number of the keypoint in the other picture or -1,
        ``matching_scores``, ``keypoints`` and ``mask``; and ``prune [B, 2, K]``, how many layers each was looked at in.

        Raises:
            InputError: as of any model.
        """
        if positional:
            inputs = self._named(positional, inputs)
        given = self._inputs.checked(inputs)
        if "pixel_values" not in given:
            raise InputError(f"input 'pixel_values' is needed; received: {', '.join(given) or 'nothing'}.")
        if "keypoints" not in given:
            maps = self.flow.run(given)
            given = {name: maps[name] for name in ("descriptor_map", "image_size")} | chosen(
                self.selection, maps["score_map"], maps["image_size"]
            )
        names = {port.name for part in self.flow.parts.values() for port in part.component.inputs}
        return self._answer({name: value for name, value in given.items() if name in names}, given)

    def _answer(self, read: Mapping[str, Array], given: Mapping[str, Array]) -> Outputs:
        made = self.flow.run(read)
        keypoints = given["keypoints"]
        mask = given.get("mask")
        mask = np.ones(keypoints.shape[:-1], np.int64) if mask is None else mask
        count = keypoints.shape[-2] if mask.any() else 0  # the one that stands for none is no answer
        if self.matching is None:
            outputs = {"keypoints": keypoints} | ({"scores": given["scores"]} if "scores" in given else {})
            outputs["descriptors"] = made["descriptors"] * mask[..., None].astype(np.float32)
            outputs["mask"] = mask.astype(np.int32)
            return Outputs({name: value[:, :count] for name, value in outputs.items()})
        matches, scores = self.matching(made["assignment"])
        outputs = {"matches": matches, "matching_scores": scores, "keypoints": keypoints}
        if "prune" in made:
            outputs["prune"] = made["prune"].astype(np.int64)
            overwrite(matches, scores, outputs["prune"], mask)
        elif self.matching.layers is not None:
            outputs["prune"] = np.full(scores.shape, self.matching.layers, scores.dtype)
        outputs["mask"] = mask.astype(np.int32)
        return Outputs({name: value[:, :, :count] for name, value in outputs.items()})


def overwrite(matches: Array, scores: Array, prune: Array, mask: Array) -> None:
    """Take the match of the last keypoint of a picture of which fewer are left than of the other.

    Upstream fills up what is left of it with the number -1, and writes what these have, nothing, to the place of that
    number: the last one.
    """
    seen = np.where(mask != 0, prune, 0)
    last = seen.max(axis=(1, 2), keepdims=True)
    left = (seen == last).sum(axis=2)
    fewer = (left < left.max(axis=1, keepdims=True)) & (last[:, :, 0] > 1)
    matches[fewer, -1], scores[fewer, -1] = -1, 0


def _largest_near(scores: Array, radius: int) -> Array:
    """Scores [H, W] that are the largest within a radius, 0 elsewhere; what they were the largest beside may then be,
    beyond their reach, twice. https://arxiv.org/abs/1712.07629"""
    kept = scores == _widest(scores, radius)
    for _ in range(2):
        near = _widest(kept, radius)
        rest = np.where(near, 0, scores)
        kept |= (rest == _widest(rest, radius)) & ~near
    return np.where(kept, scores, scores.dtype.type(0))


def _widest(values: Array, radius: int) -> Array:
    """The largest within a radius along both axes, [H, W] -> [H, W]."""
    for axis in (0, 1):
        wide = values.copy()
        for step in range(1, radius + 1):
            one, other = ([slice(None)] * 2 for _ in range(2))
            one[axis], other[axis] = slice(step, None), slice(None, -step)
            ahead, behind = tuple(one), tuple(other)
            np.maximum(wide[behind], values[ahead], out=wide[behind])
            np.maximum(wide[ahead], values[behind], out=wide[ahead])
        values = wide
    return values
