"""Zero-shot object detection: whatever labels name, found in a picture. https://arxiv.org/abs/2205.06230"""

from __future__ import annotations

import os
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any

from precast.runtime import arguments
from precast.runtime.errors import InputError, listing
from precast.runtime.readers.image import PictureRow
from precast.runtime.readers.joint import JointReader
from precast.runtime.tasks._boxes import EDGES, Detection, read_threshold
from precast.runtime.tasks._candidates import EncodedTexts, read_labels
from precast.runtime.tasks.base import Request, Row, Task

__all__ = ["PIPELINE", "ZeroShotObjectDetection"]

_USUAL = 0.1
_MISSING = "You must include at least one label: pass candidate_labels."
_ITEM = ("image", "candidate_labels")


class _AskedRow(PictureRow):
    """A row of a picture that knows the labels that are looked for in it."""

    labels: tuple[str, ...] = ()


class ZeroShotObjectDetection(Task[JointReader]):
    """A picture and ``candidate_labels`` -> ``[{"score", "label", "box": {"xmin", "ymin", "xmax", "ymax"}}]`` of each
    object whose score is above ``threshold`` (0.1), the surest first, ``top_k`` of them at most; pixels of the picture.

    A set of labels is encoded once, however many pictures it is looked for in, and a picture of a call once, however
    many sets are; but by models whose words and places look at each other from the first layer on: these read each
    label with each picture.
    """

    name = "zero-shot-object-detection"
    reads = JointReader
    too_long = "Shorten the labels, which are never cut."

    def __init__(self, model: Any, **defaults: Any) -> None:
        super().__init__(model, **defaults)
        self._texts = EncodedTexts(model, self.reader.text)
        # A model of one component reads each text with each picture.
        self._apart = bool(model.flow.before)
        self._detection = Detection.of(self.reader.image_processor, self.name)

    def __call__(
        self,
        inputs: Any = None,
        candidate_labels: Any = None,
        *,
        image: Any = None,
        images: Any = None,
        text_queries: Any = None,
        **parameters: Any,
    ) -> Any:
        inputs = next((each for each in (inputs, image, images) if each is not None), None)
        if inputs is None:
            raise InputError(f"{self.name} needs a picture, or a list of them.")
        labels = arguments.listed(text_queries if candidate_labels is None else candidate_labels)
        several = isinstance(labels, (list, tuple)) and labels and all(isinstance(one, (list, tuple)) for one in labels)
        if several:
            pictures = self.reader.plain(inputs)
            if not isinstance(pictures, (list, tuple)) or len(pictures) != len(labels):
                count = len(pictures) if isinstance(pictures, (list, tuple)) else 1
                raise InputError(
                    f"candidate_labels as a list of lists has one for each picture; received {len(labels)} of them and "
                    f"{count} pictures."
                )
            inputs = [dict(zip(_ITEM, pair, strict=True)) for pair in zip(pictures, labels, strict=True)]
        elif labels is not None:
            parameters["candidate_labels"] = labels
        return super().__call__(inputs, **parameters)

    def check(
        self,
        *,
        candidate_labels: str | Sequence[str] | None = None,
        threshold: float | None = None,
        top_k: int | None = None,
        timeout: float | None = None,
    ) -> dict[str, Any]:
        # timeout: of downloads, in upstream's call; here pictures are files.
        checked: dict[str, Any] = {}
        if candidate_labels is not None:
            checked["labels"] = read_labels(candidate_labels, _MISSING)
        if threshold is not None:
            checked["threshold"] = read_threshold(threshold)
        if top_k is not None:
            checked["top_k"] = arguments.whole("top_k", top_k, 0, instead=", or None for all objects")
        return checked

    def prepare(self, items: Sequence[Any], parameters: Mapping[str, Any]) -> list[Request]:
        read: dict[Hashable, PictureRow] = {}
        requests = []
        for item in items:
            picture, labels = self._item(item, parameters.get("labels"))
            key: Any = picture if isinstance(picture, (str, bytes, os.PathLike)) else id(picture)
            if key not in read:
                read[key] = self.reader.inputs.sized_row(picture)
            row = _AskedRow(read[key])
            row.size, row.labels = read[key].size, labels
            requests.append(Request([row]))
        return requests

    def compute(
        self, batch: Mapping[str, Any], rows: Sequence[Row], parameters: Mapping[str, Any]
    ) -> Mapping[str, Any]:
        """{"found": for each row, of each label logits of the objects [Q] or [Q, S], and their boxes [Q, 4]}."""
        port, known = self.reader.image_processor.port, dict[int, int]()
        pictures = [known.setdefault(id(row[port]), len(known)) for row in rows]
        if len(known) < len(rows):
            batch = self.reader.collate([rows[pictures.index(number)] for number in range(len(known))])
        read = self.model(**batch) if self._apart else batch
        made = {name: value for name, value in read.items() if name in self.model.input_names}
        sets: dict[tuple[str, ...], list[int]] = {}
        for place, row in enumerate(rows):
            assert isinstance(row, _AskedRow), "rows are made by `prepare`"
            sets.setdefault(row.labels, []).append(place)
        found: list[Any] = [None] * len(rows)
        for labels, places in sets.items():
            asked = {name: value[[pictures[place] for place in places]] for name, value in made.items()}
            for place, answers in zip(places, self._answers(asked, labels, len(places)), strict=True):
                found[place] = answers
        return {"found": found}

    def _answers(self, asked: Mapping[str, Any], labels: tuple[str, ...], count: int) -> Iterable[list[Any]]:
        """For each of ``count`` pictures, of each label logits and boxes."""
        if self._apart:
            outputs = self.model(**asked, **self._texts(labels))
            for logits, boxes in zip(outputs["logits"], outputs["pred_boxes"], strict=True):
                yield [(logits[:, text], boxes) for text in range(len(labels))]
            return
        reader, found = self.reader.text, []
        for row in reader.rows(reader.encode(labels, {})):
            outputs = self.model(**asked, **reader.collate([row] * count))
            found.append(list(zip(outputs["logits"], outputs["pred_boxes"], strict=True)))
        for place in range(count):
            yield [answers[place] for answers in found]

    def keep(self, outputs: Mapping[str, Any], index: int, span: slice, row: Row) -> Any:
        return outputs["found"][index]

    def finish(self, request: Request, kept: list[Any], parameters: Mapping[str, Any]) -> list[dict[str, Any]]:
        [row] = request.rows
        assert isinstance(row, _AskedRow), "rows are made by `prepare`"
        height, width = row.size
        results: list[dict[str, Any]] = []
        for label, (logits, boxes) in zip(row.labels, kept[0], strict=True):
            found = self._detection.of_one(logits, boxes, (width, height)).above(parameters.get("threshold", _USUAL))
            for score, _, corners in zip(*found, strict=True):
                box = dict(zip(EDGES, map(int, corners), strict=True))
                results.append({"score": float(score), "label": label, "box": box})
        results.sort(key=lambda result: result["score"], reverse=True)
        return results[: parameters.get("top_k") or None]

    @staticmethod
    def _item(item: Any, labels: Sequence[str] | None) -> tuple[Any, tuple[str, ...]]:
        """A picture, and what is looked for in it: ``labels``, but where the item brings its own."""
        if isinstance(item, Mapping):
            if "image" not in item or not set(item) <= set(_ITEM):
                raise InputError(
                    f'An input is a picture, or {{"image": picture, "candidate_labels": [...]}}; received one of '
                    f"{listing(map(str, item))}."
                )
            if item.get("candidate_labels") is not None:
                labels = read_labels(item["candidate_labels"], _MISSING)
            item = item["image"]
        if not labels:
            raise InputError(_MISSING)
        return item, tuple(labels)


PIPELINE = ZeroShotObjectDetection
