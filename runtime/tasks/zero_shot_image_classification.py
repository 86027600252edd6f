"""Zero-shot image classification: any labels, each put into a sentence that a picture is compared with.
https://arxiv.org/abs/2103.00020"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from precast.runtime import batching
from precast.runtime.errors import InputError
from precast.runtime.readers.joint import JointReader
from precast.runtime.tasks._candidates import read_labels, read_template
from precast.runtime.tasks.base import Request, Row, Task, softmax

__all__ = ["PIPELINE", "ZeroShotImageClassification"]

_TEMPLATE = "This is a photo of {}."
_MISSING = "You must include at least one label: pass candidate_labels."


class ZeroShotImageClassification(Task[JointReader]):
    """A picture and ``candidate_labels`` -> ``[{"score", "label"}]``, the best first; scores sum to 1.

    A set of labels is encoded once, however many pictures are compared with it.
    """

    name = "zero-shot-image-classification"
    reads = JointReader
    too_long = "Shorten the labels or the hypothesis_template, which are never cut."

    def __init__(self, model: Any, **defaults: Any) -> None:
        super().__init__(model, **defaults)
        # The last set of sentences with what the model made of it: replaced whole, so that threads may share it.
        self._encoded: tuple[tuple[str, ...], dict[str, np.ndarray]] = ((), {})

    def __call__(
        self, inputs: Any = None, candidate_labels: Any = None, *, images: Any = None, **parameters: Any
    ) -> Any:
        inputs = images if inputs is None else inputs
        if inputs is None:
            raise InputError(f"{self.name} needs a picture, or a list of them.")
        if candidate_labels is not None:
            parameters["candidate_labels"] = candidate_labels
        return super().__call__(inputs, **parameters)

    def check(
        self, *, candidate_labels: str | Sequence[str] | None = None, hypothesis_template: str | None = None
    ) -> dict[str, Any]:
        checked: dict[str, Any] = {}
        if candidate_labels is not None:
            checked["labels"] = read_labels(candidate_labels, _MISSING)
        if hypothesis_template is not None:
            checked["template"] = read_template(hypothesis_template)
        return checked

    def prepare(self, items: Sequence[Any], parameters: Mapping[str, Any]) -> list[Request]:
        if not parameters.get("labels"):
            raise InputError(_MISSING)
        return [Request([self.reader.row(item)]) for item in items]

    def compute(
        self, batch: Mapping[str, Any], rows: Sequence[Row], parameters: Mapping[str, Any]
    ) -> Mapping[str, Any]:
        template = parameters.get("template", _TEMPLATE)
        texts = self._texts(tuple(template.format(label) for label in parameters["labels"]))
        outputs: Mapping[str, Any] = self.model(**batch, **texts)
        return outputs

    def keep(self, outputs: Mapping[str, np.ndarray], index: int, span: slice, row: Row) -> np.ndarray:
        return np.asarray(outputs["logits_per_image"][index], np.float32)

    def finish(self, request: Request, kept: list[Any], parameters: Mapping[str, Any]) -> list[dict[str, Any]]:
        scores, labels = softmax(kept[0]), parameters["labels"]
        order = np.argsort(-scores, kind="stable")
        return [{"score": float(scores[index]), "label": labels[index]} for index in order]

    def _texts(self, sentences: tuple[str, ...]) -> dict[str, np.ndarray]:
        """What the model makes of sentences alone, a row each: inputs of what compares them with pictures."""
        known, encoded = self._encoded
        if known == sentences:
            return encoded
        reader = self.reader.text
        rows = reader.rows(reader.encode(sentences, {}))
        found: list[Mapping[str, np.ndarray]] = [{}] * len(rows)
        for places in batching.plan([reader.cost(row) for row in rows], **batching.limits(self.model, None)):
            outputs = self.model(**reader.collate([rows[place] for place in places]))
            for index, place in enumerate(places):
                found[place] = {name: value[index] for name, value in outputs.items()}
        made = {name: np.stack([one[name] for one in found]) for name in found[0] if name in self.model.input_names}
        self._encoded = (sentences, made)
        return made


PIPELINE = ZeroShotImageClassification
