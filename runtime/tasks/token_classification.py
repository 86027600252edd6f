"""Token classification: a label for every token, or entities made of them, with their places in the text."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from precast.runtime import arguments
from precast.runtime.errors import InputError, closest, listing
from precast.runtime.readers.text import TextReader
from precast.runtime.tasks._entities import Piece, label_tokens, label_words, merge_entities, without_overlaps
from precast.runtime.tasks.base import Request, Row, Task, id2label, softmax

__all__ = ["PIPELINE", "TokenClassification"]

_STRATEGIES = ("none", "simple", "first", "average", "max")
_log = logging.getLogger(__name__)


class TokenClassification(Task[TextReader]):
    """Text -> list of tokens or, with an ``aggregation_strategy``, of entities.

    ``none`` gives every token with its ``entity`` and ``index``; ``simple`` joins neighbours of one entity;
    ``first``, ``average`` and ``max`` make each word agree on one label before that. ``stride`` reads a long text in
    overlapping windows instead of cutting it. ``is_split_into_words`` takes a text as a list of words, joined with
    ``delimiter`` for the offsets.
    """

    name = "token-classification"
    reads = TextReader
    too_long = "Pass stride (and an aggregation_strategy) to read it in windows."

    def __init__(self, model: Any, **defaults: Any) -> None:
        super().__init__(model, **defaults)
        # WordPiece marks what continues a word; other tokenizers are judged by the space before a token.
        self._marks_words = bool(_prefix(self.tokenizer))
        self._guessing = False

    def __call__(self, inputs: Any, **parameters: Any) -> Any:
        if isinstance(inputs, (list, tuple)):
            if not inputs:
                raise InputError("At least one input is required.")
            split = parameters.get("is_split_into_words", self._defaults.get("split", False))
            if split and not all(isinstance(item, list) for item in inputs):
                inputs = [list(inputs)]
            offsets = parameters.get("offset_mapping")
            if offsets and not isinstance(offsets[0], tuple) and len(offsets) != len(inputs):
                raise InputError("offset_mapping should have the same batch size as the input.")
        elif inputs is None:
            raise InputError("At least one input is required.")
        return super().__call__(inputs, **parameters)

    def check(
        self,
        *,
        aggregation_strategy: str | None = None,
        ignore_labels: Sequence[str] | None = None,
        stride: int | None = None,
        is_split_into_words: bool | None = None,
        delimiter: str | None = None,
        offset_mapping: Sequence[Any] | None = None,
    ) -> dict[str, Any]:
        checked: dict[str, Any] = {}
        if aggregation_strategy is not None:
            strategy = str(getattr(aggregation_strategy, "value", aggregation_strategy)).lower()
            if strategy not in _STRATEGIES:
                raise InputError(
                    f"aggregation_strategy must be one of {listing(_STRATEGIES)}; received {aggregation_strategy!r}. "
                    f"{closest(strategy, _STRATEGIES)}".rstrip()
                )
            checked["strategy"] = strategy
        if ignore_labels is not None:
            checked["ignored"] = arguments.entries("ignore_labels", ignore_labels, "labels")
        if stride is not None:
            if isinstance(stride, bool) or not isinstance(stride, int) or stride < 0:
                raise InputError(f"stride must be an integer of at least 0; received {stride!r}.")
            limit = self.reader.longest
            if limit is not None and stride >= limit:
                raise InputError(
                    f"`stride` must be less than `tokenizer.model_max_length` (or even lower if the tokenizer adds "
                    f"special tokens): {limit}; received {stride}."
                )
            if checked.get("strategy") == "none":
                raise InputError(
                    '`stride` was provided to process all the text but `aggregation_strategy="none"`, please select '
                    "another one instead."
                )
            checked["stride"] = stride
        if is_split_into_words is not None:
            checked["split"] = arguments.flag("is_split_into_words", is_split_into_words)
        if delimiter is not None:
            checked["delimiter"] = arguments.text("delimiter", delimiter)
        if offset_mapping:
            checked["offsets"] = _offsets(arguments.entries("offset_mapping", offset_mapping, "(start, end) pairs"))
        return checked

    def prepare(self, items: Sequence[Any], parameters: Mapping[str, Any]) -> list[Request]:
        split, delimiter = parameters.get("split", False), parameters.get("delimiter", " ")
        if split:
            sources = [self._words(item) for item in items]
            texts = [delimiter.join(words) for words in sources]
        else:
            for item in items:
                if not isinstance(item, str):
                    raise InputError(
                        "When `is_split_into_words=False`, `sentence` must be an untokenized string; received "
                        f"{type(item).__name__}."
                    )
            sources = texts = list(items)
        options: dict[str, Any] = {"is_split_into_words": True} if split else {}
        if self.reader.longest is not None:
            options |= {"truncation": True, "max_length": self.reader.longest}
        if parameters.get("stride") is not None:
            options |= {"return_overflowing_tokens": True, "stride": parameters["stride"]}
        encoding = self.tokenizer(sources, return_special_tokens_mask=True, return_offsets_mapping=True, **options)
        rows = self.reader.rows(encoding)
        owners = encoding.get("overflow_to_sample_mapping", range(len(rows)))
        given = parameters.get("offsets")
        starts = [_word_starts(words, delimiter) for words in sources] if split else None
        requests = [Request([], {"text": text, "windows": []}) for text in texts]
        for index, (row, owner) in enumerate(zip(rows, owners, strict=True)):
            offsets = given[min(owner, len(given) - 1)] if given else encoding["offset_mapping"][index]
            if starts is not None:
                offsets = _absolute(offsets, encoding.word_ids(index), starts[owner])
            requests[owner].rows.append(row)
            requests[owner].state["windows"].append((encoding["special_tokens_mask"][index], offsets))
        return requests

    def keep(self, outputs: Mapping[str, np.ndarray], index: int, span: slice, row: Row) -> np.ndarray:
        return softmax(outputs["logits"][index, span].astype(np.float32))

    def finish(self, request: Request, kept: list[Any], parameters: Mapping[str, Any]) -> list[dict[str, Any]]:
        strategy = parameters.get("strategy", "none")
        ignored = tuple(
            parameters.get("ignored", ("O",))
        )  # a label is whatever the config has, and need not be hashable
        labels = id2label(self.model.config, kept[0].shape[-1])
        entities: list[dict[str, Any]] = []
        for row, scores, (special, offsets) in zip(request.rows, kept, request.state["windows"], strict=True):
            pieces = self._pieces(request.state["text"], row["input_ids"], scores, special, offsets, strategy)
            if strategy in ("none", "simple"):
                found = label_tokens(pieces, labels)
            else:
                found = label_words(pieces, labels, strategy, self.tokenizer.convert_tokens_to_string)
            if strategy == "none":
                entities += [entity for entity in found if entity["entity"] not in ignored]
            else:
                merged = merge_entities(found, self.tokenizer.convert_tokens_to_string)
                entities += [entity for entity in merged if entity["entity_group"] not in ignored]
        return without_overlaps(entities) if len(kept) > 1 else entities

    def _pieces(
        self,
        text: str,
        ids: np.ndarray,
        scores: np.ndarray,
        special: Sequence[int],
        offsets: Sequence[tuple[int, int]],
        strategy: str,
    ) -> list[Piece]:
        if strategy not in ("none", "simple") and not self._marks_words and not self._guessing:
            self._guessing = True
            _log.warning("The tokenizer has no mark for words: words are guessed from the spaces before tokens.")
        tokens = self.tokenizer.convert_ids_to_tokens(ids.tolist())
        pieces = []
        for index, (token, (start, end)) in enumerate(zip(tokens, offsets, strict=True)):
            if special[index]:
                continue
            if self._marks_words:
                continues = len(token) != end - start
            else:
                continues = start > 0 and " " not in text[start - 1 : start + 1]
            if ids[index] == self.tokenizer.unk_token_id:
                token, continues = text[start:end], False
            pieces.append(Piece(token, scores[index], index, int(start), int(end), continues))
        return pieces

    @staticmethod
    def _words(item: Any) -> list[str]:
        if not isinstance(item, (list, tuple)) or not all(isinstance(word, str) for word in item):
            raise InputError(
                f"When `is_split_into_words=True`, `sentence` must be a list of tokens; received {type(item).__name__}."
            )
        return list(item)


def _offsets(given: list[Any]) -> list[list[Any]]:
    """The offsets of each text. One text's may come without the outer list."""
    rows = [given] if given and isinstance(given[0], tuple) else given
    for row in rows:
        for pair in row if isinstance(row, (list, tuple)) else (row,):
            if not isinstance(pair, (list, tuple)) or len(pair) != 2 or not all(type(place) is int for place in pair):
                raise InputError(f"offset_mapping must be a list of (start, end) pairs; received {pair!r:.80} in it.")
    return rows


def _prefix(tokenizer: Any) -> str | None:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    prefix: str | None = getattr(getattr(backend, "model", None), "continuing_subword_prefix", None)
    return prefix


def _word_starts(words: Sequence[str], delimiter: str) -> list[int]:
    starts, place = [], 0
    for word in words:
        starts.append(place)
        place += len(word) + len(delimiter)
    return starts


def _absolute(
    offsets: Sequence[tuple[int, int]], words: Sequence[int | None], starts: Sequence[int]
) -> list[tuple[int, int]]:
    """Offsets in the joined text, from offsets that count from each word's start."""
    shifts = [0 if word is None else starts[word] for word in words]
    return [(start + shift, end + shift) for (start, end), shift in zip(offsets, shifts, strict=True)]


PIPELINE = TokenClassification
