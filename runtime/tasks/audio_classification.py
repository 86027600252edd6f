"""Audio classification: a recording to labels with scores."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from precast.runtime.tasks._scores import UNSET, labelled, read_scoring
from precast.runtime.tasks._sounds import SoundTask
from precast.runtime.tasks.base import Request, Row

__all__ = ["PIPELINE", "AudioClassification"]


class AudioClassification(SoundTask):
    """A recording -> ``[{"label", "score"}]``, the ``top_k`` (5) best, the best first.

    Without ``function_to_apply``, scores are the logits for regression, a sigmoid for multi-label problems, a softmax
    otherwise.
    """

    name = "audio-classification"

    def check(self, *, top_k: int | None = UNSET, function_to_apply: str | None = None) -> dict[str, Any]:
        return read_scoring(top_k, function_to_apply)

    def keep(self, outputs: Mapping[str, np.ndarray], index: int, span: slice, row: Row) -> np.ndarray:
        return np.asarray(outputs["logits"][index], np.float32)

    def finish(self, request: Request, kept: list[Any], parameters: Mapping[str, Any]) -> list[dict[str, Any]]:
        return labelled(kept[0], parameters, self.model.config, exclusive=True)


PIPELINE = AudioClassification
