"""What models of pages are tried on: words in lines, and what is seen of the page."""

from __future__ import annotations

import numpy as np
import pytest
from support import tiny_pages

import precast
from precast.calibration.made_up import made_up


@pytest.mark.parametrize("model_type", ["layoutlm", "layoutlmv3"])
def test_words_stand_in_lines(model_type: str) -> None:
    model = precast.load(tiny_pages.artifact(model_type))
    assert model.tokenizer is not None
    made = made_up({model.component.name: model.component}, model.tokenizer.files(), single=False)
    for case in made:
        boxes = case.inputs["bbox"]
        assert boxes.dtype == np.int64 and len(np.unique(boxes[0], axis=0)) == boxes.shape[1]
        assert "pixel_values" not in case.inputs or case.inputs["pixel_values"].std() > 0.5
        model(**case.inputs)  # which checks that they lie on their page
