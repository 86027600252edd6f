"""Text to text: an encoder-decoder's answer to a text. Upstream's version 4.57 was the last with this task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from precast.runtime.errors import InputError
from precast.runtime.tasks._generation import GenerationTask, as_written, stop_strings
from precast.runtime.tasks.base import Request

__all__ = ["PIPELINE", "Text2TextGeneration"]


class Text2TextGeneration(GenerationTask):
    """A text -> ``[{"generated_text": ...}]``; of a list of texts, one dictionary each where each has one answer.

    With ``return_tensors=True`` ``generated_token_ids`` [L] instead, start token included. Searches with 4 beams and
    stops after 256 tokens unless the checkpoint or the call says otherwise.
    """

    name = "text2text-generation"
    usual = {"max_new_tokens": 256, "num_beams": 4}  # noqa: RUF012 - read only
    result: ClassVar[str] = "generated"

    def __init__(self, model: Any, **defaults: Any) -> None:
        super().__init__(model, **defaults)
        if self.decoder_only:
            raise InputError(f"{self.name} needs an encoder-decoder; this model only continues text: text-generation.")

    def __call__(self, inputs: Any, **parameters: Any) -> Any:
        results = super().__call__(inputs, **parameters)
        if isinstance(inputs, (list, tuple)) and all(len(result) == 1 for result in results):
            return [result[0] for result in results]
        return results

    def check(
        self,
        *,
        return_tensors: bool | None = None,
        return_text: bool | None = None,
        clean_up_tokenization_spaces: bool | None = None,
        truncation: bool | str | None = None,
        stop_sequence: str | Sequence[str] | None = None,
        prefix: str | None = None,
        **generation: Any,
    ) -> dict[str, Any]:
        if return_tensors and return_text:
            raise InputError("return_text asks for texts and return_tensors for ids: give one of them.")
        if prefix is not None and not isinstance(prefix, str):
            raise InputError(f"prefix is a text; received {prefix!r}.")
        if stop_sequence is not None:
            generation["stop_strings"] = stop_strings(stop_sequence)
        checked = self.arguments(generation)
        given = {
            "tensors": return_tensors,
            "clean": clean_up_tokenization_spaces,
            "truncation": truncation,
            "prefix": prefix,
        }
        return checked | {name: value for name, value in given.items() if value is not None}

    def prepare(self, items: Sequence[Any], parameters: Mapping[str, Any]) -> list[Request]:
        for item in items:
            if not isinstance(item, str):
                raise InputError(
                    f"{self.name} takes a text or a list of texts; received {type(item).__name__}: {item!r:.80}."
                )
        prefix = self.prefix(parameters)
        texts = [prefix + item for item in items]
        rows = self.reader.rows(self.encode(texts, parameters))
        for row in rows:
            self.look_at(len(row["input_ids"]), parameters)
        return [Request([row]) for row in self.numbered(rows, parameters)]

    def encode(self, texts: Sequence[str], parameters: Mapping[str, Any]) -> Mapping[str, Any]:
        """Source texts, one row each."""
        encoding: Mapping[str, Any] = self.tokenizer(list(texts), truncation=parameters.get("truncation", False))
        return encoding

    def look_at(self, length: int, parameters: Mapping[str, Any]) -> None:
        """A note to the log where the lengths of a source and of its answer make no sense together."""

    def finish(self, request: Request, kept: list[Any], parameters: Mapping[str, Any]) -> list[dict[str, Any]]:
        (sequences,) = kept
        if parameters.get("tensors"):
            fill = self.config(parameters).pad_token_id or 0
            return [{f"{self.result}_token_ids": row} for row in as_written(sequences, fill)]
        return [
            {
                f"{self.result}_text": self.tokenizer.decode(
                    sequence.tolist(),
                    skip_special_tokens=True,
                    clean_up_tokenization_spaces=parameters.get("clean", False),
                )
            }
            for sequence in sequences
        ]


PIPELINE = Text2TextGeneration
