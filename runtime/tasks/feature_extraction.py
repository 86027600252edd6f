"""Feature extraction: the hidden states of every token, special tokens included."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from precast.runtime.errors import InputError
from precast.runtime.readers.text import TextReader, tokenizer_options
from precast.runtime.tasks.base import Request, Row, Task

__all__ = ["PIPELINE", "FeatureExtraction"]


class FeatureExtraction(Task[TextReader]):
    """Text -> nested list ``[1][S][H]``; with ``return_tensors=True``, an array ``[1, S, H]`` instead.

    Sentence embeddings, one vector a text, are `Model.encode`.
    """

    name = "feature-extraction"
    reads = TextReader
    too_long = "Pass truncation=True to cut it."

    def check(
        self,
        *,
        truncation: bool | str | None = None,
        tokenize_kwargs: Mapping[str, Any] | None = None,
        return_tensors: bool | str | None = None,
    ) -> dict[str, Any]:
        options = tokenizer_options(self.name, {} if tokenize_kwargs is None else tokenize_kwargs)
        if truncation is not None:
            if "truncation" in options:
                raise InputError(
                    "truncation parameter defined twice (given as keyword argument as well as in tokenize_kwargs)."
                )
            options["truncation"] = truncation
        if return_tensors not in (None, False, True, "np"):
            raise InputError(f"return_tensors gives NumPy arrays here: pass True or 'np'; received {return_tensors!r}.")
        checked: dict[str, Any] = {"options": options} if options else {}
        if return_tensors is not None:
            checked["arrays"] = bool(return_tensors)
        return checked

    def prepare(self, items: Sequence[Any], parameters: Mapping[str, Any]) -> list[Request]:
        encoding = self.reader.encode(items, parameters.get("options", {}))
        return [Request([row]) for row in self.reader.rows(encoding)]

    def keep(self, outputs: Mapping[str, np.ndarray], index: int, span: slice, row: Row) -> np.ndarray:
        # Upstream takes a model's first output, whatever it is; per-token ones are cut to the text.
        first = next(iter(outputs.values()))[index]
        return np.array(first[span] if first.ndim > 1 else first)

    def finish(self, request: Request, kept: list[Any], parameters: Mapping[str, Any]) -> Any:
        features = kept[0][None]
        return features if parameters.get("arrays") else features.tolist()


PIPELINE = FeatureExtraction
