"""Recordings as what a model hears, by the artifact's feature extractor."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from typing import Any

import numpy as np

from precast.runtime.processors.audio import is_recording, open_recording
from precast.runtime.readers.base import Reader, Row

__all__ = ["AudioReader"]

# Samples, and frames of 10 ms, that take a model about as long as a token.
_SAMPLES, _FRAMES = 320, 2


class AudioReader(Reader):
    """A recording: a file's name or http address, an array [S], or ``{"array": ..., "sampling_rate": ...}``.

    Raises:
        InputError: there is no feature extractor.
    """

    parts = ("feature_extractor",)
    window = 16  # ten minutes of 16 kHz take 38 MB

    def __init__(self, model: Any, *, task: str, too_long: str = "", feature_extractor: Any = None) -> None:
        super().__init__(model, task=task, too_long=too_long)
        self.feature_extractor = self.processor(model, "feature_extractor", feature_extractor)
        artifact = getattr(model, "artifact", None)
        # Whether padding changes what a model makes of a recording, whatever a mask says.
        self._one_length = artifact is not None and bool(artifact.reading("batches").get("one_length"))

    def plain(self, inputs: Any) -> Any:
        return inputs

    def single(self, inputs: Any) -> bool:
        return is_recording(inputs) or not isinstance(inputs, Iterable)

    def row(self, item: Any) -> Row:
        """One recording as model inputs."""
        extractor = self.feature_extractor
        return {extractor.port: extractor.heard(open_recording(item, extractor.sampling_rate))}

    def collate(self, rows: Sequence[Row]) -> dict[str, np.ndarray]:
        extractor = self.feature_extractor
        batch: dict[str, np.ndarray] = extractor.batch([row[extractor.port] for row in rows])
        return batch

    def cost(self, row: Row) -> int:
        values = row[self.feature_extractor.port]
        if values.ndim == 1:
            return max(1, len(values) // _SAMPLES)
        return max(1, int(values.shape[self.feature_extractor.rising]) // _FRAMES)

    def group(self, row: Row) -> Hashable:
        free = self.feature_extractor.masked and not self._one_length
        return None if free else row[self.feature_extractor.port].shape
