"""Results drawn into pictures: where something changes, in which colours, and how large the whole becomes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from PIL import Image

from precast.runtime.drawing import DRAWN, drawing
from precast.runtime.errors import InputError

DARK, LIGHT = (12, 20, 16), (240, 236, 244)


def plain(colour: tuple[int, int, int]) -> Image.Image:
    return Image.new("RGB", (120, 90), colour)


def square(left: int, top: int, side: int) -> np.ndarray:
    mask = np.zeros((90, 120), np.uint8)
    mask[top : top + side, left : left + side] = 255
    return mask


def changed(drawn: Image.Image, colour: tuple[int, int, int]) -> np.ndarray:
    return np.any(np.asarray(drawn)[:90, :120] != np.array(colour, np.uint8), axis=-1)


@pytest.mark.parametrize("colour", [DARK, LIGHT])
def test_segments_are_tints_with_a_legend(colour: tuple[int, int, int]) -> None:
    masks = [square(5, 5, 30), square(60, 40, 40)]
    items: list[dict[str, Any]] = [
        {"label": "road", "score": None, "mask": Image.fromarray(masks[0])},
        {"label": "sky", "score": 0.876, "mask": Image.fromarray(masks[1])},
    ]
    drawn = drawing("image-segmentation")(plain(colour), items)
    np.testing.assert_array_equal(changed(drawn, colour), (masks[0] | masks[1]) > 0)
    pixels = np.asarray(drawn).astype(int)
    # Two segments are told apart, and the inside is seen through where the edge is not.
    assert np.abs(pixels[20, 20] - pixels[60, 80]).max() > 40
    assert (pixels[20, 20] != pixels[5, 20]).any()
    assert drawn.width == 120 and drawn.height > 90
    legend = pixels[90:]
    assert (legend != legend[0, 0]).any(axis=-1).mean() > 0.05
    assert drawing("image-segmentation")(plain(colour), []).size == (120, 90)


def test_masks_without_labels_have_no_legend() -> None:
    masks = [square(5, 5, 30) > 0, square(60, 40, 40) > 0]
    drawn = drawing("mask-generation")(plain(DARK), {"masks": masks, "scores": [0.9, 0.8]})
    assert drawn.size == (120, 90)
    np.testing.assert_array_equal(changed(drawn, DARK), masks[0] | masks[1])


def test_depth_lies_beside_the_picture_and_grows_lighter() -> None:
    ramp = np.tile(np.linspace(0, 255, 60).round().astype(np.uint8), (45, 1))
    drawn = drawing("depth-estimation")(plain(LIGHT), {"depth": Image.fromarray(ramp)})
    assert drawn.size == (240, 90)
    assert not changed(drawn, LIGHT).any()
    lightness = np.asarray(drawn.convert("L")).astype(int)[45, 120:]
    assert (np.diff(lightness) >= -1).all() and lightness[-1] - lightness[0] > 200


def test_pictures_are_saved_as_they_are() -> None:
    larger = Image.new("RGB", (240, 180), LIGHT)
    assert drawing("image-to-image")(plain(DARK), larger) is larger


def test_other_results_are_not_drawn() -> None:
    with pytest.raises(InputError, match=r"Results of summarization are not drawn into pictures\. Drawn are those of"):
        drawing("summarization")
    assert set(DRAWN.values()) == {"boxes", "depth", "masks", "matches", "pictures"}
