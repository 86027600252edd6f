"""Hidden patches of videos, as upstream's model draws them; and what hides none is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from support import oracle, tiny_artifacts

import precast
from precast.export.heads import PRETRAINING
from precast.runtime.errors import InputError

PIXELS = np.random.default_rng(0).standard_normal((2, 4, 3, 12, 12), np.float32)
MASK = np.array([[1, 0, 1, 0, 0, 1, 0, 0], [0, 0, 0, 1, 1, 1, 0, 0]], bool)


@pytest.fixture(scope="module")
def model() -> Any:
    return precast.AutoModelForPreTraining.from_pretrained(tiny_artifacts.plain("videomae", PRETRAINING))


def test_what_is_hidden_is_drawn_as_upstream_draws_it(model: Any) -> None:
    theirs: Any = oracle.upstream("videomae", PRETRAINING, {})[1]
    assert model.input_names == ("pixel_values", "bool_masked_pos")
    with torch.no_grad():
        expected = theirs(torch.from_numpy(PIXELS), bool_masked_pos=torch.from_numpy(MASK)).logits
    found = model(PIXELS, bool_masked_pos=MASK)
    np.testing.assert_allclose(found.logits, expected.numpy(), rtol=0, atol=2e-5)
    np.testing.assert_array_equal(model(pixel_values=PIXELS, bool_masked_pos=MASK.tolist()).logits, found.logits)
    assert precast.verify(model.path)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "'bool_masked_pos' is needed: which of a video's 8 patches are hidden"),
        ({"bool_masked_pos": MASK[:, :7]}, r"is \[batch, 8\] of truth values; received bool of shape \(2, 7\)"),
        ({"bool_masked_pos": MASK * 0.5}, "of truth values; received float64"),
        ({"bool_masked_pos": MASK[:1] * [[True], [False]]}, "received rows that hide 0 and 3 of 8|hide 0, 3 of 8"),
        ({"bool_masked_pos": MASK | True}, "hides some patches of each video and not all"),
        ({"bool_masked_pos": MASK[:1]}, "batch is one size in all inputs"),
        ({"bool_masked_pos": MASK, "hidden_patches": [[1]]}, "hidden_patches are made of bool_masked_pos; give that"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_hides_nothing_is_refused(model: Any, given: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        model(PIXELS, **given)
