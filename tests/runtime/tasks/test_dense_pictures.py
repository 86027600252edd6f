"""Tasks that say something of every pixel of a picture, against upstream's pipelines over the same checkpoint."""

from __future__ import annotations

import base64
import io
import json
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
from transformers.models.glpn.image_processing_pil_glpn import GLPNImageProcessorPil
from transformers.models.segformer.image_processing_pil_segformer import SegformerImageProcessorPil

import precast
from precast.runtime.errors import InputError
from precast.runtime.resampling import bicubic, likeliest


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return photographs.files(tmp_path_factory.mktemp("pictures"))


def upstreams(task: str, name: str) -> Any:
    source, model = tiny_artifacts.pictures_checkpoint(name)
    kind: Any = {"segformer": SegformerImageProcessorPil, "glpn": GLPNImageProcessorPil}[name]
    return transformers.pipeline(task, model=model, image_processor=kind.from_pretrained(source))


@pytest.fixture(scope="module")
def segment() -> Any:
    return precast.pipeline("image-segmentation", tiny_artifacts.pictures("segformer"))


@pytest.fixture(scope="module")
def measure() -> Any:
    return precast.pipeline("depth-estimation", tiny_artifacts.pictures("glpn"))


@pytest.mark.parametrize(("rows", "columns"), [(8, 13), (5, 7), (40, 30), (3, 2), (1, 1), (77, 101)])
def test_maps_of_another_size_are_torchs(rows: int, columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(rows)
    scores = rng.standard_normal((6, 8, 13), dtype=np.float32)
    wide = interpolate(torch.from_numpy(scores)[None], (rows, columns), mode="bilinear")[0].numpy()
    for band in (1, 600, 1 << 22):
        monkeypatch.setattr("precast.runtime.resampling._BAND", band)
        found = likeliest(scores, rows, columns)
        assert found.shape == (rows, columns) and found.dtype == np.uint8
        np.testing.assert_allclose(np.take_along_axis(wide, found[None].astype(int), 0)[0], wide.max(0), atol=1e-5)
        assert (found == wide.argmax(0)).mean() == 1
    cubic = interpolate(torch.from_numpy(scores[:1])[None], (rows, columns), mode="bicubic")[0, 0].numpy()
    np.testing.assert_allclose(bicubic(scores[0], rows, columns), cubic, rtol=0, atol=1e-5)


def test_many_labels_want_wider_numbers() -> None:
    scores = np.zeros((300, 2, 2), np.float32)
    scores[299] = 1
    assert likeliest(scores, 3, 3).dtype == np.uint16 and (likeliest(scores, 3, 3) == 299).all()


def test_segments_are_upstreams(segment: Any, pictures: list[str]) -> None:
    theirs = upstreams("image-segmentation", "segformer")
    every = 0
    for name in pictures:
        with Image.open(name) as picture:
            size = ImageOps.exif_transpose(picture).size
        expected, found = theirs(name), segment(name)
        every += len(expected)
        assert [set(entry) for entry in found] == [set(entry) for entry in expected]
        shown = {entry["label"]: np.asarray(entry["mask"]) for entry in found}
        known = {entry["label"]: np.asarray(entry["mask"]) for entry in expected}
        assert all(entry["score"] is None for entry in found)
        assert all(entry["mask"].size == size and entry["mask"].mode == "L" for entry in found)
        # Where two labels are as likely within rounding, either is right: the margin decides, in `margins`.
        assert set(shown) == set(known)
        apart = np.zeros(next(iter(known.values())).shape, bool)
        for label, mask in known.items():
            apart |= shown[label] != mask
        assert not apart.any() or margins(theirs, name)[apart].max() < 1e-4
    assert every > len(pictures), "pictures of one segment compare nothing"


def margins(theirs: Any, name: str) -> np.ndarray:
    """How much more likely the best label is than the second one, at every pixel."""
    inputs = theirs.preprocess(name)
    with torch.no_grad():
        logits = theirs.model(pixel_values=inputs["pixel_values"]).logits
    wide = interpolate(logits, inputs["target_size"][0], mode="bilinear")[0]
    best = wide.topk(2, dim=0).values
    return (best[0] - best[1]).numpy()


def test_segments_of_several_pictures(segment: Any, pictures: list[str]) -> None:
    def plain(segments: Any) -> Any:
        return [(entry["score"], entry["label"], entry["mask"].tobytes()) for entry in segments]

    every = [plain(segments) for segments in segment(pictures)]
    assert every == [plain(segment(name)) for name in pictures]
    assert every == [plain(segments) for segments in segment(iter(pictures), batch_size=1)]
    assert plain(segment(images=pictures[0], subtask="semantic", threshold=0.1)) == every[0]
    with Image.open(pictures[0]) as picture:
        array = np.asarray(picture)
    assert plain(segment(array)) == every[0]


def test_what_segmentation_refuses(segment: Any, pictures: list[str]) -> None:
    with pytest.raises(InputError, match=r"subtask of this model must be one of semantic; received 'panoptic'"):
        segment(pictures[0], subtask="panoptic")
    with pytest.raises(InputError, match=r"mask_threshold must be a number; received 'half'"):
        segment(pictures[0], mask_threshold="half")
    with pytest.raises(InputError, match="threshold must be a number; received nan"):
        segment(pictures[0], threshold=float("nan"))
    with pytest.raises(InputError, match=r"takes the arguments subtask, .* received 'tresh"):
        segment(pictures[0], treshold=0.5)
    with pytest.raises(InputError, match="image-segmentation needs a picture"):
        segment()

    class Other:
        tasks, output_names = ("semantic-segmentation",), ("nothing",)

    with pytest.raises(InputError, match="image-segmentation knows no model whose outputs are nothing"):
        precast.pipeline("image-segmentation", Other())


def test_depths_are_upstreams(measure: Any, pictures: list[str]) -> None:
    theirs = upstreams("depth-estimation", "glpn")
    expected, found = theirs(pictures), measure(pictures)
    for one, other, name in zip(found, expected, pictures, strict=True):
        wanted = other["predicted_depth"].numpy()
        assert one["predicted_depth"].dtype == np.float32 and set(one) == set(other)
        np.testing.assert_allclose(one["predicted_depth"], wanted, rtol=0, atol=1e-4)
        assert one["depth"].size == other["depth"].size and one["depth"].mode == other["depth"].mode == "L"
        levels = np.asarray(one["depth"]).astype(int) - np.asarray(other["depth"]).astype(int)
        assert np.abs(levels).max() <= 1 and (levels != 0).mean() < 1e-2, name
        alone = measure(name)
        np.testing.assert_array_equal(alone["predicted_depth"], one["predicted_depth"])


def test_a_picture_that_is_too_small_for_its_multiple(measure: Any) -> None:
    with pytest.raises(InputError, match="A picture of 40 x 20 would become one of 32 x 0, where sides are multiples"):
        measure(np.zeros((20, 40, 3), np.uint8))


def test_sides_that_strides_do_not_divide() -> None:
    model = precast.load(tiny_artifacts.pictures("glpn"))
    with pytest.raises(InputError, match=r"height.*multiple of 8|multiples? of 8"):
        model(pixel_values=np.zeros((1, 3, 64, 77), np.float32))


def test_a_flat_depth_is_black(measure: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "compute", lambda batch, rows, parameters: {"predicted_depth": np.ones((1, 8, 8))})
    made = measure(np.zeros((64, 64, 3), np.uint8))
    assert not np.asarray(made["depth"]).any() and (made["predicted_depth"] == 1).all()


def test_on_the_command_line(segment: Any, measure: Any, pictures: list[str], tmp_path: Path) -> None:
    [line] = good("run", "image-segmentation", tiny_artifacts.pictures("segformer"), pictures[2], "--json").splitlines()
    for shown, entry in zip(json.loads(line), segment(pictures[2]), strict=True):
        head, _, content = shown["mask"].partition(",")
        assert head == "data:image/png;base64" and shown["score"] is None and shown["label"] == entry["label"]
        mask = Image.open(io.BytesIO(base64.b64decode(content)))
        np.testing.assert_array_equal(np.asarray(mask), np.asarray(entry["mask"]))
    lines = good("run", "image-segmentation", tiny_artifacts.pictures("segformer"), pictures[2]).splitlines()
    assert lines[0] == f"label: {segment(pictures[2])[0]['label']}  mask: a picture of 61 x 83"
    [line] = good("run", "depth-estimation", tiny_artifacts.pictures("glpn"), pictures[2]).splitlines()
    assert line.startswith("predicted_depth: 83x61: ") and line.endswith("  depth: a picture of 61 x 83")
