"""Answers to questions about a page by a model that writes them behind the question, among tokens of its own: Donut.
https://arxiv.org/abs/2111.15664"""

from __future__ import annotations

import re
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np

from precast.runtime import arguments
from precast.runtime.errors import InputError
from precast.runtime.tasks.base import Request, Row
from precast.runtime.tasks.image_to_text import ImageToText

__all__ = ["WrittenAnswers"]

_ASKED = "<s_docvqa><s_question>{}</s_question><s_answer>"
_FIRST = "<s_docvqa>"
_FORMS = "image=... and question=..."


class WrittenAnswers(ImageToText):
    """``image=..., question=...`` -> ``[{"answer": ...}]``, None where the model writes none; a dictionary of these, a
    list of such, and a list of questions to one page are taken too.

    It reads the page itself: there are no words to give, and no scores.
    """

    name = "document-question-answering"
    beside = ("question",)

    def __init__(self, model: Any, **defaults: Any) -> None:
        super().__init__(model, **defaults)
        first = self._begun(_FIRST)
        if len(first) > 1 or first[0] == self.tokenizer.unk_token_id:
            raise InputError(
                f"{self.name} needs a model that writes answers behind the token {_FIRST}, and this one's tokenizer "
                "has none such. What it writes of a page: pipeline('image-to-text', ...)."
            )

    def __call__(self, image: Any = None, question: Any = None, **parameters: Any) -> Any:  # type: ignore[override]
        if question is None:
            return super().__call__(image, **parameters)
        asked = arguments.listed(question)
        if isinstance(asked, (list, tuple)):
            return super().__call__([{"question": one, "image": image} for one in asked], **parameters)
        return super().__call__({"question": asked, "image": image}, **parameters)

    def line(self, text: Any, *, question: str | None = None) -> Any:
        if isinstance(text, Mapping):
            return text if question is None else {"question": question, **text}
        if question is None:
            raise InputError(f"{self.name} needs what is asked of the page: --question TEXT.")
        return {"image": text, "question": question}

    def check(self, *, top_k: int | None = None, **others: Any) -> dict[str, Any]:
        if top_k is not None and (type(top_k) is not int or top_k < 1):
            raise InputError(f"top_k parameter should be >= 1 (got {top_k!r})")
        return super().check(**others)

    def prepare(self, items: Sequence[Any], parameters: Mapping[str, Any]) -> list[Request]:
        pages: dict[int, Row] = {}  # each read once, however many questions there are to it
        rows = []
        for item in items:
            if not isinstance(item, Mapping) or item.keys() != {"question", "image"}:
                raise InputError(
                    f"{self.name} takes {_FORMS}, or dictionaries of these: this model reads a page itself; received "
                    f"{item!r:.80}."
                )
            question, image = item["question"], item["image"]
            if not isinstance(question, str) or not question.split():
                raise InputError(f"A question to a page is a text with words; received {question!r:.80}.")
            if id(image) not in pages:
                pages[id(image)] = self.reader.row(image)
            rows.append({**pages[id(image)], "begun": np.array(self._begun(_ASKED.format(question)), np.int64)})
        return [Request([row]) for row in self.numbered(rows, parameters)]

    def together(self, row: Row, parameters: Mapping[str, Any]) -> Hashable:
        """Rows whose questions are equally long share a batch."""
        return len(row["begun"])

    def call_arguments(self, rows: Sequence[Row], parameters: Mapping[str, Any]) -> dict[str, Any]:
        asked = np.stack([row["begun"] for row in rows])
        made = super().call_arguments(rows, parameters)
        return {**made, "decoder_input_ids": asked, "decoder_start_token_id": int(asked[0, 0])}

    def finish(self, request: Request, kept: list[Any], parameters: Mapping[str, Any]) -> list[dict[str, Any]]:
        ((sequence, *_),) = kept
        text = self.tokenizer.decode(sequence.tolist(), skip_special_tokens=False)
        for token in (self.tokenizer.eos_token, self.tokenizer.pad_token):
            text = text.replace(token, "") if token else text
        text = re.sub(r"<.*?>", "", text, count=1).strip()  # what the whole begins with
        found = re.search(r"<s_answer>(.*)</s_answer>", text)
        return [{"answer": None if found is None else found.group(1).strip()}]
