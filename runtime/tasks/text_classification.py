"""Text classification: one text, or a pair, to labels with scores. Also regression and multi-label heads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from precast.runtime import arguments
from precast.runtime.errors import InputError
from precast.runtime.readers.text import TextReader, tokenizer_options
from precast.runtime.tasks._scores import UNSET, best_first, read_scoring, scores_of
from precast.runtime.tasks.base import Request, Row, Task, id2label

__all__ = ["PIPELINE", "TextClassification"]


class TextClassification(Task[TextReader]):
    """Text or ``{"text", "text_pair"}`` -> ``{"label", "score"}``; with ``top_k``, a list of them, best first.

    Without ``function_to_apply``, scores are the logits for regression, a sigmoid for multi-label problems and
    single outputs, a softmax otherwise. A single text without ``top_k`` gives a list of one, as upstream does.
    ``return_all_scores=True``, its name before transformers 5, gives all labels in the order of the labels.
    """

    name = "text-classification"
    reads = TextReader
    too_long = "Pass truncation=True to cut it."

    def __call__(self, inputs: Any, **parameters: Any) -> Any:
        result = super().__call__(inputs, **parameters)
        return [result] if isinstance(inputs, str) and "top_k" not in parameters else result

    def check(
        self,
        *,
        top_k: int | None = UNSET,
        return_all_scores: bool | None = None,
        function_to_apply: str | None = None,
        **tokenizer_kwargs: Any,
    ) -> dict[str, Any]:
        checked: dict[str, Any] = {}
        if return_all_scores is not None:
            checked["all"] = arguments.flag("return_all_scores", return_all_scores)
        if tokenizer_kwargs:
            checked["options"] = tokenizer_options(self.name, tokenizer_kwargs)
        return checked | read_scoring(top_k, function_to_apply)

    def prepare(self, items: Sequence[Any], parameters: Mapping[str, Any]) -> list[Request]:
        items = [self._item(item) for item in items]
        encoding = self.reader.encode(items, parameters.get("options", {}))
        return [Request([row]) for row in self.reader.rows(encoding)]

    def keep(self, outputs: Mapping[str, np.ndarray], index: int, span: slice, row: Row) -> np.ndarray:
        return np.asarray(outputs["logits"][index], np.float32)

    def finish(self, request: Request, kept: list[Any], parameters: Mapping[str, Any]) -> Any:
        logits = kept[0]
        scores = scores_of(logits, parameters.get("function"), self.model.config)
        labels = id2label(self.model.config, len(logits))
        if "top_k" not in parameters and parameters.get("all"):
            return [{"label": label, "score": float(score)} for label, score in zip(labels, scores, strict=True)]
        if "top_k" not in parameters:
            return {"label": labels[int(scores.argmax())], "score": float(scores.max())}
        return best_first(scores, labels, parameters["top_k"])

    @staticmethod
    def _item(item: Any) -> Any:
        if isinstance(item, list):
            # An old spelling of a pair is [[text, pair]]; any other list is most likely a pair gone wrong.
            if len(item) == 1 and isinstance(item[0], list) and len(item[0]) == 2:
                return {"text": item[0][0], "text_pair": item[0][1]}
            raise InputError(
                "The pipeline received invalid inputs, if you are trying to send text pairs, you can try to send a "
                'dictionary {"text": "My text", "text_pair": "My pair"} in order to send a text pair.'
            )
        return item


PIPELINE = TextClassification
