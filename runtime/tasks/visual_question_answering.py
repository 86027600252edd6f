"""Visual question answering: what a question about a picture is answered with, of the answers that a model knows.

Results as transformers 4.57, the last that had this pipeline."""

from __future__ import annotations

import os
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from precast.runtime import arguments
from precast.runtime.errors import InputError, listing
from precast.runtime.processors.image import is_picture
from precast.runtime.readers.base import Row
from precast.runtime.readers.joint import AskedReader
from precast.runtime.readers.text import tokenizer_options
from precast.runtime.tasks.base import Request, Task, id2label, sigmoid

__all__ = ["PIPELINE", "VisualQuestionAnswering"]

_USUAL = 5  # answers
_ITEM = ("image", "question")
_FORMS = "image=... and question=..., each one or a list, or a list of {'image': ..., 'question': ...}"


class VisualQuestionAnswering(Task[AskedReader]):
    """``image=..., question=...`` -> ``[{"score", "answer"}]``, the ``top_k`` (5) best, the best first; each score is a
    probability of its own.

    Lists of both ask each question about each picture. A picture of a call is read once.
    """

    name = "visual-question-answering"
    reads = AskedReader
    beside = ("question",)
    too_long = "Shorten the question, or cut it: truncation=True."

    def __call__(  # type: ignore[override] # as upstream calls its first argument
        self, image: Any = None, question: Any = None, **parameters: Any
    ) -> Any:
        if image is None:
            raise InputError(f"{self.name} needs a picture to ask about: {_FORMS}.")
        pictures, questions = self.reader.inputs.plain(image), arguments.listed(question)
        if question is None:
            return super().__call__(self._paired(pictures), **parameters)
        several = isinstance(pictures, (list, tuple))
        if not several and not is_picture(pictures):
            raise InputError(f"{self.name} takes {_FORMS}; received a {type(image).__name__} beside a question.")
        if isinstance(questions, str) and not several:
            return super().__call__({"image": pictures, "question": questions}, **parameters)
        asked = arguments.entries("question", questions, "texts") if not isinstance(questions, str) else [questions]
        given = [{"image": one, "question": each} for each in asked for one in (pictures if several else [pictures])]
        return super().__call__(given, **parameters)

    def line(self, text: Any, *, question: str | None = None) -> Any:
        if isinstance(text, Mapping):
            return text if question is None else {"question": question, **text}
        if question is None:
            raise InputError(f"{self.name} needs what is asked of the picture: --question TEXT.")
        return {"image": text, "question": question}

    def check(
        self,
        *,
        top_k: int | None = None,
        padding: bool | str | None = None,
        truncation: bool | str | None = None,
        timeout: float | None = None,
    ) -> dict[str, Any]:
        # Padding never reaches a result; timeout: of downloads, in upstream's call. Both are accepted and unused.
        checked: dict[str, Any] = {}
        if top_k is not None:
            checked["top_k"] = arguments.whole("top_k", top_k, 1)
        if truncation is not None:
            checked["options"] = tokenizer_options(self.name, {"truncation": truncation})
        return checked

    def prepare(self, items: Sequence[Any], parameters: Mapping[str, Any]) -> list[Request]:
        pairs = [self._pair(item) for item in items]
        options = dict(parameters.get("options", {}))
        if options.get("truncation") and self.reader.text.longest is not None:
            options["max_length"] = self.reader.text.longest
        encoding = self.reader.text.encode([question for _, question in pairs], options)
        read: dict[Hashable, Row] = {}
        requests = []
        for index, (picture, _) in enumerate(pairs):
            # Each item is held while this runs, so that what is the same picture has the same number.
            key: Any = picture if isinstance(picture, (str, bytes, os.PathLike)) else id(picture)
            if key not in read:
                read[key] = self.reader.row(picture)
            requests.append(Request([self.reader.asked(read[key], encoding, index)]))
        return requests

    def keep(self, outputs: Mapping[str, np.ndarray], index: int, span: slice, row: Row) -> np.ndarray:
        return np.asarray(outputs["logits"][index], np.float32)

    def finish(self, request: Request, kept: list[Any], parameters: Mapping[str, Any]) -> list[dict[str, Any]]:
        scores = sigmoid(kept[0])
        names = id2label(self.model.config, len(scores))
        best = np.argsort(-scores, kind="stable")[: parameters.get("top_k", _USUAL)]
        return [{"score": float(scores[index]), "answer": names[index]} for index in best]

    def _paired(self, inputs: Any) -> Any:
        """Inputs that bring their questions: one of them, a list, or a stream."""
        if isinstance(inputs, (Mapping, list, tuple)):
            return inputs
        if is_picture(inputs) or isinstance(inputs, (str, np.ndarray)) or not isinstance(inputs, Iterable):
            raise InputError(f"{self.name} needs a question about the picture: {_FORMS}.")
        found: Iterator[Any] = iter(inputs)
        return found

    def _pair(self, item: Any) -> tuple[Any, str]:
        if is_picture(item):
            raise InputError(f"{self.name} needs a question about the picture: {_FORMS}.")
        if not isinstance(item, Mapping):
            raise InputError(f"{self.name} takes {_FORMS}; received {type(item).__name__}: {item!r:.80}.")
        if item.get("image") is None or item.get("question") is None or not set(item) <= set(_ITEM):
            raise InputError(f"{self.name} takes {_FORMS}; received one of {listing(map(str, item))}.")
        return item["image"], arguments.text("question", item["question"])


PIPELINE = VisualQuestionAnswering
