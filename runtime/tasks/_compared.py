"""What inputs are compared with any labels by, each put into a sentence: two towers, and how alike what they make is.
https://arxiv.org/abs/2103.00020"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, TypeVar

import numpy as np

from precast.runtime.errors import InputError
from precast.runtime.readers.joint import JointReader
from precast.runtime.tasks._candidates import EncodedTexts, read_labels, read_template
from precast.runtime.tasks.base import Request, Row, Task, sigmoid, softmax

__all__ = ["Compared"]

_MISSING = "You must include at least one label: pass candidate_labels."
Reads = TypeVar("Reads", bound=JointReader)


class Compared(Task[Reads]):
    """An input and ``candidate_labels`` -> ``[{"score", "label"}]``, the best first; scores sum to 1, or each is a
    probability of its own where the model was trained so.

    A set of labels is encoded once, however many inputs are compared with it.
    """

    too_long = "Shorten the labels or the hypothesis_template, which are never cut."
    template: ClassVar[str]
    """The sentence of a label where the call gives none."""
    output: ClassVar[str]
    """How alike an input and each sentence are."""

    def __init__(self, model: Any, **defaults: Any) -> None:
        super().__init__(model, **defaults)
        artifact = getattr(model, "artifact", None)
        said = {} if artifact is None else artifact.reading("candidates")
        self._scores = sigmoid if said.get("scores") == "sigmoid" else softmax
        tokens = said.get("tokens")
        cut = {"padding": "max_length", "truncation": True, "max_length": tokens}
        options = cut if type(tokens) is int and tokens > 0 else {}
        self._texts = EncodedTexts(model, self.reader.text, options)

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
        template = parameters.get("template", self.template)
        texts = self._texts([template.format(label) for label in parameters["labels"]])
        outputs: Mapping[str, Any] = self.model(**batch, **texts)
        return outputs

    def keep(self, outputs: Mapping[str, np.ndarray], index: int, span: slice, row: Row) -> np.ndarray:
        return np.asarray(outputs[self.output][index], np.float32)

    def finish(self, request: Request, kept: list[Any], parameters: Mapping[str, Any]) -> list[dict[str, Any]]:
        scores, labels = self._scores(kept[0]), parameters["labels"]
        order = np.argsort(-scores, kind="stable")
        return [{"score": float(scores[index]), "label": labels[index]} for index in order]
