"""Image to image, against what upstream's pipeline did (transformers 4.57, `pipelines/image_to_image.py`; 5 has none):
the same processor and model, and what it made of the reconstruction."""

from __future__ import annotations

import json
from base64 import b64decode
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_image
from support import tiny_artifacts
from support.command_line import good
from transformers.models.swin2sr.image_processing_pil_swin2sr import Swin2SRImageProcessorPil

import precast
from precast.runtime.errors import InputError


def photograph(name: str, *box: int) -> Image.Image:
    return Image.fromarray(load_sample_image(name)).crop(box)


PHOTOGRAPHS = [photograph("china.jpg", 200, 100, 261, 148), photograph("flower.jpg", 100, 100, 140, 171)]


@pytest.fixture(scope="module")
def enlarge() -> Any:
    return precast.pipeline("image-to-image", tiny_artifacts.pictures("swin2sr"))


def upstreams(picture: Image.Image) -> np.ndarray:
    source, model = tiny_artifacts.pictures_checkpoint("swin2sr")
    inputs = Swin2SRImageProcessorPil.from_pretrained(source)(images=[picture], return_tensors="pt")
    with torch.no_grad():
        output = model(**inputs).reconstruction[0].data.squeeze().float().cpu().clamp_(0, 1).numpy()
    return (np.moveaxis(output, source=0, destination=-1) * 255.0).round().astype(np.uint8)


def assert_alike(found: Image.Image, expected: np.ndarray) -> None:
    """Equal but where a half is rounded: one level, in a few pixels."""
    apart = np.abs(np.asarray(found).astype(int) - expected.astype(int))
    assert found.mode == "RGB" and apart.max() <= 1 and (apart > 0).mean() < 1e-3


def test_pictures_are_upstreams(enlarge: Any, tmp_path: Path) -> None:
    for picture in PHOTOGRAPHS:
        found = enlarge(picture)
        assert isinstance(found, Image.Image)
        assert found.size == tuple(2 * (side // 8 + 1) * 8 for side in picture.size)
        assert_alike(found, upstreams(picture))
    every = enlarge(PHOTOGRAPHS)
    assert isinstance(every, list)
    for found, picture in zip(every, PHOTOGRAPHS, strict=True):
        assert_alike(found, upstreams(picture))
    PHOTOGRAPHS[0].save(tmp_path / "china.png")
    assert enlarge(str(tmp_path / "china.png")) == enlarge(images=PHOTOGRAPHS[0]) == every[0]
    assert enlarge(np.asarray(PHOTOGRAPHS[0])) == every[0]


def test_the_class_is_upstreams() -> None:
    model = precast.AutoModelForImageToImage.from_pretrained(tiny_artifacts.pictures("swin2sr"))
    assert model.tasks == ("image-to-image",)
    inputs = model.image_processor(PHOTOGRAPHS[0])
    assert model(**inputs).reconstruction.shape == (1, 3, 112, 128)


def test_on_the_command_line(enlarge: Any, tmp_path: Path) -> None:
    PHOTOGRAPHS[0].save(tmp_path / "china.png")
    artifact = tiny_artifacts.pictures("swin2sr")
    address = json.loads(good("run", "image-to-image", artifact, str(tmp_path / "china.png"), "--json"))
    kind, content = address.split(",")
    assert kind == "data:image/png;base64"
    with Image.open(BytesIO(b64decode(content))) as found:
        np.testing.assert_array_equal(np.asarray(found), np.asarray(enlarge(PHOTOGRAPHS[0])))
    shown = good("run", "image-to-image", artifact, str(tmp_path / "china.png"))
    assert shown == "RGB picture of 128 x 112; --json prints its PNG\n"


def test_what_is_no_picture_is_refused(enlarge: Any) -> None:
    with pytest.raises(InputError, match="image-to-image needs a picture, or a list of them"):
        enlarge()
    with pytest.raises(InputError, match=r"There is no picture 'no\.png'"):
        enlarge("no.png")
    with pytest.raises(InputError, match="received 'top_k'"):
        enlarge(PHOTOGRAPHS[0], top_k=3)
