"""Texts as token ids, by the artifact's tokenizer or one that is given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from precast.runtime import arguments, batching
from precast.runtime.errors import InputError, closest, listing
from precast.runtime.readers.base import Reader, Row

__all__ = ["PromptReader", "TextReader", "tokenizer_options"]


class TextReader(Reader):
    """Texts, or pairs of them, as the inputs that the model's ports and the tokenizer have in common.

    Raises:
        InputError: there is no tokenizer.
    """

    parts = ("tokenizer",)

    def __init__(self, model: Any, *, task: str, too_long: str = "Shorten the text.", tokenizer: Any = None) -> None:
        super().__init__(model, task=task, too_long=too_long)
        self.max_length: int | None = model.max_length
        self.tokenizer = self.processor(model, "tokenizer", tokenizer)
        wanted = {"input_ids", *self.tokenizer.model_input_names}
        self.inputs = tuple(name for name in model.input_names if name in wanted)
        # Padding needs a mask whether or not the tokenizer speaks of one.
        self.masked = "attention_mask" in model.input_names
        self.fill = {
            "input_ids": self.tokenizer.pad_token_id or 0,
            "token_type_ids": getattr(self.tokenizer, "pad_token_type_id", 0) or 0,
        }

    @property
    def longest(self) -> int | None:
        """Tokens a text may have: what the tokenizer states, within what the model has positions for."""
        stated = getattr(self.tokenizer, "model_max_length", None)
        limits = [limit for limit in (stated, self.max_length) if limit is not None and limit < 10**9]
        return min(limits, default=None)

    def encode(self, items: Sequence[Any], options: Mapping[str, Any]) -> Mapping[str, Any]:
        """Encode texts, or pairs given as ``{"text": ..., "text_pair": ...}``, one sample each, unpadded."""
        pairs = [self._pair(item) for item in items]
        first = [text for text, _ in pairs]
        second = [pair for _, pair in pairs]
        if all(pair is None for pair in second):
            encoding: Mapping[str, Any] = self.tokenizer(first, **options)
        elif None not in second:
            encoding = self.tokenizer(first, second, **options)
        else:
            single = [
                self.tokenizer(text, **options, **({} if pair is None else {"text_pair": pair})) for text, pair in pairs
            ]
            encoding = {name: [one[name] for one in single] for name in single[0]}
        return encoding

    def row(self, encoding: Mapping[str, Any], index: int | None = None) -> Row:
        """Sample ``index`` of an encoding (or an encoding of one sample) as model inputs."""
        row = self.named(encoding, index)
        if self.masked and "attention_mask" not in row:
            row["attention_mask"] = np.ones_like(row["input_ids"])
        limit = self.max_length
        if limit is not None and len(row["input_ids"]) > limit:
            raise InputError(
                f"A text may have {limit} tokens here, special tokens included; received one of "
                f"{len(row['input_ids'])}. {self.too_long}"
            )
        if not len(row["input_ids"]):
            raise InputError(f"{self.task} needs at least one token; received a text that makes none.")
        return row

    def named(self, encoding: Mapping[str, Any], index: int | None = None) -> Row:
        """As `row`, of what the tokenizer gave alone, and be it nothing."""
        row: Row = {}
        for name in self.inputs:
            if name in encoding:
                value = encoding[name] if index is None else encoding[name][index]
                row[name] = np.asarray(value, dtype=np.int64)
        return row

    def rows(self, encoding: Mapping[str, Any]) -> list[Row]:
        """Every sample of an encoding as model inputs."""
        return [self.row(encoding, index) for index in range(len(encoding["input_ids"]))]

    def collate(self, rows: Sequence[Row]) -> dict[str, np.ndarray]:
        # On the right whatever the tokenizer says: there, padding moves no token, so no position changes.
        return batching.pad(rows, fill=self.fill)

    def cost(self, row: Row) -> int:
        return len(row["input_ids"])

    def span(self, row: Row) -> slice:
        return slice(len(row["input_ids"]))

    def _pair(self, item: Any) -> tuple[str, str | None]:
        if isinstance(item, str):
            return item, None
        if isinstance(item, Mapping):
            extra = set(item) - {"text", "text_pair"}
            text, pair = item.get("text"), item.get("text_pair")
            if not extra and isinstance(text, str) and (pair is None or isinstance(pair, str)):
                return text, pair or None  # upstream's tokenizers take an empty second text for none
            raise InputError(
                f'{self.task} takes a dictionary of the form {{"text": "...", "text_pair": "..."}}; '
                f"received {dict(item)!r}."
            )
        raise InputError(
            f"{self.task} takes a text (str) or a list of texts; received {type(item).__name__}: {item!r}."
        )


class PromptReader(TextReader):
    """Texts that a model generates from: ids without a mask, for every token of theirs is real."""

    def __init__(self, model: Any, **options: Any) -> None:
        super().__init__(model, **options)
        self.inputs, self.masked = ("input_ids",), False
        # Whether answers continue their prompts, as opposed to an encoder-decoder's.
        self.continues = not model.is_encoder_decoder

    def beside(self, rows: Sequence[Row]) -> dict[str, np.ndarray]:
        """What stands among the tokens of rows, as model inputs; of texts alone nothing does."""
        return {}

    def collate(self, rows: Sequence[Row]) -> dict[str, np.ndarray]:
        """``input_ids`` and ``attention_mask`` [B, S]; a decoder's texts end at the right, where they go on."""
        longest = max(len(row["input_ids"]) for row in rows)
        ids = np.full((len(rows), longest), self.fill["input_ids"], dtype=np.int64)
        mask = np.zeros_like(ids)
        for index, row in enumerate(rows):
            size = len(row["input_ids"])
            place = slice(longest - size, longest) if self.continues else slice(0, size)
            ids[index, place], mask[index, place] = row["input_ids"], 1
        return {"input_ids": ids, "attention_mask": mask}


_OPTIONS = (
    "add_special_tokens",
    "max_length",
    "pad_to_multiple_of",
    "padding",
    "padding_side",
    "return_attention_mask",
    "return_tensors",
    "return_token_type_ids",
    "truncation",
    "verbose",
)


def tokenizer_options(task: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Tokenizer arguments a task may pass on, without those that batching decides."""
    for name in arguments.mapping("tokenizer_kwargs", given):
        if name not in _OPTIONS:
            raise InputError(
                f"{task} does not know the argument {name!r}. {closest(name, _OPTIONS)} The tokenizer's that it "
                f"passes on are {listing(_OPTIONS)}.".replace("  ", " ")
            )
    options = dict(given)
    tensors = options.pop("return_tensors", None)
    if tensors not in (None, "np"):
        raise InputError(f"return_tensors can be 'np' here, there is no torch; received {tensors!r}.")
    options.pop("verbose", None)
    # Rows are padded batch by batch, and the padding is cut from the results; a fixed length is the caller's wish.
    if options.get("padding") != "max_length":
        options.pop("padding", None)
        options.pop("pad_to_multiple_of", None)
    return options
