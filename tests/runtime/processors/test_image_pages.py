"""Pages on a sheet as Donut's image processor lays them, to the bit; and cut into patches as Pix2Struct's does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFont
from transformers.models.donut.image_processing_pil_donut import DonutImageProcessorPil
from transformers.models.pix2struct.image_processing_pil_pix2struct import Pix2StructImageProcessorPil

from precast.export.image_reading import image_steps
from precast.export.processor_files import FILES
from precast.runtime.errors import InputError, UnsupportedModelError
from precast.runtime.processors.image import ImageProcessor

SIZES = ((30, 30), (61, 40), (40, 61), (3, 40), (200, 90), (64, 48), (101, 33))


def picture(width: int, height: int) -> Image.Image:
    rng = np.random.default_rng(width)
    return Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))


def ours(**settings: Any) -> ImageProcessor:
    """By way of the artifact's JSON, as a loaded model has it."""
    named = {"image_processor_type": "DonutImageProcessor", **settings}
    steps = [step.to_json() for step in image_steps({FILES[1]: named}.get, "vision-encoder-decoder")]
    return ImageProcessor.from_data(json.loads(json.dumps({"port": "pixel_values", "steps": steps})))


@pytest.mark.parametrize(
    "settings",
    [
        {"size": {"height": 64, "width": 48}},
        {"size": [64, 48], "do_align_long_axis": True},  # the width first
        {"size": {"height": 40, "width": 60}, "do_align_long_axis": True, "resample": 0},
        {"size": {"height": 64, "width": 48}, "do_resize": False, "do_pad": False, "resample": 3},
        {
            "size": {"height": 220, "width": 250},
            "do_resize": False,
            "do_thumbnail": False,
            "image_mean": [0.1, 0.2, 0.3],
        },
        {"size": {"height": 48, "width": 48}, "do_thumbnail": False, "do_pad": False, "do_rescale": False},
    ],
    ids=json.dumps,
)
def test_pages_are_upstreams(settings: dict[str, Any]) -> None:
    theirs, mine = DonutImageProcessorPil(**settings), ours(**settings)
    for width, height in SIZES:
        given = picture(width, height)
        expected = theirs(given, return_tensors="np")["pixel_values"]
        np.testing.assert_array_equal(mine(given)["pixel_values"], expected, err_msg=f"{width} x {height}")


def test_the_sheet_of_checkpoints_that_say_none() -> None:
    """Of the size that upstream takes."""
    made = ours()(picture(50, 20))["pixel_values"]
    assert made.shape == (1, 3, 2560, 1920) and made[0, :, 0].max() == -1


def test_what_does_not_fit_is_said() -> None:
    sheet = {"size": {"height": 20, "width": 30}}
    with pytest.raises(InputError, match=r"padded to 30 x 20 here, and this one is larger: 40 x 25"):
        ours(**sheet, do_resize=False, do_thumbnail=False)(picture(40, 25))
    with pytest.raises(InputError, match=r"A picture of 2000 x 20 would become one of 30 x 0\. Cut it"):
        ours(**sheet)(picture(2000, 20))
    with pytest.raises(UnsupportedModelError, match="asks for do_center_crop, which is not done here"):
        ours(**sheet, do_center_crop=True)
    with pytest.raises(UnsupportedModelError, match="size is a height and a width here; it has shortest_edge"):
        ours(size={"shortest_edge": 20})


def patches(**settings: Any) -> ImageProcessor:
    named = {"image_processor_type": "Pix2StructImageProcessor", **settings}
    steps = [step.to_json() for step in image_steps({FILES[1]: named}.get, "pix2struct")]
    return ImageProcessor.from_data(json.loads(json.dumps({"steps": steps})))


@pytest.mark.parametrize(
    "settings",
    [
        {"max_patches": 64},
        {"max_patches": 100, "patch_size": {"height": 7, "width": 5}, "do_normalize": False},
        {"max_patches": 3, "patch_size": 9},
    ],
    ids=json.dumps,
)
def test_patches_are_upstreams(settings: dict[str, Any]) -> None:
    """Places and masks exactly, numbers within 1e-6 of the largest."""
    theirs, mine = Pix2StructImageProcessorPil(**settings), patches(**settings)
    for width, height in (*SIZES, (1, 1), (900, 2)):
        given = picture(width, height)
        expected, found = theirs(given, return_tensors="np"), mine(given)
        wanted, got = expected["flattened_patches"], found["flattened_patches"]
        assert got.shape == wanted.shape and got.dtype == wanted.dtype
        np.testing.assert_array_equal(got[..., :2], wanted[..., :2])
        np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-6 * np.abs(wanted).max())
        np.testing.assert_array_equal(found["attention_mask"], expected["attention_mask"])


def test_patches_that_cannot_be_are_refused() -> None:
    with pytest.raises(UnsupportedModelError, match="patch_size is a height and a width, and it has shortest_edge"):
        patches(patch_size={"shortest_edge": 16})
    with pytest.raises(
        InputError, match=r"A picture of 2000 x 1 would become one of .*, where 16384 pixels are the most"
    ):
        patches(max_patches=2000)(picture(2000, 1))


def test_what_is_asked_stands_above_the_picture(tmp_path: Path) -> None:
    """In lines of 80 characters: as wide as the wider of the two."""
    font = tmp_path / "font.ttf"
    font.write_bytes(ImageFont.load_default(36).font_bytes)  # type: ignore[union-attr] # Pillow's own
    theirs, mine = Pix2StructImageProcessorPil(max_patches=60), patches(is_vqa=True, max_patches=60)
    for text, (width, height) in (("What is this?", (900, 300)), ("A long question, " * 9, (61, 40))):
        given = picture(width, height)
        above = theirs.render_header(np.asarray(given).transpose(2, 0, 1), text, font_path=str(font))
        wanted = theirs(Image.fromarray(above.transpose(1, 2, 0)), return_tensors="np")["flattened_patches"]
        found = mine(given, header_text=text, font_path=font)
        np.testing.assert_allclose(found["flattened_patches"], wanted, rtol=0, atol=1e-6 * np.abs(wanted).max())
    with pytest.raises(InputError, match="This model reads what is asked of a picture above it, in a TrueType font"):
        mine(given)
    with pytest.raises(InputError, match="in a TrueType font that no checkpoint holds: give its file beside the text"):
        mine(given, header_text="What is this?")
    with pytest.raises(InputError, match="is no TrueType font that can be read"):
        mine(given, header_text="What is this?", font_path=__file__)
    with pytest.raises(InputError, match="take no arguments; received header_text"):
        patches()(given, header_text="What is this?")
    with pytest.raises(InputError, match="is a text, and this one is empty"):
        mine(given, header_text=" ", font_path=font)
