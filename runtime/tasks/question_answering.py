"""Extractive question answering: the span of a context that answers a question, in long contexts too.

Spans are scored by the product of start and end probabilities (Chen et al. 2017, arXiv:1704.00051); an impossible
answer by that of the first token (SQuAD 2.0, Rajpurkar et al. 2018). Results as transformers 4.57, the last that
had this pipeline.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from precast.runtime import arguments
from precast.runtime.errors import InputError
from precast.runtime.readers.text import TextReader
from precast.runtime.tasks.base import Request, Row, Task, softmax

__all__ = ["PIPELINE", "QuestionAnswering"]

_MOST_TOKENS = 384
_MOST_STRIDE = 128
_EXCLUDED = -10000.0


class QuestionAnswering(Task[TextReader]):
    """``question=..., context=...`` -> ``{"score", "start", "end", "answer"}``; with ``top_k``, a list, best first.

    Lists of both, or many questions to one context, give a list, as does a list of ``{"question", "context"}``.
    A context that does not fit is read in windows of ``max_seq_len`` tokens that overlap by ``doc_stride``.
    """

    name = "question-answering"
    reads = TextReader
    beside = ("context",)
    too_long = "Lower max_seq_len."

    def __call__(self, *positional: Any, **parameters: Any) -> Any:
        examples = self._examples(positional, parameters)
        if isinstance(examples, list):
            examples = [_example(item) for item in examples]
            if len(examples) == 1:
                return super().__call__(examples[0], **parameters)
            return super().__call__(examples, **parameters)
        return super().__call__((_example(item) for item in examples), **parameters)

    def line(self, text: Any, *, context: str | None = None) -> Any:
        if isinstance(text, Mapping):
            return text if context is None else {"context": context, **text}
        if context is None:
            raise InputError(
                "question-answering needs a text to find answers in: --context TEXT or --context-file FILE."
            )
        return {"question": text, "context": context}

    def check(
        self,
        *,
        top_k: int | None = None,
        doc_stride: int | None = None,
        max_answer_len: int | None = None,
        max_seq_len: int | None = None,
        max_question_len: int | None = None,
        handle_impossible_answer: bool | None = None,
        align_to_words: bool | None = None,
        padding: bool | str | None = None,
    ) -> dict[str, Any]:
        for name, value, least in (
            ("top_k", top_k, 1),
            ("max_answer_len", max_answer_len, 1),
            ("max_seq_len", max_seq_len, 1),
            ("max_question_len", max_question_len, 1),
            ("doc_stride", doc_stride, 0),
        ):
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < least):
                raise InputError(f"{name} parameter should be >= {least} (got {value!r})")
        # Padding never reaches a result, and upstream's tokenizers cut no question: both are accepted and unused.
        given = {
            "top_k": top_k,
            "doc_stride": doc_stride,
            "max_answer_len": max_answer_len,
            "max_seq_len": max_seq_len,
            "impossible": handle_impossible_answer,
            "align": align_to_words,
        }
        return {name: value for name, value in given.items() if value is not None}

    def prepare(self, items: Sequence[Any], parameters: Mapping[str, Any]) -> list[Request]:
        longest = self.reader.longest or _MOST_TOKENS
        limit = parameters.get("max_seq_len") or min(longest, _MOST_TOKENS)
        stride = parameters.get("doc_stride")
        stride = min(limit // 2, _MOST_STRIDE) if stride is None else stride
        if stride > limit:
            raise InputError(f"`doc_stride` ({stride}) is larger than `max_seq_len` ({limit})")
        return [self._request(item, limit, stride) for item in items]

    def keep(
        self, outputs: Mapping[str, np.ndarray], index: int, span: slice, row: Row
    ) -> tuple[np.ndarray, np.ndarray]:
        return (
            outputs["start_logits"][index, span].astype(np.float32),
            outputs["end_logits"][index, span].astype(np.float32),
        )

    def finish(self, request: Request, kept: list[Any], parameters: Mapping[str, Any]) -> Any:
        top_k, align = parameters.get("top_k", 1), parameters.get("align", True)
        longest, impossible = parameters.get("max_answer_len", 15), parameters.get("impossible", False)
        context = request.state["context"]
        # Spans that fall into the same words become one answer, so more are needed than are asked for.
        wanted = top_k * 2 + 10 if align else top_k
        answers: dict[str, dict[str, Any]] = {}
        nothing = 1_000_000.0
        for (start_logits, end_logits), window in zip(kept, request.state["windows"], strict=True):
            start = softmax(np.where(window["allowed"], start_logits, np.float32(_EXCLUDED)))
            end = softmax(np.where(window["allowed"], end_logits, np.float32(_EXCLUDED)))
            nothing = min(nothing, float(start[0] * end[0]))
            start[0] = end[0] = 0.0
            for first, last, score in _best_spans(start, end, window["context"], longest, wanted):
                begin, stop = _characters(window, first, last, align)
                text = context[begin:stop]
                known = answers.setdefault(text.lower(), {"score": 0.0, "start": begin, "end": stop, "answer": text})
                known["score"] += score
        # A context without tokens holds no answer, which upstream says as one of nothing.
        found = list(answers.values()) or [{"score": 0.0, "start": 0, "end": 0, "answer": ""}]
        if impossible:
            found.append({"score": nothing, "start": 0, "end": 0, "answer": ""})
        found.sort(key=lambda answer: -answer["score"])
        found = found[:top_k]
        return found[0] if len(found) == 1 else found

    def _request(self, example: Mapping[str, str], limit: int, stride: int) -> Request:
        question, context = example["question"], example["context"]
        # Tokenizers that pad on the left read the context first.
        after = self.tokenizer.padding_side == "right"
        first, second = (question, context) if after else (context, question)
        encoding = self.tokenizer([first], [second], return_offsets_mapping=True)
        total = len(encoding["input_ids"][0])
        if total > limit:
            self._check_room(question, context, total, limit, stride)
            encoding = self.tokenizer(
                [first],
                [second],
                truncation="only_second" if after else "only_first",
                max_length=limit,
                stride=stride,
                return_overflowing_tokens=True,
                return_offsets_mapping=True,
            )
        rows = self.reader.rows(encoding)
        windows = []
        for index, row in enumerate(rows):
            side = np.array([-1 if which is None else which for which in encoding.sequence_ids(index)])
            inside = side == (1 if after else 0)
            allowed = inside | (row["input_ids"] == self.tokenizer.cls_token_id)
            if "attention_mask" in row:
                allowed &= row["attention_mask"] != 0
            windows.append(
                {
                    "context": inside,
                    "allowed": allowed,
                    "offsets": encoding["offset_mapping"][index],
                    "words": encoding.word_ids(index),
                }
            )
        return Request(rows, {"context": context, "windows": windows})

    def _check_room(self, question: str, context: str, total: int, limit: int, stride: int) -> None:
        """Refuse a question that leaves windows of ``limit`` tokens no room to move on."""
        fixed = total - len(self.tokenizer(context, add_special_tokens=False)["input_ids"])
        if limit - fixed <= stride:
            raise InputError(
                f"max_seq_len must leave room for more context than doc_stride repeats: of {limit} tokens the "
                f"question and the special tokens take {fixed}, and doc_stride is {stride}. Raise max_seq_len, lower "
                f"doc_stride, or shorten the question {question[:60]!r}."
            )

    def _examples(self, positional: tuple[Any, ...], parameters: dict[str, Any]) -> Any:
        if positional:
            if len(positional) == 2 and all(isinstance(argument, str) for argument in positional):
                return [{"question": positional[0], "context": positional[1]}]
            given: Any = positional[0] if len(positional) == 1 else list(positional)
        elif "data" in parameters or "X" in parameters:
            given = parameters.pop("data", None) or parameters.pop("X", None)
        elif "question" in parameters and "context" in parameters:
            return _pairs(parameters.pop("question"), parameters.pop("context"))
        else:
            raise InputError(
                f"question-answering takes question=... and context=...; received the arguments {sorted(parameters)}."
            )
        given = arguments.listed(given)
        if isinstance(given, (str, bytes)):
            raise InputError("question-answering takes question=... and context=...; received one text.")
        if isinstance(given, Mapping) or not isinstance(given, Iterable):
            return [given]
        return list(given) if isinstance(given, (list, tuple)) else given


def _pairs(question: Any, context: Any) -> list[Any]:
    if isinstance(question, str) and isinstance(context, str):
        return [{"question": question, "context": context}]
    if isinstance(question, list) and isinstance(context, str):
        return [{"question": one, "context": context} for one in question]
    if isinstance(question, list) and isinstance(context, list):
        if len(question) != len(context):
            raise InputError("Questions and contexts don't have the same lengths.")
        return [{"question": one, "context": other} for one, other in zip(question, context, strict=True)]
    if question is None or context is None:
        raise InputError(f"`{'question' if question is None else 'context'}` cannot be None.")
    raise InputError(
        "question and context are two texts, a list and a text, or two lists; received "
        f"{type(question).__name__} and {type(context).__name__}."
    )


def _example(item: Any) -> dict[str, str]:
    """A ``{"question", "context"}`` dictionary from one, or from an object with SquadExample's attributes."""
    if isinstance(item, Mapping):
        missing = {"question", "context"} - set(item)
        if missing:
            raise InputError("You need to provide a dictionary with keys {question:..., context:...}.")
        example = {"question": item["question"], "context": item["context"]}
    elif hasattr(item, "question_text") and hasattr(item, "context_text"):
        return {"question": item.question_text, "context": item.context_text}
    else:
        raise InputError(f"{item!r} argument needs to be of type (SquadExample, dict).")
    for name, value in example.items():
        if value is None:
            raise InputError(f"`{name}` cannot be None.")
        if not isinstance(value, str):
            raise InputError(f"`{name}` must be a text; received {type(value).__name__}.")
        if not value:
            raise InputError(f"`{name}` cannot be empty.")
    return example


def _best_spans(
    start: np.ndarray, end: np.ndarray, inside: np.ndarray, longest: int, count: int
) -> list[tuple[int, int, float]]:
    """The ``count`` likeliest spans of at most ``longest`` tokens, both ends ``inside``: (first, last, score)."""
    size = len(start)
    width = min(longest, size)
    ends = np.zeros(size + width - 1, dtype=np.float32)
    ends[:size] = end
    scores = start[:, None] * np.lib.stride_tricks.sliding_window_view(ends, width)
    within = np.zeros(size + width - 1, dtype=bool)
    within[:size] = inside
    valid = inside[:, None] & np.lib.stride_tricks.sliding_window_view(within, width)
    places = np.flatnonzero(valid)
    flat = scores.reshape(-1)[places]
    if len(places) > count:
        best = np.argpartition(-flat, count - 1)[:count]
        places, flat = places[best], flat[best]
    order = np.argsort(-flat, kind="stable")
    return [(int(p // width), int(p // width + p % width), float(s)) for p, s in zip(places[order], flat[order])]  # noqa: B905


def _characters(window: Mapping[str, Any], first: int, last: int, align: bool) -> tuple[int, int]:
    """Where a span of tokens lies in the context; with ``align``, widened to whole words."""
    offsets, words, inside = window["offsets"], window["words"], window["context"]
    if align and words[first] is not None and words[last] is not None:
        while first and inside[first - 1] and words[first - 1] == words[first]:
            first -= 1
        while last + 1 < len(words) and inside[last + 1] and words[last + 1] == words[last]:
            last += 1
    return int(offsets[first][0]), int(offsets[last][1])


PIPELINE = QuestionAnswering
