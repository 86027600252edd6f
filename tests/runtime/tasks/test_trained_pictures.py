"""A ViT and a ResNet that have learned something: what a picture shows is found, and as often as upstream finds it."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from support import trained_digits
from support.workers import once

import precast
from precast.export.exporter import export_model


def shares(found: np.ndarray, labels: np.ndarray) -> list[float]:
    """Class by class, how many of it are found."""
    return [float((found[labels == label] == label).mean()) for label in range(10)]


def read(model_type: str, precision: str, pictures: np.ndarray) -> np.ndarray:
    """The digits that an artifact of the trained model finds."""
    make = partial(export_model, trained_digits.checkpoint(model_type), precision=precision)
    classify: Any = precast.pipeline("image-classification", once(f"artifact-trained-{model_type}-{precision}", make))
    return np.array([int(best["label"][-1]) for [best] in classify(list(pictures), top_k=1, batch_size=64)])


@pytest.mark.parametrize("model_type", sorted(trained_digits.KINDS))
def test_digits_are_read_as_well_as_upstream_reads_them(model_type: str) -> None:
    source = trained_digits.checkpoint(model_type)
    pictures, labels = trained_digits.held_out()
    upstream = transformers.AutoModelForImageClassification.from_pretrained(source).eval()
    pixels = (pictures.transpose(0, 3, 1, 2).astype(np.float32) / 255 - 0.5) / 0.5
    with torch.no_grad():
        theirs = upstream(torch.from_numpy(pixels)).logits.numpy().argmax(-1)

    ours = read(model_type, "fp32", pictures)
    assert shares(ours, labels) == shares(theirs, labels)
    np.testing.assert_array_equal(ours, theirs)
    assert (ours == labels).mean() > 0.85, "too little was learned for this to show anything"


def test_eight_bits_read_digits_as_well() -> None:
    pictures, labels = trained_digits.held_out()
    right = {precision: (read("vit", precision, pictures) == labels).mean() for precision in ("fp32", "int8")}
    assert right["int8"] >= 0.995 * right["fp32"]
