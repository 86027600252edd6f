"""Zero-shot image classification: any labels, each put into a sentence that a picture is compared with.
https://arxiv.org/abs/2103.00020"""

from __future__ import annotations

from typing import Any

from precast.runtime.errors import InputError
from precast.runtime.readers.joint import JointReader
from precast.runtime.tasks._compared import Compared

__all__ = ["PIPELINE", "ZeroShotImageClassification"]


class ZeroShotImageClassification(Compared[JointReader]):
    """A picture and ``candidate_labels`` -> ``[{"score", "label"}]``, the best first; scores sum to 1, or each is a
    probability of its own where the model was trained so.

    A set of labels is encoded once, however many pictures are compared with it.
    """

    name = "zero-shot-image-classification"
    reads = JointReader
    template = "This is a photo of {}."
    output = "logits_per_image"

    def __call__(
        self, inputs: Any = None, candidate_labels: Any = None, *, images: Any = None, **parameters: Any
    ) -> Any:
        inputs = images if inputs is None else inputs
        if inputs is None:
            raise InputError(f"{self.name} needs a picture, or a list of them.")
        if candidate_labels is not None:
            parameters["candidate_labels"] = candidate_labels
        return super().__call__(inputs, **parameters)


PIPELINE = ZeroShotImageClassification
