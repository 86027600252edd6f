"""Mask generation against upstream's pipeline over the same checkpoint; and prompts of the model itself."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from sklearn.datasets import load_sample_image
from support import tiny_artifacts
from support.command_line import good
from transformers.models.sam.image_processing_pil_sam import SamImageProcessorPil, _post_process_for_mask_generation

import precast
from precast.runtime.errors import InputError
from precast.runtime.tasks.mask_generation import _best, _mask, _runs

PHOTOGRAPHS = [
    Image.fromarray(load_sample_image("china.jpg")).crop((200, 100, 360, 220)),
    Image.fromarray(load_sample_image("flower.jpg")).crop((100, 50, 200, 190)),
]


def batched_nms(boxes: torch.Tensor, scores: torch.Tensor, idxs: torch.Tensor, iou_threshold: float) -> torch.Tensor:
    """torchvision's, which is not installed: boxes one by one."""
    assert not idxs.any()
    order, kept = torch.sort(scores, descending=True, stable=True).indices.tolist(), []
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    while order:
        best = order.pop(0)
        kept.append(best)
        rest = []
        for other in order:
            width = max(0.0, float(min(boxes[best, 2], boxes[other, 2]) - max(boxes[best, 0], boxes[other, 0])))
            height = max(0.0, float(min(boxes[best, 3], boxes[other, 3]) - max(boxes[best, 1], boxes[other, 1])))
            whole = float(area[best] + area[other]) - width * height
            if not (whole and width * height / whole > iou_threshold):
                rest.append(other)
        order = rest
    return torch.tensor(kept, dtype=torch.int64)


class Processor(SamImageProcessorPil):
    def post_process_for_mask_generation(self, *given: Any) -> Any:
        return _post_process_for_mask_generation(*given)


@pytest.fixture
def theirs(monkeypatch: pytest.MonkeyPatch) -> Any:
    modules = {name: ModuleType(name) for name in ("torchvision", "torchvision.ops", "torchvision.ops.boxes")}
    modules["torchvision.ops.boxes"].batched_nms = batched_nms  # type: ignore[attr-defined]
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    source, model = tiny_artifacts.pictures_checkpoint("sam")
    processor: Any = Processor.from_pretrained(source)
    return transformers.pipeline("mask-generation", model=model, image_processor=processor)


@pytest.fixture(scope="module")
def generate() -> Any:
    return precast.pipeline("mask-generation", tiny_artifacts.pictures("sam"))


OPTIONS: list[dict[str, Any]] = [
    {"pred_iou_thresh": 0.0, "stability_score_thresh": 0.0},
    {"pred_iou_thresh": 0.1, "stability_score_thresh": 0.2, "stability_score_offset": 0.05, "points_per_batch": 5}
    | {"crops_nms_thresh": 1.0},
    {"pred_iou_thresh": 0.0, "stability_score_thresh": 0.6, "stability_score_offset": 0.1, "mask_threshold": 0.1}
    | {"crops_nms_thresh": 1.0},
    {"pred_iou_thresh": 0.0, "stability_score_thresh": 0.0, "crops_n_layers": 1, "points_per_batch": None},
    {"pred_iou_thresh": 0.0, "stability_score_thresh": 0.0, "crops_n_layers": 1, "crop_overlap_ratio": 0.6}
    | {"crops_nms_thresh": 0.9},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_masks_are_upstreams(generate: Any, theirs: Any, options: dict[str, Any]) -> None:
    asked = {"points_per_crop": 4, "output_rle_mask": True, "output_bboxes_mask": True, **options}
    count = 0
    for picture in PHOTOGRAPHS:
        found, expected = generate(picture, **asked), theirs(picture, **asked)
        assert list(found) == ["masks", "scores", "rle_mask", "bounding_boxes"] == list(expected)
        assert len(found["masks"]) == len(expected["masks"])
        count += len(found["masks"])
        np.testing.assert_allclose(found["scores"], expected["scores"].numpy(), rtol=0, atol=1e-5)
        for one, other in zip(found["masks"], expected["masks"], strict=True):
            assert one.dtype == bool and one.shape == other.shape == picture.size[::-1]
            assert (one != other).mean() < 1e-3  # where a logit is the threshold within rounding
        off = np.abs(found["bounding_boxes"] - expected["bounding_boxes"].numpy())
        assert (off <= 1).all()
        for mask, runs, theirs_ in zip(found["masks"], found["rle_mask"], expected["rle_mask"], strict=True):
            assert runs["size"] == theirs_["size"] and sum(runs["counts"]) == mask.size
            np.testing.assert_array_equal(_mask(runs["counts"], mask.shape), mask)
    assert count >= 4


def test_a_list_of_pictures_is_a_list(generate: Any) -> None:
    asked = {"points_per_crop": 3, "pred_iou_thresh": 0.0, "stability_score_thresh": 0.0}
    every = generate(PHOTOGRAPHS, **asked)
    assert isinstance(every, list) and len(every) == 2
    for one, picture in zip(every, PHOTOGRAPHS, strict=True):
        alone = generate(image=picture, **asked)
        assert set(alone) == {"masks", "scores"}
        np.testing.assert_array_equal(one["scores"], alone["scores"])
        np.testing.assert_array_equal(one["masks"], alone["masks"])
    nothing = generate(PHOTOGRAPHS[0], points_per_crop=2, pred_iou_thresh=1e9, output_bboxes_mask=True)
    assert nothing["masks"] == [] and nothing["scores"].shape == (0,) and nothing["bounding_boxes"].shape == (0, 4)


def test_a_picture_is_seen_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model = precast.load(tiny_artifacts.pictures("sam"))
    runs: list[str] = []
    for name, part in model.flow.parts.items():

        def counted(inputs: Any, run: Any = part.runner.run, name: str = name) -> Any:
            runs.append(name)
            return run(inputs)

        monkeypatch.setattr(part.runner, "run", counted)
    generate = precast.pipeline("mask-generation", model)
    generate(PHOTOGRAPHS[0], points_per_crop=4, points_per_batch=4)
    assert runs == ["vision", *["masks"] * 4]
    runs.clear()
    pixels = model.image_processor(PHOTOGRAPHS[0])["pixel_values"]
    first = model(pixel_values=pixels, input_points=[[[[5.0, 7.0]]]])
    again = model(image_embeddings=first["image_embeddings"], input_points=[[[[5.0, 7.0]], [[20.0, 3.0]]]])
    assert runs == ["vision", "masks", "masks"]
    np.testing.assert_allclose(again["pred_masks"][:, :1], first["pred_masks"], rtol=0, atol=1e-5)
    assert first["iou_scores"].shape == (1, 1, 3) and again["pred_masks"].shape == (1, 2, 3, 16, 16)


PROMPTS: list[dict[str, Any]] = [
    {},
    {"input_points": np.array([[[[5.0, 7.0], [20.0, 3.0]]]])},
    {"input_points": np.array([[[[5.0, 7.0], [20.0, 3.0]]]]), "input_labels": np.array([[[1, 0]]])},
    {"input_points": np.array([[[[5.0, 7.0], [2.0, 3.0], [0.0, 0.0]]]]), "input_labels": np.array([[[0, -1, -10]]])},
    {"input_boxes": np.array([[[2.0, 3.0, 15.0, 20.0], [5.0, 5.0, 9.0, 23.0]]])},
    {"input_boxes": np.array([[[2.0, 3.0, 15.0, 20.0]]]), "input_points": np.array([[[[5.0, 7.0]]]])},
    {"input_masks": np.linspace(-3, 3, 256).reshape(1, 1, 16, 16), "input_points": np.array([[[[5.0, 7.0]]]])},
]


@pytest.mark.parametrize("prompts", PROMPTS, ids=lambda prompts: " ".join(prompts) or "none")
def test_prompts_that_are_left_out_are_none(prompts: dict[str, Any]) -> None:
    """Not prompts of some other kind: upstream's decoder reads fewer tokens, ours hides them."""
    _, theirs = tiny_artifacts.pictures_checkpoint("sam")
    model = precast.AutoModelForMaskGeneration.from_pretrained(tiny_artifacts.pictures("sam"))
    pixels = model.image_processor(PHOTOGRAPHS[1])["pixel_values"]
    given = {"pixel_values": pixels} | {
        name: value.astype(np.int64 if name == "input_labels" else np.float32) for name, value in prompts.items()
    }
    found = model(**given)
    with torch.no_grad():
        expected = theirs(**{name: torch.from_numpy(value) for name, value in given.items()})
    for name in ("iou_scores", "pred_masks"):
        np.testing.assert_allclose(found[name], expected[name].numpy(), rtol=0, atol=2e-5)


@pytest.mark.parametrize("prompts", PROMPTS[2:5:2], ids=lambda prompts: " ".join(prompts))
def test_one_mask_is_upstreams(prompts: dict[str, Any]) -> None:
    _, theirs = tiny_artifacts.pictures_checkpoint("sam")
    model = precast.load(tiny_artifacts.pictures("sam"))
    assert model.output_names == ("iou_scores", "pred_masks", "image_embeddings")
    pixels = model.image_processor(PHOTOGRAPHS[1])["pixel_values"]
    given = {"pixel_values": pixels} | {
        name: value.astype(np.int64 if name == "input_labels" else np.float32) for name, value in prompts.items()
    }
    found = model(**given, multimask_output=False)
    with torch.no_grad():
        expected = theirs(**{name: torch.from_numpy(value) for name, value in given.items()}, multimask_output=False)
    assert list(found) == ["iou_scores", "pred_masks", "image_embeddings"]
    for name in ("iou_scores", "pred_masks"):
        np.testing.assert_allclose(found[name], expected[name].numpy(), rtol=0, atol=2e-5)
    assert list(model(pixel_values=pixels[:1])) == list(model(**given)) == list(found)
    with pytest.raises(InputError, match="multimask_output must be True or False; received 1"):
        model(**given, multimask_output=1)


def test_on_the_command_line(generate: Any, tmp_path: Path) -> None:
    PHOTOGRAPHS[0].save(tmp_path / "china.png")
    asked = ("--param", "points_per_crop=3", "--param", "pred_iou_thresh=0", "--param", "stability_score_thresh=0")
    command = ("run", "mask-generation", tiny_artifacts.pictures("sam"), str(tmp_path / "china.png"), *asked)
    expected = generate(PHOTOGRAPHS[0], points_per_crop=3, pred_iou_thresh=0.0, stability_score_thresh=0.0)
    lines = good(*command).splitlines()
    assert len(lines) == len(expected["masks"]) and lines[0].startswith(f"{expected['scores'][0]:.4f}  ")
    found = json.loads(good(*command, "--json"))
    np.testing.assert_array_equal(found["masks"], expected["masks"])


def test_what_cannot_be_asked_for_is_refused(generate: Any) -> None:
    picture = PHOTOGRAPHS[0]
    for options, message in (
        ({"points_per_crop": 1 << 40}, "points_per_crop may be 1024 at most; received 1099511627776"),
        ({"points_per_batch": 0}, "points_per_batch must be an integer of at least 1; received 0"),
        ({"points_per_crop": 2.5}, r"points_per_crop must be an integer of at least 1; received 2\.5"),
        ({"crops_n_layers": 9}, "crops_n_layers may be 8 at most; received 9"),
        ({"pred_iou_thresh": "high"}, "pred_iou_thresh must be a number; received 'high'"),
        ({"output_rle_mask": 1}, "output_rle_mask must be True or False; received 1"),
        ({"crops_n_layers": 2, "crop_n_points_downscale_factor": 9}, "leaves no point of points_per_crop in layer 2"),
        ({"crops_n_layers": 8, "points_per_crop": 1}, "has no parts of layer"),
        ({"points_per_side": 3}, "received 'points_per_side'"),
    ):
        with pytest.raises(InputError, match=message):
            generate(picture, **options)
    with pytest.raises(InputError, match="mask-generation needs a picture"):
        generate()
    model = precast.load(tiny_artifacts.pictures("sam"))
    with pytest.raises(InputError, match="vision needs pixel_values"):
        model(input_points=[[[[5.0, 7.0]]]])
    pixels = np.zeros((1, 3, 24, 24), np.float32)
    with pytest.raises(InputError, match="prompts is one size in all inputs"):
        model(pixel_values=pixels, input_points=np.zeros((1, 2, 1, 2)), input_boxes=np.zeros((1, 3, 4)))


def test_runs_are_those_of_the_mask() -> None:
    rng = np.random.default_rng(0)
    for mask in (rng.random((7, 5)) > 0.5, np.zeros((3, 4), bool), np.ones((3, 4), bool), np.eye(1, dtype=bool)):
        runs = _runs(mask)
        assert sum(runs) == mask.size and all(length > 0 for length in runs[1:])
        np.testing.assert_array_equal(_mask(runs, mask.shape), mask)


def test_boxes_that_overlap_a_better_one_go() -> None:
    rng = np.random.default_rng(1)
    corners = rng.integers(0, 40, (200, 2))
    boxes = np.concatenate((corners, corners + rng.integers(0, 30, (200, 2))), axis=1)
    scores = rng.random(200).astype(np.float32)
    expected = batched_nms(torch.from_numpy(boxes).float(), torch.from_numpy(scores), torch.zeros(200), 0.4)
    assert _best(boxes, scores, 0.4) == expected.tolist()


def test_its_record_is_replayed() -> None:
    """What the tower makes is no output of its own."""
    report: Any = precast.verify(tiny_artifacts.pictures("sam"))
    assert {entry["status"] for entry in report["variants"].values()} == {"verified"}
