"""Zero-shot audio classification: any labels, each put into a sentence that a recording is compared with.
https://arxiv.org/abs/2211.06687"""

from __future__ import annotations

from typing import Any

from precast.runtime.errors import InputError
from precast.runtime.readers.joint import HeardReader
from precast.runtime.tasks._compared import Compared

__all__ = ["PIPELINE", "ZeroShotAudioClassification"]


class ZeroShotAudioClassification(Compared[HeardReader]):
    """A recording and ``candidate_labels`` -> ``[{"score", "label"}]``, the best first; scores sum to 1.

    A set of labels is encoded once, however many recordings are compared with it.
    """

    name = "zero-shot-audio-classification"
    reads = HeardReader
    template = "This is a sound of {}."
    output = "logits_per_audio"

    def __call__(
        self, inputs: Any = None, candidate_labels: Any = None, *, audios: Any = None, **parameters: Any
    ) -> Any:
        inputs = audios if inputs is None else inputs
        if inputs is None:
            raise InputError(f"{self.name} needs a recording, or a list of them.")
        if candidate_labels is not None:
            parameters["candidate_labels"] = candidate_labels
        return super().__call__(inputs, **parameters)


PIPELINE = ZeroShotAudioClassification
