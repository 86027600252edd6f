"""Segments that queries ask for, panoptic, instances and semantic ones, against upstream's pipeline over the same
checkpoint."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image, ImageOps
from support import photographs, tiny_artifacts
from support.command_line import good
from torch.nn.functional import interpolate
from transformers.models.mask2former.image_processing_pil_mask2former import Mask2FormerImageProcessorPil
from transformers.models.maskformer.image_processing_pil_maskformer import MaskFormerImageProcessorPil

import precast
from precast.runtime.errors import ArtifactError, InputError
from precast.runtime.resampling import bilinear, nearest
from precast.runtime.segmentation.queries import Queries

PROCESSORS: dict[str, Any] = {"maskformer": MaskFormerImageProcessorPil, "mask2former": Mask2FormerImageProcessorPil}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A photograph, a turned one of odd sides, and one that is smaller than what is read of it."""
    return photographs.files(tmp_path_factory.mktemp("pictures"))[:3]


@pytest.fixture(scope="module", params=list(PROCESSORS))
def both(request: pytest.FixtureRequest) -> tuple[Any, Any]:
    """Our pipeline and upstream's."""
    source, model = tiny_artifacts.segmenter_checkpoint(request.param)
    processor = PROCESSORS[request.param].from_pretrained(source)
    theirs = transformers.pipeline("image-segmentation", model=model, image_processor=processor)
    return precast.pipeline("image-segmentation", tiny_artifacts.segmenter(request.param)), theirs


def unsure(theirs: Any, name: str, parameters: dict[str, Any]) -> np.ndarray:
    """Where either of two answers is right within rounding: margins decide, as upstream's outputs have them."""
    inputs = theirs.preprocess(name)
    size = inputs.pop("target_size")[0]
    with torch.no_grad():
        outputs = theirs.model(**inputs)
    labels, masks = outputs.class_queries_logits.softmax(-1)[0], outputs.masks_queries_logits
    if isinstance(theirs.image_processor, Mask2FormerImageProcessorPil):
        masks = interpolate(masks, (384, 384), mode="bilinear")
    subtask = parameters.get("subtask")
    if subtask == "instance":
        return interpolate(masks.abs().amin(1, keepdim=True), size, mode="nearest")[0, 0].numpy() < 1e-4
    if subtask == "semantic":
        scores = torch.einsum("qc,qhw->chw", labels[:, :-1], masks[0].sigmoid())
        wide = interpolate(scores[None], size, mode="bilinear")[0]
    else:
        best = labels.max(-1)
        chosen = (best.indices < labels.shape[1] - 1) & (best.values > parameters.get("threshold", 0.9))
        if not chosen.any():
            return np.zeros(size, bool)
        wide = interpolate(masks.sigmoid()[:, chosen], size, mode="bilinear")[0] * best.values[chosen, None, None]
    top = wide.topk(min(2, len(wide)), dim=0).values
    return (top[0] - top[-1]).numpy() < 1e-4 if len(wide) > 1 else np.zeros(size, bool)


def same(found: Any, expected: Any, size: tuple[int, int], unsure: np.ndarray) -> None:
    assert [entry["label"] for entry in found] == [entry["label"] for entry in expected]
    for one, other in zip(found, expected, strict=True):
        assert set(one) == set(other) and one["mask"].mode == "L" and one["mask"].size == size
        assert (one["score"] is None) == (other["score"] is None)
        assert one["score"] is None or abs(one["score"] - other["score"]) <= 1e-5
        apart = np.asarray(one["mask"]) != np.asarray(other["mask"])
        assert not (apart & ~unsure).any()


@pytest.mark.parametrize(
    "parameters",
    [
        {"overlap_mask_area_threshold": 0.1},
        {"subtask": "panoptic", "threshold": 0.2, "mask_threshold": 0.3, "overlap_mask_area_threshold": 0.1},
        {"subtask": "panoptic", "threshold": 1.0},
        {"subtask": "instance", "threshold": 0.2},
        {"subtask": "semantic"},
    ],
)
def test_segments_are_upstreams(both: tuple[Any, Any], pictures: list[str], parameters: dict[str, Any]) -> None:
    ours, theirs = both
    every = 0
    for name in pictures:
        with Image.open(name) as picture:
            size = ImageOps.exif_transpose(picture).size
        expected = theirs(name, **parameters)
        every += len(expected)
        same(ours(name, **parameters), expected, size, unsure(theirs, name, parameters))
    assert every > len(pictures) or parameters.get("threshold") == 1.0, "pictures of one segment compare nothing"


def test_labels_that_are_fused(both: tuple[Any, Any], pictures: list[str]) -> None:
    """As upstream's image processor does it where it is told to; its pipeline never does."""
    ours, theirs = both
    with Image.open(pictures[0]) as picture:
        inputs = theirs.image_processor(images=[picture], return_tensors="pt")
        size = picture.size
    with torch.no_grad():
        outputs = theirs.model(**inputs)
    plain = ours(pictures[0], threshold=0.2, overlap_mask_area_threshold=0.05)
    names = [entry["label"] for entry in plain]
    several = max(names, key=names.count)
    assert names.count(several) > 1, "no label has two segments"
    number = theirs.model.config.label2id[several]
    [known] = theirs.image_processor.post_process_panoptic_segmentation(
        outputs,
        threshold=0.2,
        overlap_mask_area_threshold=0.05,
        label_ids_to_fuse={number},
        target_sizes=[size[::-1]],
    )
    expected = [
        {
            "label": theirs.model.config.id2label[segment["label_id"]],
            "score": segment["score"],
            "mask": Image.fromarray(np.uint8(255 * (known["segmentation"] == segment["id"]).numpy())),
        }
        for segment in known["segments_info"]
    ]
    found = ours(pictures[0], threshold=0.2, overlap_mask_area_threshold=0.05, label_ids_to_fuse=[number])
    same(found, expected, size, unsure(theirs, pictures[0], {"threshold": 0.2}))
    together = [np.asarray(entry["mask"]) for entry in found if entry["label"] == several]
    assert len(together) > 1 and all((mask == together[0]).all() for mask in together)


def test_several_pictures_and_one_are_alike(both: tuple[Any, Any], pictures: list[str]) -> None:
    ours, _ = both

    def plain(segments: Any) -> Any:
        return [(entry["score"], entry["label"], entry["mask"].tobytes()) for entry in segments]

    every = [plain(segments) for segments in ours([*pictures, pictures[0]])]
    assert every == [plain(ours(name)) for name in [*pictures, pictures[0]]]


def test_what_is_refused(both: tuple[Any, Any], pictures: list[str]) -> None:
    ours, _ = both
    with pytest.raises(InputError, match=r"subtask of this model must be one of panoptic, instance, semantic; rec"):
        ours(pictures[0], subtask="depth")
    with pytest.raises(InputError, match=r"label_ids_to_fuse must be a list of numbers of labels; received int"):
        ours(pictures[0], label_ids_to_fuse=3)
    with pytest.raises(InputError, match=r"a label of label_ids_to_fuse must be an integer of at least 0; received -1"):
        ours(pictures[0], label_ids_to_fuse=[-1])
    with pytest.raises(ArtifactError, match=r"segmentation.*side.* an integer from 0 to 4096"):
        Queries().told({"side": "wide"})


def test_maps_of_another_size_are_torchs() -> None:
    rng = np.random.default_rng(0)
    maps = rng.standard_normal((3, 9, 14), dtype=np.float32)
    for size in ((9, 14), (31, 20), (4, 100), (384, 384), (1, 1)):
        wide = interpolate(torch.from_numpy(maps)[None], size, mode="bilinear")[0].numpy()
        np.testing.assert_allclose(bilinear(maps, *size), wide, rtol=0, atol=1e-5)
        near = interpolate(torch.from_numpy(maps)[None], size, mode="nearest")[0].numpy()
        rows, columns = nearest(9, size[0]), nearest(14, size[1])
        np.testing.assert_array_equal(maps[:, rows[:, None], columns], near)


def test_on_the_command_line(both: tuple[Any, Any], pictures: list[str], tmp_path: Path) -> None:
    """Segments are drawn in colours of their own, with a legend of their labels below."""
    ours, _ = both
    artifact, out = ours.model.path, tmp_path / "drawn.png"
    arguments = ("--param", "threshold=0.3", "--param", "overlap_mask_area_threshold=0.1")
    lines = good("run", "image-segmentation", artifact, pictures[0], "--save", out, *arguments).splitlines()
    found = ours(pictures[0], threshold=0.3, overlap_mask_area_threshold=0.1)
    assert len([line for line in lines if "mask: a picture of 640 x 427" in line]) == len(found) > 2
    drawn = np.asarray(Image.open(io.BytesIO(out.read_bytes())).convert("RGB"))
    assert drawn.shape[1] == 640 and drawn.shape[0] > 427
