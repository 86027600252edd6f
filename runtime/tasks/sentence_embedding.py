"""Sentence embedding: one vector a text, as `Model.encode` makes it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from precast.runtime.embedding_options import read_options
from precast.runtime.errors import InputError
from precast.runtime.readers.base import Reader
from precast.runtime.tasks.base import Task

__all__ = ["PIPELINE", "SentenceEmbedding"]


class SentenceEmbedding(Task[Reader]):
    """Text -> array ``[H]``; parameters are those of ``encode``."""

    name = "sentence-embedding"

    def check(self, **options: Any) -> dict[str, Any]:
        read_options((), options, device="cpu")
        return options

    def answers(
        self,
        window: Sequence[Any],
        parameters: Mapping[str, Any],
        *,
        batch_size: int | None,
        limits: Mapping[str, Any],
    ) -> Iterator[np.ndarray]:
        for text in window:
            if not isinstance(text, str):
                raise InputError(f"{self.name} takes a text or a list of texts; received {type(text).__name__}.")
        yield from self.model.encode(list(window), batch_size=batch_size, **parameters)


PIPELINE = SentenceEmbedding
