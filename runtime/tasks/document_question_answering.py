"""Document question answering: which words of a page answer a question, by what they say and where they stand.

A span of words is scored by the product of the probabilities of its ends, as in extractive question answering of texts
(Chen et al. 2017, arXiv:1704.00051; LayoutLM, arXiv:1912.13318)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from precast.runtime import arguments
from precast.runtime.errors import InputError, UnsupportedTaskError
from precast.runtime.processors.page_ocr import PageOcr
from precast.runtime.readers.page import Page, PageReader
from precast.runtime.tasks.base import Request, Row, Task, softmax

__all__ = ["PIPELINE", "DocumentQuestionAnswering"]

_MOST_STRIDE = 256
_EXCLUDED = -10000.0
_FORMS = "image=... and question=..., with word_boxes=[(word, (x0, y0, x1, y1)), ...] where its words are known"


class DocumentQuestionAnswering(Task[PageReader]):
    """``image=..., question=..., word_boxes=...`` -> ``[{"score", "answer", "start", "end"}]``, the best first; start
    and end number words.

    A dictionary of these, or a list of such, is taken too; and a list of questions to one page, of which words and
    picture are read once. Words that are not given are read by OCR. A page that does not fit is read in windows of
    ``max_seq_len`` tokens that overlap by ``doc_stride``.
    """

    name = "document-question-answering"
    reads = PageReader
    beside = ("question",)
    too_long = "Lower max_seq_len."

    @classmethod
    def serving(cls, model: Any) -> type[Task[Any]]:
        if "image-text-to-text" not in model.tasks:
            return cls
        from precast.runtime.tasks._written_answers import WrittenAnswers

        return WrittenAnswers

    def __init__(self, model: Any, **defaults: Any) -> None:
        super().__init__(model, **defaults)
        if self.reader.boxes is None:
            raise UnsupportedTaskError(
                f"{self.name} needs a model that reads where words stand on their page, and this one reads texts "
                "alone. Ask for question-answering of it."
            )
        if self.tokenizer.padding_side != "right":
            raise InputError(f"{self.name} reads a question before its page: padding_side of its tokenizer is 'right'.")

    def __call__(
        self, inputs: Any = None, question: Any = None, word_boxes: Any = None, *, image: Any = None, **parameters: Any
    ) -> Any:
        inputs = image if inputs is None else inputs
        if question is None:
            if inputs is None:
                raise InputError(f"{self.name} takes {_FORMS}.")
            if word_boxes is not None:
                parameters["word_boxes"] = word_boxes
            return super().__call__(inputs, **parameters)
        asked = arguments.listed(question)
        page = {"image": inputs} if word_boxes is None else {"image": inputs, "word_boxes": word_boxes}
        if isinstance(asked, (list, tuple)):
            return super().__call__([{"question": one, **page} for one in asked], **parameters)
        return super().__call__({"question": asked, **page}, **parameters)

    def line(self, text: Any, *, question: str | None = None) -> Any:
        if isinstance(text, Mapping):
            return text if question is None else {"question": question, **text}
        if question is None:
            raise InputError(f"{self.name} needs what is asked of the page: --question TEXT.")
        return {"image": text, "question": question}

    def check(
        self,
        *,
        word_boxes: Sequence[Any] | None = None,
        top_k: int | None = None,
        doc_stride: int | None = None,
        max_answer_len: int | None = None,
        max_seq_len: int | None = None,
        handle_impossible_answer: bool | None = None,
        lang: str | None = None,
        tesseract_config: str | None = None,
        padding: bool | str | None = None,
        timeout: float | None = None,
    ) -> dict[str, Any]:
        # Padding never reaches a result; timeout: of downloads, in upstream's call. Both are accepted and unused.
        for name, value, least in (
            ("top_k", top_k, 1),
            ("max_answer_len", max_answer_len, 1),
            ("max_seq_len", max_seq_len, 1),
            ("doc_stride", doc_stride, 0),
        ):
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < least):
                raise InputError(f"{name} parameter should be >= {least} (got {value!r})")
        if handle_impossible_answer is not None:
            arguments.flag("handle_impossible_answer", handle_impossible_answer)
        for name, text in (("lang", lang), ("tesseract_config", tesseract_config)):
            if text is not None:
                arguments.text(name, text)
        given: dict[str, Any] = {
            "word_boxes": word_boxes,
            "top_k": top_k,
            "doc_stride": doc_stride,
            "max_answer_len": max_answer_len,
            "max_seq_len": max_seq_len,
            "impossible": handle_impossible_answer,
        }
        checked = {name: value for name, value in given.items() if value is not None}
        if lang is not None or tesseract_config is not None:
            checked["ocr"] = PageOcr(lang, tesseract_config or "")
        return checked

    def prepare(self, items: Sequence[Any], parameters: Mapping[str, Any]) -> list[Request]:
        longest = self.reader.text.longest
        limit = parameters.get("max_seq_len", longest)
        stride = parameters.get("doc_stride", _MOST_STRIDE if limit is None else min(limit // 2, _MOST_STRIDE))
        pages: dict[tuple[int, int], Page] = {}
        requests = []
        for item in items:
            question, picture, word_boxes = _example(item)
            word_boxes = parameters.get("word_boxes") if word_boxes is None else word_boxes
            # Each item is held while this runs, so that what is the same page has the same number.
            known = (id(picture), id(word_boxes))
            if known not in pages:
                pages[known] = self.reader.page(picture, word_boxes, parameters.get("ocr"))
            requests.append(self._request(question, pages[known], limit, stride))
        return requests

    def _request(self, question: str, page: Page, limit: int | None, stride: int) -> Request:
        options: dict[str, Any] = {"return_token_type_ids": True, "return_overflowing_tokens": True}
        if limit is not None:
            options |= {"truncation": "only_second", "max_length": limit, "stride": stride}
        encoding = self.reader.encode(question, page, **options)
        rows, windows = [], []
        for index in range(len(encoding["input_ids"])):
            row = self.reader.row(encoding, index, page)
            inside = np.array([which == 1 for which in encoding.sequence_ids(index)], bool)
            allowed = inside | (row["input_ids"] == self.tokenizer.cls_token_id)
            rows.append(row)
            windows.append((allowed, encoding.word_ids(index)))
        return Request(rows, {"words": page.words, "windows": windows})

    def keep(
        self, outputs: Mapping[str, np.ndarray], index: int, span: slice, row: Row
    ) -> tuple[np.ndarray, np.ndarray]:
        # Of words alone, where the model has a place for each patch too.
        return (
            outputs["start_logits"][index, span].astype(np.float32),
            outputs["end_logits"][index, span].astype(np.float32),
        )

    def finish(self, request: Request, kept: list[Any], parameters: Mapping[str, Any]) -> list[dict[str, Any]]:
        top_k, longest = parameters.get("top_k", 1), parameters.get("max_answer_len", 15)
        impossible = parameters.get("impossible", False)
        words = request.state["words"]
        answers: list[dict[str, Any]] = []
        nothing = 1_000_000.0
        for (start_logits, end_logits), (allowed, numbers) in zip(kept, request.state["windows"], strict=True):
            start = softmax(np.where(allowed, start_logits, np.float32(_EXCLUDED)))
            end = softmax(np.where(allowed, end_logits, np.float32(_EXCLUDED)))
            if impossible:
                nothing = min(nothing, float(start[0] * end[0]))
            start[0] = end[0] = 0.0
            for first, last, score in _best_spans(start, end, longest, top_k):
                begin, stop = numbers[first], numbers[last]
                if begin is not None and stop is not None and allowed[first] and allowed[last]:
                    text = " ".join(words[begin : stop + 1])
                    answers.append({"score": score, "answer": text, "start": begin, "end": stop})
        if impossible:
            answers.append({"score": nothing, "answer": "", "start": 0, "end": 0})
        return sorted(answers, key=lambda answer: -answer["score"])[:top_k]


def _best_spans(start: np.ndarray, end: np.ndarray, longest: int, count: int) -> Iterator[tuple[int, int, float]]:
    """The ``count`` likeliest spans of at most ``longest`` tokens, the best first: (first, last, score)."""
    scores = np.tril(np.triu(start[:, None] * end[None]), min(longest, len(end)) - 1)
    flat = scores.reshape(-1)
    if count == 1:
        places = np.array([flat.argmax()])
    elif len(flat) <= count:
        places = np.argsort(-flat)
    else:
        best = np.argpartition(-flat, count)[:count]
        places = best[np.argsort(-flat[best])]
    for place in places:
        first, last = divmod(int(place), len(end))
        yield first, last, float(flat[place])


def _example(item: Any) -> tuple[str, Any, Any]:
    """Question, picture and words with boxes of one input."""
    if not isinstance(item, Mapping) or not item.keys() <= {"question", "image", "word_boxes"}:
        said = f"a dictionary with {sorted(map(str, item))}" if isinstance(item, Mapping) else f"{item!r:.80}"
        raise InputError(f"document-question-answering takes {_FORMS}, or dictionaries of these; received {said}.")
    question = item.get("question")
    if not isinstance(question, str) or not question.split():
        raise InputError(f"A question to a page is a text with words; received {question!r:.80}.")
    return question, item.get("image"), item.get("word_boxes")


PIPELINE = DocumentQuestionAnswering
