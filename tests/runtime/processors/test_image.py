"""Pictures as pixel values: each step, and whole processors, against upstream's of Pillow and NumPy, to the bit."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from support import tiny_artifacts
from support.tokenizer_samples import write_json
from transformers.models.beit.image_processing_pil_beit import BeitImageProcessorPil
from transformers.models.bit.image_processing_pil_bit import BitImageProcessorPil
from transformers.models.bridgetower.image_processing_pil_bridgetower import BridgeTowerImageProcessorPil
from transformers.models.chinese_clip.image_processing_pil_chinese_clip import ChineseCLIPImageProcessorPil
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.conditional_detr.image_processing_pil_conditional_detr import ConditionalDetrImageProcessorPil
from transformers.models.convnext.image_processing_pil_convnext import ConvNextImageProcessorPil
from transformers.models.deformable_detr.image_processing_pil_deformable_detr import DeformableDetrImageProcessorPil
from transformers.models.deit.image_processing_pil_deit import DeiTImageProcessorPil
from transformers.models.detr.image_processing_pil_detr import DetrImageProcessorPil
from transformers.models.dpt.image_processing_pil_dpt import DPTImageProcessorPil
from transformers.models.efficientnet.image_processing_pil_efficientnet import EfficientNetImageProcessorPil
from transformers.models.glpn.image_processing_pil_glpn import GLPNImageProcessorPil
from transformers.models.grounding_dino.image_processing_pil_grounding_dino import GroundingDinoImageProcessorPil
from transformers.models.imagegpt.image_processing_pil_imagegpt import ImageGPTImageProcessorPil
from transformers.models.layoutlmv3.image_processing_pil_layoutlmv3 import LayoutLMv3ImageProcessorPil
from transformers.models.levit.image_processing_pil_levit import LevitImageProcessorPil
from transformers.models.lightglue.image_processing_pil_lightglue import LightGlueImageProcessorPil
from transformers.models.mask2former.image_processing_pil_mask2former import Mask2FormerImageProcessorPil
from transformers.models.maskformer.image_processing_pil_maskformer import MaskFormerImageProcessorPil
from transformers.models.mobilenet_v1.image_processing_pil_mobilenet_v1 import MobileNetV1ImageProcessorPil
from transformers.models.mobilenet_v2.image_processing_pil_mobilenet_v2 import MobileNetV2ImageProcessorPil
from transformers.models.mobilevit.image_processing_pil_mobilevit import MobileViTImageProcessorPil
from transformers.models.owlv2.image_processing_pil_owlv2 import Owlv2ImageProcessorPil
from transformers.models.owlvit.image_processing_pil_owlvit import OwlViTImageProcessorPil
from transformers.models.poolformer.image_processing_pil_poolformer import PoolFormerImageProcessorPil
from transformers.models.rt_detr.image_processing_pil_rt_detr import RTDetrImageProcessorPil
from transformers.models.sam.image_processing_pil_sam import SamImageProcessorPil
from transformers.models.segformer.image_processing_pil_segformer import SegformerImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil
from transformers.models.superglue.image_processing_pil_superglue import SuperGlueImageProcessorPil
from transformers.models.superpoint.image_processing_pil_superpoint import SuperPointImageProcessorPil
from transformers.models.swin2sr.image_processing_pil_swin2sr import Swin2SRImageProcessorPil
from transformers.models.videomae.image_processing_pil_videomae import VideoMAEImageProcessorPil
from transformers.models.vilt.image_processing_pil_vilt import ViltImageProcessorPil
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil
from transformers.models.yolos.image_processing_pil_yolos import YolosImageProcessorPil

import precast
from precast.export.image_kinds import KINDS
from precast.export.image_reading import image_steps, read_folder
from precast.export.processor_files import FILES
from precast.runtime.errors import ArtifactError, ConfigError, InputError, UnsupportedModelError
from precast.runtime.fields import Fields
from precast.runtime.processors import image as images
from precast.runtime.processors.image import ImageProcessor, open_picture
from precast.runtime.processors.image_steps import read_steps

UPSTREAM: dict[str, Any] = {
    "ConditionalDetrImageProcessor": ConditionalDetrImageProcessorPil,
    "DeformableDetrImageProcessor": DeformableDetrImageProcessorPil,
    "DetrImageProcessor": DetrImageProcessorPil,
    "GroundingDinoImageProcessor": GroundingDinoImageProcessorPil,
    "RTDetrImageProcessor": RTDetrImageProcessorPil,
    "YolosImageProcessor": YolosImageProcessorPil,
    "BeitImageProcessor": BeitImageProcessorPil,
    "BitImageProcessor": BitImageProcessorPil,
    "ChineseCLIPImageProcessor": ChineseCLIPImageProcessorPil,
    "BridgeTowerImageProcessor": BridgeTowerImageProcessorPil,
    "CLIPImageProcessor": CLIPImageProcessorPil,
    "ConvNextImageProcessor": ConvNextImageProcessorPil,
    "DeiTImageProcessor": DeiTImageProcessorPil,
    "DPTImageProcessor": DPTImageProcessorPil,
    "EfficientNetImageProcessor": EfficientNetImageProcessorPil,
    "GLPNImageProcessor": GLPNImageProcessorPil,
    "LayoutLMv3ImageProcessor": partial(LayoutLMv3ImageProcessorPil, apply_ocr=False),  # test_page_ocr.py
    "LevitImageProcessor": LevitImageProcessorPil,
    "Mask2FormerImageProcessor": Mask2FormerImageProcessorPil,
    "MaskFormerImageProcessor": MaskFormerImageProcessorPil,
    "MobileNetV1ImageProcessor": MobileNetV1ImageProcessorPil,
    "MobileNetV2ImageProcessor": MobileNetV2ImageProcessorPil,
    "MobileViTImageProcessor": MobileViTImageProcessorPil,
    "OwlViTImageProcessor": OwlViTImageProcessorPil,
    "PoolFormerImageProcessor": PoolFormerImageProcessorPil,
    "SamImageProcessor": SamImageProcessorPil,
    "SiglipImageProcessor": SiglipImageProcessorPil,
    "SuperPointImageProcessor": SuperPointImageProcessorPil,
    "Swin2SRImageProcessor": Swin2SRImageProcessorPil,
    "VideoMAEImageProcessor": VideoMAEImageProcessorPil,
    "SegformerImageProcessor": SegformerImageProcessorPil,
    "ViTImageProcessor": ViTImageProcessorPil,
    "ViltImageProcessor": ViltImageProcessorPil,
}


def picture(width: int, height: int, mode: str = "RGB", seed: int = 0) -> Image.Image:
    rng = np.random.default_rng(seed)
    channels = len(Image.new(mode, (1, 1)).getbands())
    shape = (height, width, channels) if channels > 1 else (height, width)
    return Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8), mode)


def ours(settings: dict[str, Any], model_type: str = "vit") -> ImageProcessor:
    """By way of the artifact's JSON, as a loaded model has it."""
    steps = image_steps({FILES[1]: settings}.get, model_type)
    data = json.loads(json.dumps({"port": "pixel_values", "steps": [step.to_json() for step in steps]}))
    return ImageProcessor.from_data(data)


def pixels_or_refusal(theirs: Any, given_: Image.Image) -> Any:
    """What upstream makes of a picture, or what it says of one that it would make without any pixels."""
    try:
        return theirs(given_, return_tensors="np")
    except ValueError as error:
        return str(error)


SIZES = [(30, 30), (61, 40), (40, 61), (1, 1), (3, 200), (200, 3), (224, 224), (641, 427)]
SETTINGS: list[tuple[str, dict[str, Any]]] = [
    *[(name, {}) for name in UPSTREAM],
    ("SiglipImageProcessor", {"size": 48, "do_convert_rgb": None}),
    *[("ViTImageProcessor", {"resample": number, "size": {"height": 37, "width": 23}}) for number in range(6)],
    ("ViTImageProcessor", {"size": 48, "image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6]}),
    ("ViTImageProcessor", {"size": [20, 33]}),
    ("OwlViTImageProcessor", {"size": 33, "rescale": False}),
    ("ViTImageProcessor", {"do_rescale": False}),
    ("ViTImageProcessor", {"do_normalize": False}),
    ("ViTImageProcessor", {"rescale_factor": 1 / 127.5, "image_mean": 1.0, "image_std": 1.0, "do_convert_rgb": None}),
    ("ViTImageProcessor", {"do_center_crop": True, "crop_size": {"height": 250, "width": 97}}),
    ("DeiTImageProcessor", {"size": 57, "crop_size": 48, "image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6]}),
    ("BeitImageProcessor", {"size": 57, "do_center_crop": True, "crop_size": 48, "resample": 2}),
    ("BeitImageProcessor", {"size": {"height": 37, "width": 23}, "reduce_labels": True, "do_reduce_labels": True}),
    ("BitImageProcessor", {"size": {"shortest_edge": 57}, "crop_size": {"height": 48, "width": 48}}),
    ("CLIPImageProcessor", {"size": 90, "crop_size": 71}),
    ("CLIPImageProcessor", {"size": {"shortest_edge": 33}, "crop_size": {"height": 48, "width": 29}, "resample": 2}),
    ("CLIPImageProcessor", {"do_resize": False, "crop_size": 64}),
    ("CLIPImageProcessor", {"do_rescale": False, "do_normalize": False}),
    ("ConvNextImageProcessor", {"size": {"shortest_edge": 64}}),
    ("ConvNextImageProcessor", {"size": 70, "crop_pct": 0.875, "resample": 2}),
    ("ConvNextImageProcessor", {"size": {"shortest_edge": 383}, "crop_pct": 1.0}),
    ("ConvNextImageProcessor", {"do_resize": False}),
    ("ConvNextImageProcessor", {"size": 400, "do_center_crop": False}),
    ("EfficientNetImageProcessor", {"include_top": False, "rescale_offset": True, "rescale_factor": 1 / 127.5}),
    ("EfficientNetImageProcessor", {"do_normalize": False, "image_std": [0.4, 0.5, 0.6], "size": 40, "resample": 0}),
    ("EfficientNetImageProcessor", {"do_center_crop": True, "crop_size": 31, "size": {"height": 40, "width": 52}}),
    ("LevitImageProcessor", {"size": {"height": 40, "width": 30}, "crop_size": 24}),
    ("LevitImageProcessor", {"size": {"shortest_edge": 41}, "crop_size": 41}),
    ("PoolFormerImageProcessor", {"size": {"shortest_edge": 41}, "crop_size": 41, "crop_pct": 0.95}),
    ("PoolFormerImageProcessor", {"size": {"height": 41, "width": 41}, "crop_size": 41, "crop_pct": None}),
    ("PoolFormerImageProcessor", {"size": {"height": 41, "width": 50}, "do_center_crop": False}),
    *[
        (name, settings)
        for name in ("DetrImageProcessor", "YolosImageProcessor")
        for settings in (
            {"size": 64, "max_size": 100},
            {"size": {"shortest_edge": 61, "longest_edge": 200}, "resample": 3},
            {"size": {"shortest_edge": 40, "longest_edge": 1000}, "do_pad": False},
            {"size": {"max_height": 140, "max_width": 150}, "do_normalize": False},
            {"size": {"height": 37, "width": 23}, "pad_size": {"height": 40, "width": 50}},
        )
    ],
    *[
        ("MaskFormerImageProcessor", settings)
        for settings in (
            {"size": 64, "max_size": 100},
            {"size": {"shortest_edge": 61, "longest_edge": 200}, "resample": 3, "size_divisor": 16},
            {"size": {"shortest_edge": 40, "longest_edge": 1000}, "size_divisor": 0, "image_std": [0.3, 0.4, 0.5]},
            {"size": {"max_height": 140, "max_width": 150}, "do_normalize": False},
            {"size": {"height": 37, "width": 23}, "pad_size": {"height": 80, "width": 70}},
        )
    ],
    ("Mask2FormerImageProcessor", {"size": {"shortest_edge": 50, "longest_edge": 70}, "size_divisor": 8}),
    ("BridgeTowerImageProcessor", {"size": {"shortest_edge": 61}, "crop_size": {"shortest_edge": 70}}),
    ("ViltImageProcessor", {"size": {"shortest_edge": 61}, "size_divisor": 4, "resample": 2, "do_pad": False}),
    ("RTDetrImageProcessor", {"size": {"height": 37, "width": 23}, "do_normalize": True, "do_pad": True}),
    (
        "Swin2SRImageProcessor",
        {"size_divisor": 7},
    ),
    ("Swin2SRImageProcessor", {"pad_size": 31, "rescale_factor": 1 / 127.5, "do_convert_rgb": True}),
    ("VideoMAEImageProcessor", {"size": {"shortest_edge": 40}, "crop_size": 31, "image_std": [0.4, 0.5, 0.6]}),
    ("SamImageProcessor", {"size": {"longest_edge": 64}, "pad_size": {"height": 70, "width": 66}}),
    ("SamImageProcessor", {"size": {"longest_edge": 51}, "do_pad": False, "resample": 3, "do_normalize": False}),
    ("SuperPointImageProcessor", {"do_grayscale": True, "size": {"height": 37, "width": 23}}),
    ("SuperPointImageProcessor", {"do_grayscale": True, "size": {"shortest_edge": 41}, "resample": 3}),
    ("SuperPointImageProcessor", {"do_grayscale": True, "do_resize": False, "rescale_factor": 1 / 127.5}),
    ("Swin2SRImageProcessor", {"do_pad": False}),
    ("Swin2SRImageProcessor", {"do_rescale": False}),
    ("SegformerImageProcessor", {"size": 57, "do_reduce_labels": True, "do_center_crop": True, "crop_size": 31}),
    ("GLPNImageProcessor", {"size_divisor": 1, "resample": 3}),
    ("GLPNImageProcessor", {"size_divisor": 3, "do_normalize": True, "image_mean": [0.1, 0.2, 0.3], "image_std": 0.5}),
    ("DPTImageProcessor", {"size": {"height": 57, "width": 90}, "ensure_multiple_of": 4}),
    ("DPTImageProcessor", {"size": 57, "keep_aspect_ratio": True, "resample": 2}),
    ("DPTImageProcessor", {"size": {"height": 98, "width": 126}, "keep_aspect_ratio": True, "ensure_multiple_of": 14}),
    ("MobileViTImageProcessor", {"size": 57, "crop_size": 48, "do_normalize": True}),
    ("MobileViTImageProcessor", {"do_flip_channel_order": False, "do_center_crop": False, "do_rescale": False}),
    ("MobileViTImageProcessor", {"size": {"height": 37, "width": 23}, "crop_size": {"height": 41, "width": 20}}),
]
# A strip so much longer than wide becomes a picture of a hundred million pixels on the way.
LONG = 50


@pytest.mark.parametrize(("name", "settings"), SETTINGS, ids=lambda value: json.dumps(value).replace("/", "-"))
def test_pixels_are_upstreams(name: str, settings: dict[str, Any]) -> None:
    theirs = UPSTREAM[name](**settings)
    mine = ours({"image_processor_type": name, **settings})
    for number, (width, height) in enumerate(SIZES):
        edge = dict(theirs.size or {}).get("shortest_edge") or 0
        if 200 < edge < 384 and max(width, height) / min(width, height) > LONG and settings.get("do_resize", True):
            continue
        given_ = picture(width, height, seed=number)
        longest = dict(theirs.size or {}).get("longest_edge")
        if (
            name.startswith(("Vilt", "Bridge")) and max(width, height) / min(width, height) > 15
        ):  # fewer pixels than size_divisor
            longest = 16
        if (
            name.startswith(("Yolos", "Vilt", "Bridge"))
            and longest
            and longest * min(width, height) / max(width, height) < 16
        ):
            with pytest.raises(InputError, match=r"would become one of .* Cut it"):
                mine(given_)
            continue
        expected = pixels_or_refusal(theirs, given_)
        if isinstance(expected, str):
            assert "Size must contain" in expected
            with pytest.raises(InputError, match="where sides are multiples of"):
                mine(given_)
            continue
        found = mine(given_)
        # Sizes that upstream's post-processing is told later are no model's input.
        unread = {"original_sizes", "reshaped_input_sizes", *(["pixel_mask"] if name.startswith("Bridge") else [])}
        assert set(found) == set(expected) - unread
        for key, value in found.items():
            assert value.dtype == expected[key].dtype and value.shape == expected[key].shape
            np.testing.assert_array_equal(value, expected[key], err_msg=f"{key} of {width} x {height}")


@pytest.mark.parametrize(
    "settings",
    [
        {"size": {"height": 64, "width": 64}},
        {"size": {"height": 37, "width": 23}, "image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6]},
        {"size": {"height": 30, "width": 41}, "do_pad": False, "do_normalize": False},
        {"do_resize": False, "rescale_factor": 1 / 127.5},
    ],
    ids=str,
)
def test_squares_are_upstreams_to_the_rounding(settings: dict[str, Any]) -> None:
    """What is blurred and interpolated, of sums in another order."""
    theirs, mine = Owlv2ImageProcessorPil(**settings), ours({"image_processor_type": "Owlv2ImageProcessor", **settings})
    for number, (width, height) in enumerate(SIZES):
        given_ = picture(width, height, seed=number)
        expected, found = (make(given_, return_tensors="np")["pixel_values"] for make in (theirs, mine))
        assert found.dtype == expected.dtype == np.float32 and found.shape == expected.shape
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "L", "P", "1", "CMYK"])
def test_every_mode_becomes_rgb_as_upstreams(mode: str) -> None:
    source = picture(50, 40, "RGBA" if mode in ("LA", "P") else "L" if mode == "1" else mode)
    given_ = source.convert(mode)
    if mode == "P":
        given_.info["transparency"] = 3
    theirs = CLIPImageProcessorPil(size=33, crop_size=30)
    mine = ours({"image_processor_type": "CLIPImageProcessor", "size": 33, "crop_size": 30})
    expected = theirs(given_, return_tensors="np")["pixel_values"]
    np.testing.assert_array_equal(mine(given_)["pixel_values"], expected)


@pytest.mark.parametrize("shape", [(40, 50, 3), (3, 40, 50), (40, 50), (40, 50, 1), (40, 50, 4)])
def test_arrays_are_taken_as_upstreams_takes_them(shape: tuple[int, ...]) -> None:
    array = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    mine = ours({"image_processor_type": "CLIPImageProcessor", "size": 33, "crop_size": 30})
    theirs = CLIPImageProcessorPil(size=33, crop_size=30)
    # Of an array without channels upstream makes no three.
    expected = theirs(array if array.ndim == 3 else array[..., None], return_tensors="np")["pixel_values"]
    found = mine(array)["pixel_values"]
    if shape[-1] == 4:  # blended in integers by Pillow, in floats by NumPy: a level apart at most
        assert np.abs(found - expected).max() <= 1 / 255 / 0.26 + 1e-6
    else:
        np.testing.assert_array_equal(found, expected)


def test_several_pictures_are_one_array() -> None:
    mine = ours({"image_processor_type": "ViTImageProcessor", "size": 30})
    made = mine([picture(31, 40), picture(64, 20)], return_tensors="np")
    assert made.pixel_values.shape == (2, 3, 30, 30) and list(made) == ["pixel_values"]
    bare = ours({"image_processor_type": "ViTImageProcessor", "do_resize": False})
    with pytest.raises(
        InputError, match=r"become one size; received some that become \[\(3, 20, 64\), \(3, 40, 31\)\]"
    ):
        bare([picture(31, 40), picture(64, 20)])


def test_several_pictures_are_padded_as_upstreams() -> None:
    settings = {"size": {"shortest_edge": 40, "longest_edge": 70}}
    given_ = [picture(31, 40), picture(64, 20), picture(50, 50)]
    for name in ("DetrImageProcessor", "YolosImageProcessor"):
        expected = UPSTREAM[name](**settings)(given_, return_tensors="np")
        found = ours({"image_processor_type": name, **settings})(given_)
        assert set(found) == set(expected) == {"pixel_values", "pixel_mask"}
        for key, value in found.items():
            np.testing.assert_array_equal(value, expected[key])
    # One that is padded to a size of its own says so to the model.
    fixed = ours({"image_processor_type": "DetrImageProcessor", **settings, "pad_size": {"height": 80, "width": 80}})
    row = fixed.row(given_[0])
    assert row["pixel_values"].shape == (3, 80, 80) and row["pixel_mask"].sum() == 40 * 51
    assert fixed.model_input_names == ["pixel_values", "pixel_mask"]


@given(width=st.integers(1, 90), height=st.integers(1, 90), want=st.tuples(st.integers(1, 90), st.integers(1, 90)))
def test_a_crop_is_the_middle_whatever_the_sizes(width: int, height: int, want: tuple[int, int]) -> None:
    settings = {"do_resize": False, "do_normalize": False, "crop_size": {"height": want[0], "width": want[1]}}
    given_ = picture(width, height)
    expected = CLIPImageProcessorPil(**settings)(given_, return_tensors="np")["pixel_values"]
    found = ours({"image_processor_type": "CLIPImageProcessor", **settings})(given_)["pixel_values"]
    np.testing.assert_array_equal(found, expected)


# What checkpoints say


@pytest.mark.parametrize(
    ("stated", "name"),
    [
        ({"image_processor_type": "CLIPImageProcessorFast"}, "CLIPImageProcessor"),
        ({"feature_extractor_type": "ViTFeatureExtractor"}, "ViTImageProcessor"),
        ({"image_processor_type": "ViTImageProcessor", "unheard_of": 3}, "ViTImageProcessor"),
        ({}, "ViTImageProcessor"),
    ],
)
def test_classes_are_found_by_their_names(stated: dict[str, Any], name: str) -> None:
    given_ = picture(300, 260)
    expected = UPSTREAM[name]()(given_, return_tensors="np")["pixel_values"]
    np.testing.assert_array_equal(ours(stated)(given_)["pixel_values"], expected)


def test_a_section_of_processor_config_comes_first() -> None:
    files = {
        FILES[0]: {
            "processor_class": "CLIPProcessor",
            "image_processor": {"image_processor_type": "ViTImageProcessor"},
        },
        FILES[1]: {"image_processor_type": "NoSuch"},
    }
    assert image_steps(files.get, "clip") == image_steps({FILES[1]: {}}.get, "vit")
    assert image_steps({FILES[0]: {"processor_class": "x"}, FILES[1]: {}}.get, "clip")[0].to_json() == {"op": "rgb"}


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "its checkpoint came without preprocessor_config.json"),
        (
            {FILES[1]: {"image_processor_type": "NougatImageProcessor"}},
            "names NougatImageProcessor, which is",
        ),
        ({FILES[1]: {"do_pad": True}}, "asks for do_pad, which is not done here"),
        (
            {FILES[1]: {"image_processor_type": "Owlv2ImageProcessor", "do_rescale": False}},
            "asks for do_resize without do_rescale, which rounds",
        ),
        ({FILES[1]: {"size": {"longest_edge": 3}}}, "a shortest_edge, here; it has longest_edge"),
        ({FILES[1]: {"do_center_crop": True, "crop_size": {"shortest_edge": 3}}}, "crop_size is a height and a width"),
    ],
)
def test_what_is_not_known_is_said(files: dict[str, Any], message: str) -> None:
    with pytest.raises(UnsupportedModelError, match=message):
        image_steps(files.get, "vit")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"size": "224"}, "size must be a size: 1 to 16384 pixels"),
        ({"size": {"height": 0, "width": 3}}, "size must be a size"),
        ({"size": 1 << 40}, "size must be a size"),
        ({"resample": 9}, "resample must be one of Pillow's filters, 0 to 5"),
        ({"resample": "bicubic"}, "resample must be one of Pillow's filters"),
        ({"do_resize": 1}, "do_resize must be true, false or null"),
        ({"image_std": [1, 0, 1]}, "image_std must be a number a channel, none of them 0"),
        ({"image_mean": [1, 2], "image_std": [1, 2, 3]}, "image_std must be as many numbers as image_mean has, 2"),
        ({"rescale_factor": "x"}, "rescale_factor must be a number or null"),
        ({"do_center_crop": True}, "crop_size must be a size where do_center_crop is true"),
        ([], "preprocessor_config.json must be an object"),
    ],
)
def test_settings_of_the_wrong_type_are_refused(settings: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        image_steps({FILES[1]: settings}.get, "vit")


# What artifacts say


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        ([{"op": "blur"}], r"steps\[0\].op must be one of .*, crop, .*, scale, .*, got 'blur'"),
        ([{"op": "resize", "height": 3, "filter": "box"}], "given either height and width, or shortest"),
        ([{"op": "resize", "shortest": 1 << 20, "filter": "box"}], "shortest must be an integer from 1 to 16384"),
        ([{"op": "resize", "shortest": 3, "filter": 2}], "filter must be one of"),
        ([{"op": "resize", "shortest": 3, "filter": "box", "gap": 2}], "gap is not a field"),
        ([{"op": "multiples", "multiple": 3, "height": 4, "filter": "box"}], "given both height and width, or neither"),
        ([{"op": "multiples", "multiple": 0, "filter": "box"}], "multiple must be an integer from 1 to 16384"),
        ([{"op": "crop", "height": True, "width": 3}], "height must be an integer from 1 to 16384"),
        ([{"op": "scale"}], "by is missing"),
        ([{"op": "scale", "by": "1"}], "by must be a number"),
        ([{"op": "normalise", "mean": [], "std": []}], "mean must be a list of 1 to 16 numbers"),
        ([{"op": "normalise", "mean": [1], "std": [0]}], "std must be a list of 1 to 16 numbers that are not 0"),
        ([{"op": "normalise", "mean": [1], "std": [1, 1]}], "std must be 1 numbers, as many as mean has"),
        ([{"op": "fit", "shortest": 3, "filter": "box"}], "given either shortest and longest, or height and width"),
        ([{"op": "pad", "height": 3}], "given both height and width, or neither"),
        ([{"op": "scale", "by": 1}, {"op": "rgb"}], "steps must be in the order rgb, header, align, tiles, "),
        ([{"op": "scale", "by": 1}, {"op": "scale", "by": 1}], "steps must be in the order"),
        ("resize", "steps must be a list"),
        ([3], r"steps\[0\] must be an object"),
    ],
)
def test_steps_are_read_through_types(steps: Any, message: str) -> None:
    with pytest.raises(ArtifactError, match=message):
        read_steps(Fields({"steps": steps}))


# What counts as a picture


def test_pictures_are_files_contents_arrays_and_pillows(tmp_path: Path) -> None:
    source = picture(20, 10)
    source.save(tmp_path / "a.png")
    for given_ in (tmp_path / "a.png", str(tmp_path / "a.png"), (tmp_path / "a.png").read_bytes(), np.array(source)):
        np.testing.assert_array_equal(np.array(open_picture(given_)), np.array(source))


def test_a_camera_that_was_turned_is_turned_back(tmp_path: Path) -> None:
    source = picture(20, 10)
    exif = source.getexif()
    exif[0x0112] = 6
    source.save(tmp_path / "turned.png", exif=exif)
    assert open_picture(tmp_path / "turned.png").size == (20, 10)
    assert open_picture(tmp_path / "turned.png", upright=True).size == (10, 20)


def test_what_is_no_picture_is_told_from_what_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    picture(30, 30).save(tmp_path / "cut.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "cut.png").read_bytes()[:900])
    (tmp_path / "text.png").write_text("no picture")
    bad: list[tuple[Any, str]] = [
        (tmp_path / "no.png", "There is no picture '.*no.png': no such file"),
        (tmp_path, "cannot be read: .*Is a directory"),
        (tmp_path / "cut.png", "cannot be read"),
        (tmp_path / "text.png", "is no picture of a kind that Pillow reads"),
        (b"", "0 bytes is no picture"),
        ("a\0b", "cannot be read: embedded null"),
        (3, "received int: 3"),
        (None, "received NoneType"),
        (np.zeros((4, 4, 3), np.float32), r"holds uint8, 0 to 255; received float32.*model\(pixel_values=\.\.\.\)"),
        (np.zeros((5, 5, 7), np.uint8), r"is \[H, W, 3\] or \[3, H, W\]; received \[5, 5, 7\]"),
        (np.zeros((0, 4, 3), np.uint8), r"received \[0, 4, 3\]"),
        (np.zeros(4, np.uint8), r"received \[4\]"),
    ]
    for value, message in bad:
        with pytest.raises(InputError, match=message):
            open_picture(value)
    picture(60, 60).save(tmp_path / "large.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(InputError, match="is too large: "):
        open_picture(tmp_path / "large.png")


def test_modes_that_steps_do_not_know_are_refused() -> None:
    mine = ours({"image_processor_type": "ViTImageProcessor", "size": 30})
    with pytest.raises(InputError, match=r"has 3 channels here; received one of 1. Convert it"):
        mine(picture(20, 20, "L"))
    with pytest.raises(InputError, match="8 bits a channel; received mode F"):
        mine(Image.new("F", (20, 20)))
    strip = ours({"image_processor_type": "CLIPImageProcessor", "size": 224})
    with pytest.raises(InputError, match="would become 22400 pixels long, where 16384 are the most"):
        strip(picture(100, 1))
    small = ours({"image_processor_type": "DetrImageProcessor", "pad_size": {"height": 90, "width": 40}})
    with pytest.raises(InputError, match="are padded to 40 x 90 here; received one that becomes 1066 x 800"):
        small(picture(40, 30))


def test_arguments_are_refused_by_name() -> None:
    mine = ours({"image_processor_type": "ViTImageProcessor", "size": 30})
    with pytest.raises(InputError, match="take no arguments; received do_resize"):
        mine(picture(20, 20), do_resize=False)
    with pytest.raises(InputError, match="return_tensors can be 'np' here"):
        mine(picture(20, 20), return_tensors="pt")
    with pytest.raises(InputError, match="at least one picture"):
        mine([])


def test_pillow_is_named_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    import builtins

    real = builtins.__import__

    def without(name: str, *arguments: Any, **named: Any) -> Any:
        if name == "PIL" or name.startswith("PIL."):
            raise ImportError(name)
        return real(name, *arguments, **named)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(precast.PrecastError, match=r'pip install "precast\[vision\]"'):
        images.open_picture("cat.jpg")


# Where they are found


@pytest.mark.parametrize("name", ["vit", "clip"])
def test_the_auto_class_finds_them(name: str, tmp_path: Path) -> None:
    source, _ = tiny_artifacts.pictures_checkpoint(name)
    path = tiny_artifacts.pictures(name)
    given_ = picture(64, 48)
    kind = "ViTImageProcessor" if name == "vit" else "CLIPImageProcessor"
    expected = UPSTREAM[kind].from_pretrained(source)(given_, return_tensors="np")["pixel_values"]
    for place in (source, path):
        found = precast.AutoImageProcessor.from_pretrained(place)
        np.testing.assert_array_equal(found(given_).pixel_values, expected)
    model = precast.load(path)
    assert model.image_processor is not None
    np.testing.assert_array_equal(model.image_processor(given_).pixel_values, expected)


def test_the_auto_class_knows_numbers_of_colours(tmp_path: Path) -> None:
    settings = {"size": {"height": 8, "width": 8}, "clusters": [[-1, -1, -1], [0, 0.5, 0], [1, 1, 1]]}
    write_json(tmp_path / "config.json", {"model_type": "imagegpt"})
    stated = {"image_processor_type": "ImageGPTImageProcessor", **settings}
    write_json(tmp_path / "preprocessor_config.json", stated)
    given_ = picture(50, 40)
    expected = ImageGPTImageProcessorPil(**settings)(given_, return_tensors="np")
    found = precast.AutoImageProcessor.from_pretrained(tmp_path)(given_)
    assert set(found) == set(expected) == {"input_ids"}
    np.testing.assert_array_equal(found["input_ids"], expected["input_ids"])


def test_the_auto_class_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="has no image processor: its model reads no pictures"):
        precast.AutoImageProcessor.from_pretrained(tiny_artifacts.artifact("fill-mask"))
    with pytest.raises(InputError, match="has no tokenizer: its model reads no texts"):
        precast.AutoTokenizer.from_pretrained(tiny_artifacts.pictures("vit"))
    write_json(tmp_path / "config.json", {"model_type": "vit"})
    with pytest.raises(InputError, match="no image processor that is known here: its checkpoint came without"):
        precast.AutoImageProcessor.from_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text("{")
    with pytest.raises(precast.PrecastError, match=r"preprocessor_config.json cannot be read"):
        read_folder(tmp_path, "vit")
    with pytest.raises(InputError, match=r"made by AutoImageProcessor\.from_pretrained"):
        precast.AutoImageProcessor()


def test_the_auto_class_of_every_kind_gives_what_there_is(tmp_path: Path) -> None:
    """An image processor of a model of pictures, a tokenizer of one of texts, as upstream does."""
    given_ = picture(64, 48)
    source, path = tiny_artifacts.pictures_checkpoint("vit")[0], tiny_artifacts.pictures("vit")
    expected = precast.AutoImageProcessor.from_pretrained(path)(given_).pixel_values
    for place in (source, path):
        np.testing.assert_array_equal(precast.AutoProcessor.from_pretrained(place)(given_).pixel_values, expected)
    texts = tiny_artifacts.artifact("fill-mask")
    found = precast.AutoProcessor.from_pretrained(texts)("Hello world")["input_ids"]
    assert found == precast.AutoTokenizer.from_pretrained(texts)("Hello world")["input_ids"]
    both = precast.AutoProcessor.from_pretrained(tiny_artifacts.pictures("clip"))
    made = both(text=["a cat", "two"], images=given_)
    assert made.pixel_values.shape[0] == 1 and made.input_ids.shape[0] == 2
    write_json(tmp_path / "config.json", {"model_type": "vit"})
    with pytest.raises(InputError, match=r"has no tokenizer files .* has no image processor that is known here"):
        precast.AutoProcessor.from_pretrained(tmp_path)


def test_frames_are_one_input_together() -> None:
    settings: dict[str, Any] = {"size": {"shortest_edge": 30}, "crop_size": {"height": 24, "width": 24}}
    theirs = VideoMAEImageProcessorPil(**settings)
    mine = ours({"image_processor_type": "VideoMAEImageProcessor", **settings})
    frames = [picture(50, 40, seed=seed) for seed in range(6)]
    for given_ in (frames[0], frames[:3], [frames[:3], frames[3:]]):
        expected = theirs(given_, return_tensors="np")["pixel_values"]
        np.testing.assert_array_equal(mine(given_)["pixel_values"], expected)
    with pytest.raises(InputError, match="A video needs at least one frame"):
        mine([frames, []])
    with pytest.raises(InputError, match=r"become one size; received some that become \[\(2, 3, 24, 24\), \(4, 3"):
        mine([frames[:2], frames[2:]])


PAIRS: dict[str, Any] = {
    "LightGlueImageProcessor": LightGlueImageProcessorPil,
    "SuperGlueImageProcessor": SuperGlueImageProcessorPil,
}


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("settings", [{}, {"size": {"height": 37, "width": 23}, "do_grayscale": False}], ids=str)
def test_two_pictures_are_one_input_together(name: str, settings: dict[str, Any]) -> None:
    theirs = PAIRS[name](**settings)
    mine = ours({"image_processor_type": name, **settings})
    pictures = [picture(50, 40, seed=seed) for seed in range(3)]
    pictures.append(picture(30, 50, "L").convert("RGB"))  # grey already
    for given_ in (pictures[:2], [pictures[:2], pictures[2:]]):
        expected = theirs(given_, return_tensors="np")["pixel_values"]
        found = mine(given_)["pixel_values"]
        assert found.shape == expected.shape and found.dtype == expected.dtype == np.float32
        np.testing.assert_array_equal(found, expected)
    for wrong in (pictures[:3], pictures[0], [pictures[:2], pictures[:1]]):
        with pytest.raises(InputError, match=r"A pair is a list of two pictures, .* received [13]"):
            mine(wrong)


def test_colours_are_upstreams() -> None:
    rng = np.random.default_rng(0)
    settings: dict[str, Any] = {"clusters": (2 * rng.random((64, 3)) - 1).tolist(), "size": {"height": 12, "width": 9}}
    apart = {f"{name}ImageProcessor" for name in ("Donut", "ImageGPT", "Owlv2", "Pix2Struct")}
    apart |= {f"{name}ImageProcessor" for name in ("Idefics3", "LlavaNext", "SmolVLM")}  # test_tiles.py
    assert set(KINDS) == {*UPSTREAM, *PAIRS, *apart}
    for more in ({}, {"do_normalize": False, "resample": 3}):
        theirs = ImageGPTImageProcessorPil(**settings, **more)
        mine = ours({"image_processor_type": "ImageGPTImageProcessor", **settings, **more}, "imagegpt")
        for number, (width, height) in enumerate(SIZES):
            given_ = picture(width, height, seed=number)
            expected = theirs(given_, return_tensors="np")["input_ids"]
            found = ImageProcessor(mine.steps)(given_)
            assert list(found) == ["input_ids"] and found["input_ids"].dtype == np.int64
            np.testing.assert_array_equal(found["input_ids"], expected)
    with pytest.raises(ConfigError, match="clusters must be a list of 1 to 65536 colours of three numbers"):
        ours({"image_processor_type": "ImageGPTImageProcessor", "clusters": [[1, 2]]}, "imagegpt")
    with pytest.raises(UnsupportedModelError, match="no do_color_quantize"):
        ours({"image_processor_type": "ImageGPTImageProcessor", "do_color_quantize": False}, "imagegpt")
