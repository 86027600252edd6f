"""Object detection against upstream's pipeline: random detectors on photographs, and one that finds what was drawn."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from sklearn.datasets import load_sample_images
from support import tiny_artifacts, trained_detector
from support.command_line import good, refused
from support.workers import once
from transformers.models.conditional_detr.image_processing_pil_conditional_detr import ConditionalDetrImageProcessorPil
from transformers.models.deformable_detr.image_processing_pil_deformable_detr import DeformableDetrImageProcessorPil
from transformers.models.detr.image_processing_pil_detr import DetrImageProcessorPil
from transformers.models.rt_detr.image_processing_pil_rt_detr import RTDetrImageProcessorPil
from transformers.models.yolos.image_processing_pil_yolos import YolosImageProcessorPil

import precast
from precast.export.exporter import export_model
from precast.export.image_kinds import KINDS
from precast.runtime.errors import ArtifactError, InputError
from precast.runtime.processors.image import ImageProcessor
from precast.runtime.processors.image_steps import Resize
from precast.runtime.tasks._boxes import Detection

DETECTORS: dict[str, Any] = {
    "yolos": YolosImageProcessorPil,
    "detr": DetrImageProcessorPil,
    "conditional_detr": ConditionalDetrImageProcessorPil,
    "deformable_detr": DeformableDetrImageProcessorPil,
    "rt_detr": RTDetrImageProcessorPil,
}


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Files: two of one size, one of them upright in what its EXIF data says, and a small grey one."""
    folder = tmp_path_factory.mktemp("photographs")
    china, flower = (Image.fromarray(each) for each in load_sample_images().images)
    exif = flower.getexif()
    exif[0x0112] = 6
    china.save(folder / "china.png")
    flower.save(folder / "flower.png", exif=exif)
    flower.resize((150, 211)).convert("L").save(folder / "small.png")
    return [str(folder / name) for name in ("china.png", "flower.png", "small.png")]


def upstreams(source: Path, kind: Any) -> Any:
    model = transformers.AutoModelForObjectDetection.from_pretrained(source, attn_implementation="eager").eval()
    return transformers.pipeline("object-detection", model=model, image_processor=kind.from_pretrained(source))


def assert_alike(ours: Sequence[Any], theirs: Sequence[Any], exact: Sequence[Any]) -> None:
    """The same objects in the same order; a corner is another pixel only where float32 cannot tell between two."""
    assert [entry["label"] for entry in ours] == [entry["label"] for entry in theirs]
    for one, other, corners in zip(ours, theirs, exact, strict=True):
        assert set(one) == set(other) == {"score", "label", "box"} and list(one["box"]) == list(other["box"])
        assert abs(one["score"] - other["score"]) < 1e-5
        for mine, wanted, edge in zip(one["box"].values(), other["box"].values(), corners, strict=True):
            assert type(mine) is int
            assert mine == wanted or (abs(mine - wanted) == 1 and abs(edge - round(edge)) < 2e-3)


def exact_corners(theirs: Any, path: str, threshold: float) -> Any:
    """Upstream's corners before they are cut to whole pixels."""
    given = theirs.preprocess(path)
    found = theirs._forward(dict(given))
    [objects] = theirs.image_processor.post_process_object_detection(found, threshold, found["target_size"])
    return objects["boxes"].tolist()


@pytest.mark.parametrize("model_type", list(DETECTORS))
def test_objects_are_upstreams(model_type: str, photographs: list[str]) -> None:
    theirs = upstreams(tiny_artifacts.detector_checkpoint(model_type), DETECTORS[model_type])
    ours = precast.pipeline("object-detection", tiny_artifacts.detector(model_type))
    for threshold in (0.0, 0.1):
        found = ours(photographs, threshold=threshold)
        for path, objects in zip(photographs, found, strict=True):
            with torch.no_grad():
                expected, exact = theirs(path, threshold=threshold), exact_corners(theirs, path, threshold)
            assert_alike(objects, expected, exact)
        assert ours(photographs[0], threshold=threshold) == found[0]
        assert any(found) or threshold, "no random object is above the threshold"
    assert [entry for entry in found[0] if entry["score"] > 0.5] == ours(images=photographs[0])


@pytest.mark.parametrize("model_type", ["detr", "deformable_detr"])
def test_pictures_padded_in_a_batch_give_what_each_gives(model_type: str) -> None:
    """The mask tells a picture from its padding."""
    source = tiny_artifacts.detector(model_type)
    model: Any = precast.AutoModelForObjectDetection.from_pretrained(source)
    upstream = transformers.AutoModelForObjectDetection.from_pretrained(
        tiny_artifacts.detector_checkpoint(model_type)
    ).eval()
    pictures = [Image.fromarray(each) for each in load_sample_images().images]
    pictures[1] = pictures[1].resize((200, 300))
    given = model.image_processor(pictures)
    assert given["pixel_mask"].shape == (2, *given["pixel_values"].shape[2:]) and not given["pixel_mask"].all()
    with torch.no_grad():
        expected = upstream(**{name: torch.from_numpy(value) for name, value in given.items()})
    found = model(**given)
    for name in ("logits", "pred_boxes"):
        np.testing.assert_allclose(found[name], expected[name].numpy(), rtol=0, atol=2e-5)
    bare = model(pixel_values=given["pixel_values"])
    assert np.abs(bare["logits"][1] - found["logits"][1]).max() > 1e-3
    np.testing.assert_array_equal(bare["logits"][0], model(pixel_values=given["pixel_values"][:1])["logits"][0])
    blind = np.zeros_like(given["pixel_mask"])
    with pytest.raises(InputError, match="every picture needs one real pixel at least; the pixel_mask of row 0 is all"):
        model(pixel_values=given["pixel_values"], pixel_mask=blind)
    # A model without masks ignores them, as upstream's.
    other = precast.load(tiny_artifacts.detector("yolos"))
    np.testing.assert_array_equal(other(**given)["logits"], other(pixel_values=given["pixel_values"])["logits"])


def test_sides_of_which_maps_halve() -> None:
    """Upstream fails within, where one map is not half the one before it; and where places are fewer than objects."""
    model = precast.load(tiny_artifacts.detector("rt_detr"))
    for height, width in ((64, 36), (4, 64)):
        with pytest.raises(InputError, match=r"(height|width).*multiple of 8"):
            model(pixel_values=np.zeros((1, 3, height, width), np.float32))
    assert model(pixel_values=np.zeros((1, 3, 64, 40), np.float32))["pred_boxes"].shape == (1, 5, 4)
    small = precast.load(tiny_artifacts.detector("deformable_detr"))
    with pytest.raises(InputError, match=r"height is 17 at least; received 8"):
        small(pixel_values=np.zeros((1, 3, 8, 64), np.float32))


POST: dict[str, Any] = {
    "ConditionalDetrImageProcessor": ConditionalDetrImageProcessorPil,
    "DeformableDetrImageProcessor": DeformableDetrImageProcessorPil,
    "DetrImageProcessor": DetrImageProcessorPil,
    "RTDetrImageProcessor": RTDetrImageProcessorPil,
    "YolosImageProcessor": YolosImageProcessorPil,
}


@pytest.mark.parametrize("kind", sorted(POST))
def test_every_class_makes_objects_as_upstreams_does(kind: str) -> None:
    rng = np.random.default_rng(1)
    logits = rng.normal(size=(70, 5)).astype(np.float32)
    boxes = rng.random((70, 4), dtype=np.float32)
    outputs = SimpleNamespace(logits=torch.from_numpy(logits[None]), pred_boxes=torch.from_numpy(boxes[None]))
    said = KINDS[kind].detection
    assert said is not None
    for threshold in (0.0, 0.4, 0.9):
        [expected] = POST[kind]().post_process_object_detection(outputs, threshold, torch.tensor([[427, 640]]))
        found = Detection.read(said)(logits, boxes, (640, 427)).above(threshold)
        np.testing.assert_array_equal(found.labels, expected["labels"].numpy())
        np.testing.assert_allclose(found.scores, expected["scores"].numpy(), rtol=0, atol=1e-6)
        np.testing.assert_allclose(found.corners, expected["boxes"].numpy(), rtol=0, atol=1e-4)
    with pytest.raises(ArtifactError, match="scores must be one of sigmoid, softmax"):
        Detection.read({"scores": "none"})


def overlap(one: dict[str, int], other: tuple[int, int, int, int]) -> float:
    """Intersection over union."""
    left, top, right, bottom = one["xmin"], one["ymin"], one["xmax"], one["ymax"]
    width = max(0, min(right, other[2]) - max(left, other[0]))
    height = max(0, min(bottom, other[3]) - max(top, other[1]))
    area = (right - left) * (bottom - top) + (other[2] - other[0]) * (other[3] - other[1])
    return width * height / (area - width * height)


def test_what_was_drawn_is_found() -> None:
    source, model = trained_detector.checkpoint()
    path = once("artifact-trained-yolos", partial(export_model, source))
    ours = precast.pipeline("object-detection", path)
    processor = YolosImageProcessorPil.from_pretrained(source)
    theirs = transformers.pipeline("object-detection", model=model, image_processor=processor)
    rng = np.random.default_rng(9)
    drawings = [trained_detector.draw(rng) for _ in range(40)]
    overlaps = []
    for drawing, objects in zip(drawings, ours([each.picture for each in drawings]), strict=True):
        picture = Image.fromarray(drawing.picture)
        assert_alike(objects, theirs(picture), exact_corners(theirs, picture, 0.5))  # type: ignore[arg-type]
        [found] = objects
        assert found["label"] == trained_detector.LABELS[drawing.label] and found["score"] > 0.9
        overlaps.append(overlap(found["box"], drawing.box))
    assert np.mean(overlaps) > 0.65 and min(overlaps) > 0.4, overlaps
    # A larger picture of the same is found at its own size.
    large = Image.fromarray(drawings[0].picture).resize((480, 480), Image.Resampling.NEAREST)
    [found] = ours(large)
    assert overlap(found["box"], tuple(10 * edge for edge in drawings[0].box)) > 0.3  # type: ignore[arg-type]


def test_arguments_are_named(photographs: list[str]) -> None:
    ours = precast.pipeline("object-detection", tiny_artifacts.detector("yolos"))
    with pytest.raises(InputError, match="threshold must be a number, mostly of 0 to 1; received 'high'"):
        ours(photographs[0], threshold="high")
    with pytest.raises(InputError, match=r"takes the arguments threshold.*; received 'top_k'"):
        ours(photographs[0], top_k=3)
    bare = ImageProcessor((Resize("nearest", height=30, width=30),))
    with pytest.raises(InputError, match="needs an image processor of a detector"):
        precast.pipeline("object-detection", tiny_artifacts.detector("yolos"), image_processor=bare)


# Drawn into pictures, on the command line.


def test_results_are_drawn(photographs: list[str], tmp_path: Path) -> None:
    source = tiny_artifacts.detector("yolos")
    common = ("run", "object-detection", source)
    expected = precast.pipeline("object-detection", source)(photographs[0], threshold=0.0)
    target = tmp_path / "out.png"
    shown = good(*common, photographs[0], "--param", "threshold=0.0", "--save", target, "--json")
    assert json.loads(shown) == expected and expected
    with Image.open(target) as drawn, Image.open(photographs[0]) as plain:
        assert drawn.size == plain.size and drawn.mode == "RGB"
        changed = np.any(np.array(drawn) != np.array(plain.convert("RGB")), axis=-1)
    assert 0 < changed.sum() < changed.size / 2
    # Several, or a folder of them, go to a folder.
    good(*common, *photographs, "--save", tmp_path / "several")
    assert sorted(path.name for path in (tmp_path / "several").iterdir()) == ["china.png", "flower.png", "small.png"]
    with Image.open(tmp_path / "several" / "flower.png") as turned:
        assert turned.size == (427, 640)
    good(*common, Path(photographs[0]).parent, "--save", tmp_path / "again")
    assert (tmp_path / "again" / "small.png").read_bytes() == (tmp_path / "several" / "small.png").read_bytes()


def test_places_that_cannot_be_written_are_told(photographs: list[str], tmp_path: Path) -> None:
    common = ("run", "object-detection", tiny_artifacts.detector("yolos"))
    missing = tmp_path / "none" / "out.png"
    assert f"there is no folder {missing.parent}" in refused(*common, photographs[0], "--save", missing)
    assert "--save writes .png" in refused(*common, photographs[0], "--save", tmp_path / "out.txt")
    assert "is an input. Name another place" in refused(*common, photographs[0], "--save", photographs[0])
    (tmp_path / "file").write_text("")
    assert "cannot write" in refused(*common, *photographs, "--save", tmp_path / "file")
    (tmp_path / "empty").mkdir()
    assert "holds no pictures" in refused(*common, tmp_path / "empty", "--save", tmp_path / "out")
    assert "give these as inputs, not on stdin" in refused(*common, "--save", tmp_path / "out")
    texts = (
        "run",
        "image-classification",
        tiny_artifacts.detector("yolos"),
        photographs[0],
        "--save",
        tmp_path / "x.png",
    )
    assert "Results of image-classification are not drawn into pictures" in refused(*texts)
    if os.geteuid():
        (tmp_path / "shut").mkdir(mode=0o500)
        assert "may not be written to" in refused(*common, photographs[0], "--save", tmp_path / "shut" / "out.png")
