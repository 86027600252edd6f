"""Automatic speech recognition: a recording to what is said in it."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from precast.runtime.recognition import Recogniser, recogniser
from precast.runtime.tasks._sounds import SoundTask
from precast.runtime.tasks.base import Request, Row

__all__ = ["PIPELINE", "AutomaticSpeechRecognition"]


class AutomaticSpeechRecognition(SoundTask):
    """A recording -> ``{"text": ...}``, and with ``return_timestamps`` its ``chunks``: ``[{"text", "timestamp"}]``.

    With ``chunk_length_s`` long recordings are heard in windows of so many seconds, of which ``stride_length_s`` (a
    sixth) at either end lend context. Of models that write, ``generate_kwargs`` and any other argument are those of
    `generate`.
    """

    name = "automatic-speech-recognition"

    @cached_property
    def recogniser(self) -> Recogniser:
        """What makes text of what this model gives."""
        return recogniser(self.model, self.reader)

    def check(
        self,
        *,
        return_timestamps: bool | str | None = None,
        chunk_length_s: float | None = None,
        stride_length_s: float | Sequence[float] | None = None,
        return_language: bool | None = None,
        generate_kwargs: Mapping[str, Any] | None = None,
        ignore_warning: bool | None = None,
        **generation: Any,
    ) -> dict[str, Any]:
        given = {
            "return_timestamps": return_timestamps,
            "chunk_length_s": chunk_length_s,
            "stride_length_s": stride_length_s,
            "return_language": return_language,
            "generate_kwargs": generate_kwargs,
            **generation,
        }
        return self.recogniser.check(given)

    def prepare(self, items: Sequence[Any], parameters: Mapping[str, Any]) -> list[Request]:
        return [self.recogniser.prepare(item, parameters) for item in items]

    def together(self, row: Row, parameters: Mapping[str, Any]) -> Hashable:
        return self.recogniser.together(row)

    def collate(self, rows: Sequence[Row]) -> Mapping[str, Any]:
        return self.recogniser.collate(rows)

    def compute(
        self, batch: Mapping[str, Any], rows: Sequence[Row], parameters: Mapping[str, Any]
    ) -> Mapping[str, Any]:
        return self.recogniser.compute(batch, rows, parameters)

    def keep(self, outputs: Mapping[str, np.ndarray], index: int, span: slice, row: Row) -> Any:
        return self.recogniser.keep(outputs, index, row)

    def finish(self, request: Request, kept: list[Any], parameters: Mapping[str, Any]) -> dict[str, Any]:
        return self.recogniser.finish(request, kept, parameters)


PIPELINE = AutomaticSpeechRecognition
