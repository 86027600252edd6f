"""A CLIP that has learned what shapes and colours are called: its answers are right, and upstream's."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
import transformers
from support import trained_shapes
from support.trained_shapes import NAMES, drawing
from support.workers import once
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

import precast
from precast.export.exporter import export_model

PICTURES = [(name, drawing(name, 10**6 + seed)) for seed, name in enumerate(NAMES * 4)]
TEMPLATE = {"hypothesis_template": "a {}"}


@pytest.fixture(scope="module")
def ask() -> Any:
    made = once("artifact-trained-shapes", partial(export_model, trained_shapes.checkpoint()))
    return precast.pipeline("zero-shot-image-classification", made)


def test_shapes_and_colours_are_named(ask: Any) -> None:
    found = ask([picture for _, picture in PICTURES], NAMES, **TEMPLATE)
    right = [answers[0]["label"] == name for answers, (name, _) in zip(found, PICTURES, strict=True)]
    assert np.mean(right) > 0.9, "too little was learned for this to show anything"
    source = trained_shapes.checkpoint()
    theirs = transformers.pipeline(
        "zero-shot-image-classification",
        model=str(source),
        image_processor=CLIPImageProcessorPil.from_pretrained(source),
        tokenizer=transformers.AutoTokenizer.from_pretrained(source),
    )
    for answers, (_, picture) in list(zip(found, PICTURES, strict=True))[:4]:
        expected = theirs(picture, candidate_labels=list(NAMES), **TEMPLATE)
        assert answers[0]["label"] == expected[0]["label"]
        assert answers[0]["score"] == pytest.approx(expected[0]["score"], abs=1e-5)


def test_pictures_are_found_by_what_they_are_called(ask: Any) -> None:
    """The other way round: of all pictures, the one that a text is most like."""
    model = ask.model
    pixels = model.image_processor([picture for _, picture in PICTURES[:16]]).pixel_values
    tokens = model.tokenizer([f"a {name}" for name in NAMES], padding=True, return_tensors="np")
    best = model(pixel_values=pixels, **{key: tokens[key] for key in ("input_ids", "attention_mask")}).logits_per_text
    assert (best.argmax(axis=1) == np.arange(16)).mean() > 0.9
