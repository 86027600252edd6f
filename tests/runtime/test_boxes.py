"""Boxes of words: on their page, the right way round, and made up so for parity."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from precast.runtime.errors import InputError
from precast.runtime.inputs import Inputs
from precast.runtime.kinds import sample
from precast.runtime.ports import Port

IDS = Port("input_ids", "int64", ("batch", "sequence"), "ids", below=99)
PARTS = Port("bbox", "int64", ("batch", "sequence", 4), "boxes", default=0, below=1001)
SHARES = PARTS._replace(dtype="float32", below=2)


def checked(boxes: Any, port: Port = PARTS) -> Any:
    return Inputs((IDS, port), {}).checked({"input_ids": np.array([[1, 2]]), "bbox": boxes})["bbox"]


def test_boxes_on_their_page() -> None:
    boxes = np.array([[[0, 0, 0, 0], [10, 20, 1000, 1000]]])
    np.testing.assert_array_equal(checked(boxes), boxes)
    np.testing.assert_array_equal(checked(boxes.tolist()), boxes)
    np.testing.assert_array_equal(checked(None), np.zeros((1, 2, 4)))
    np.testing.assert_array_equal(checked(boxes / 1000, SHARES), np.float32(boxes / 1000))


@pytest.mark.parametrize(
    "box", [(0, 0, 1001, 5), (-1, 0, 5, 5), (0, -7, 5, 5), (0, 0, 5, 1024), (9, 0, 8, 5), (0, 9, 5, 8)]
)
def test_boxes_outside_their_page(box: tuple[int, ...]) -> None:
    boxes = np.array([[(0, 0, 5, 5), box]])
    message = rf"bbox of token 1 of row 0 is \[{', '.join(map(str, box))}\], .* 0 <= x0 <= x1 <= 1000 and 0 <= y0"
    with pytest.raises(InputError, match=message):
        checked(boxes)
    with pytest.raises(InputError, match=r"bbox of token 1 of row 0 .* 0 <= x0 <= x1 <= 1 and"):
        checked(boxes / 1000, SHARES)


def test_boxes_that_are_none() -> None:
    with pytest.raises(InputError, match="sequence is one size in all inputs"):
        checked(np.zeros((1, 3, 4), np.int64))
    with pytest.raises(InputError, match=r"input 'bbox' is \[batch, sequence, 4\]; received shape \(1, 2, 3\)"):
        checked(np.zeros((1, 2, 3), np.int64))
    with pytest.raises(InputError, match="input 'bbox' holds integers; received dtype float64"):
        checked(np.zeros((1, 2, 4)))
    with pytest.raises(InputError, match="bbox' holds NaN or infinity; every box is"):
        checked(np.full((1, 2, 4), np.nan), SHARES)


def test_boxes_made_up_are_right() -> None:
    for port in (PARTS, SHARES):
        made = sample(np.random.default_rng(0), port, {"batch": 3, "sequence": 50})
        assert made.dtype == port.dtype and made.shape == (3, 50, 4)
        assert (made[..., :2] <= made[..., 2:]).all() and made.min() >= 0 and made.max() < port.below
        assert len(np.unique(made)) > 300
