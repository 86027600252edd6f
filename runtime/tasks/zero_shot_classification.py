"""Zero-shot classification: any labels, each asked of an NLI model as a hypothesis (Yin et al. 2019, 1909.00161)."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from precast.runtime import arguments
from precast.runtime.errors import InputError
from precast.runtime.fields import is_count
from precast.runtime.readers.text import TextReader
from precast.runtime.tasks._candidates import read_labels, read_template
from precast.runtime.tasks.base import Request, Row, Task, config_fields, softmax

__all__ = ["PIPELINE", "ZeroShotClassification"]

_TEMPLATE = "This example is {}."
_log = logging.getLogger(__name__)


class ZeroShotClassification(Task[TextReader]):
    """Text and candidate labels -> ``{"sequence", "labels", "scores"}``, best label first.

    With ``multi_label`` (or one label) each score is entailment against contradiction, on its own; otherwise the
    scores of all labels sum to 1. The text is truncated, the hypothesis never.
    """

    name = "zero-shot-classification"
    reads = TextReader
    too_long = "Shorten the labels or the hypothesis_template, which are never cut."

    def __init__(self, model: Any, **defaults: Any) -> None:
        super().__init__(model, **defaults)
        self._entailment = -1
        fields = config_fields(model.config)
        table = fields.take("label2id", "an object of numbers by label", lambda v: v is None or isinstance(v, dict), {})
        for label, index in (table or {}).items():
            if str(label).lower().startswith("entail"):
                if not is_count(index):
                    fields.fail(f"label2id.{label}", "a number of a label", index)
                self._entailment = index
                break
        if self._entailment == -1:
            _log.warning(
                "No label of the model's label2id starts with 'entail': taking its last output for entailment. Set "
                "label2id in config.json before exporting to be sure."
            )

    def __call__(self, sequences: Any, *arguments: Any, **parameters: Any) -> Any:  # type: ignore[override]
        if arguments:
            if len(arguments) > 1 or "candidate_labels" in parameters:
                raise InputError(f"Unable to understand extra arguments {arguments}: labels are the second, and last.")
            parameters["candidate_labels"] = arguments[0]
        if isinstance(sequences, (list, tuple)) and not sequences:
            raise InputError("You must include at least one label and at least one sequence.")
        return super().__call__(sequences, **parameters)

    def check(
        self,
        *,
        candidate_labels: str | Sequence[str] | None = None,
        hypothesis_template: str | None = None,
        multi_label: bool | None = None,
    ) -> dict[str, Any]:
        checked: dict[str, Any] = {}
        if candidate_labels is not None:
            checked["labels"] = read_labels(
                candidate_labels, "You must include at least one label and at least one sequence."
            )
        if hypothesis_template is not None:
            checked["template"] = read_template(hypothesis_template)
        if multi_label is not None:
            checked["multi_label"] = arguments.flag("multi_label", multi_label)
        return checked

    def prepare(self, items: Sequence[Any], parameters: Mapping[str, Any]) -> list[Request]:
        labels = parameters.get("labels")
        if not labels:
            raise InputError("You must include at least one label and at least one sequence: pass candidate_labels.")
        template = parameters.get("template", _TEMPLATE)
        hypotheses = [template.format(label) for label in labels]
        requests = []
        for item in items:
            if not isinstance(item, str):
                raise InputError(f"{self.name} takes a text or a list of texts; received {type(item).__name__}.")
            if not item:
                raise InputError("You must include at least one label and at least one sequence: a text is empty.")
            requests.append(Request(self._rows(item, hypotheses), {"sequence": item, "labels": labels}))
        return requests

    def keep(self, outputs: Mapping[str, np.ndarray], index: int, span: slice, row: Row) -> np.ndarray:
        return np.asarray(outputs["logits"][index], np.float32)

    def finish(self, request: Request, kept: list[Any], parameters: Mapping[str, Any]) -> dict[str, Any]:
        logits, labels = np.stack(kept), request.state["labels"]
        entailment = self._entailment
        if entailment >= logits.shape[-1]:
            config_fields(self.model.config).fail(
                "label2id", f"numbers below {logits.shape[-1]}, which labels there are", entailment
            )
        if parameters.get("multi_label", False) or len(labels) == 1:
            contradiction = -1 if entailment == 0 else 0
            scores = softmax(logits[:, [contradiction, entailment]])[:, 1]
        else:
            scores = softmax(logits[:, entailment])
        order = scores.argsort()[::-1]
        return {
            "sequence": request.state["sequence"],
            "labels": [labels[index] for index in order],
            "scores": scores[order].tolist(),
        }

    def _rows(self, text: str, hypotheses: list[str]) -> list[Row]:
        encoding = self.tokenizer([text] * len(hypotheses), hypotheses)
        limit = self.reader.longest
        if limit is not None and any(len(ids) > limit for ids in encoding["input_ids"]):
            encoding = self.tokenizer([text] * len(hypotheses), hypotheses, truncation="only_first", max_length=limit)
        return self.reader.rows(encoding)


PIPELINE = ZeroShotClassification
