"""Depths, pictures, detected objects and segments beside their reference's: figures and bounds."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from precast.runtime.errors import ParityError
from precast.runtime.maps import Maps
from precast.runtime.objects import Objects, overlaps
from precast.runtime.segments import Segments

Array = np.ndarray


def maps(*pairs: tuple[Array, Array]) -> Maps:
    return Maps.over({"scores": pairs}, text=False, data="0")


@given(st.floats(1e-4, 1.0))
def test_noise_is_the_variance_it_is(noise: float) -> None:
    rng = np.random.default_rng(0)
    depth = 40 + 3 * rng.standard_normal((50, 60))
    wrong = rng.standard_normal(depth.shape)
    wrong *= noise * np.linalg.norm(depth - depth.mean()) / np.linalg.norm(wrong)
    found = maps((depth, depth + wrong), (depth, depth))
    assert found.worst == pytest.approx(1 - noise**2, abs=1e-9)
    assert found.mean == pytest.approx(1 - noise**2 / 2, abs=1e-9) and found.losses == {"variance": 1 - found.mean}
    # Where zero is does not matter.
    assert maps((depth - 40, depth + wrong - 40)).worst == pytest.approx(found.worst, abs=1e-9)


def test_bounds_of_maps_hold() -> None:
    rng = np.random.default_rng(0)
    depth = rng.random((30, 30)).astype(np.float32)
    maps((depth, depth + 1e-3)).gate("int8", "v")
    shifted = maps((depth, depth + np.float32(0.1)))
    with pytest.raises(ParityError, match=r"v shows too little .* over 1 calls.* mean R2 0\.8\d+ is below 0\.998"):
        shifted.gate("int8", "v")
    one = maps(*[(depth, depth)] * 99, (depth, depth + np.float32(0.05)))
    with pytest.raises(ParityError, match=r"refused: the worst R2 0\.9\d+ is below 0\.98"):
        one.gate("int8", "v")
    assert Maps.in_words(one.to_json()).endswith("at worst over 100 calls")
    flat = np.ones((3, 3), np.float32)
    assert maps((flat, flat)).worst == 1.0 and maps((flat, 2 * flat)).worst == -1.0
    assert maps((depth, np.full_like(depth, np.nan))).worst == -1.0


@given(st.floats(0, 1), st.floats(0, 1), st.floats(0.01, 1), st.floats(0.01, 1), st.floats(-0.5, 0.5))
def test_a_box_moved_overlaps_by_what_is_left(x: float, y: float, width: float, height: float, part: float) -> None:
    box = np.array([[x, y, width, height]])
    moved = box + np.array([part * width, 0, 0, 0])
    left = 1 - abs(part)
    np.testing.assert_allclose(overlaps(box, moved), left / (2 - left), atol=1e-9)
    np.testing.assert_allclose(overlaps(box, box * [1, 1, 0.5, 1]), 0.5, atol=1e-9)
    assert overlaps(box, box) == 1.0


def test_boxes_of_nothing_and_of_no_numbers() -> None:
    nothing, box = np.array([[0.5, 0.5, 0.0, 0.2]]), np.array([[0.5, 0.5, 0.4, 0.2]])
    assert overlaps(nothing, nothing) == 1.0 and overlaps(nothing, box) == overlaps(box, nothing) == 0.0
    assert overlaps(box, -box) == 0.0 and overlaps(box, np.full((1, 4), np.nan)) == 0.0


def test_bounds_of_objects_hold() -> None:
    rng = np.random.default_rng(0)
    logits, boxes = rng.standard_normal((100, 7)), rng.uniform(0.3, 0.7, (100, 4))

    def objects(moved: float, other: Array) -> Objects:
        pairs = {"logits": [(logits, other)], "boxes": [(boxes, boxes + moved * np.array([boxes[0, 2], 0, 0, 0]))]}
        return Objects.over(pairs, text=False, data="0")

    near = objects(1e-4, logits + 1e-4)
    near.gate("int8", "v")
    assert near.losses == {"agreement": 0.0, "kl": near.labels.mean, "overlap": 1 - near.overlap}
    assert "over 100 boxes, mean KL divergence" in Objects.in_words(near.to_json())
    where = r"from where the reference finds them.* union 0\.9\d+ of 100 boxes is below 0\.99"
    with pytest.raises(ParityError, match=where):
        objects(0.05, logits).gate("int8", "v")
    with pytest.raises(ParityError, match="mean KL divergence"):
        objects(0.0, logits[:, ::-1]).gate("int8", "v")
    assert max(objects(0.05, logits).shares("int8")) > 1 > max(near.shares("int8"))


def test_segments_are_held_to_both_of_their_bounds() -> None:
    rng = np.random.default_rng(0)
    logits, masks = rng.standard_normal((100, 7)), rng.standard_normal((600, 5))

    def segments(labels: Array, places: Array) -> Segments:
        pairs = {"logits": [(logits, labels)], "scores": [(masks, places), (masks, masks)]}
        return Segments.over(pairs, text=False, data="0")

    near = segments(logits + 1e-3 * rng.standard_normal(logits.shape), masks + 1e-3)
    near.gate("int8", "v")
    assert near.losses == {"agreement": 1 - near.labels.top, "kl": near.labels.mean, "variance": 1 - near.masks.mean}
    words = Segments.in_words(near.to_json())
    assert words.startswith("R2 1.0") and "over 2 calls, mean KL" in words and "of the labels of 100 segments" in words
    with pytest.raises(ParityError, match="mean KL divergence"):
        segments(logits[:, ::-1], masks).gate("int8", "v")
    with pytest.raises(ParityError, match=r"shows too little .* the worst R2 0\.9\d+ is below 0\.98"):
        segments(logits, 0.8 * masks).gate("int8", "v")
    assert max(segments(logits, 0.8 * masks).shares("int8")) > 1 > max(near.shares("int8"))
    assert max(segments(logits[:, ::-1], masks).shares("int8")) > 1
