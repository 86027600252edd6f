"""Keypoint matching against upstream's pipeline and post-processing over the same checkpoint; keypoints of the model
itself; and matches drawn."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from support import tiny_artifacts, trained_matcher
from support.command_line import good, refused
from transformers.models.lightglue.image_processing_pil_lightglue import LightGlueImageProcessorPil
from transformers.models.superglue.image_processing_pil_superglue import SuperGlueImageProcessorPil
from transformers.models.superpoint.image_processing_pil_superpoint import SuperPointImageProcessorPil

import precast
from precast.runtime.artifact import Artifact
from precast.runtime.drawing import drawing
from precast.runtime.errors import InputError
from precast.runtime.keypoints import Matching, Selection

PROCESSORS: dict[str, Any] = {"lightglue": LightGlueImageProcessorPil, "superglue": SuperGlueImageProcessorPil}
PAIR = [Image.fromarray(one) for one in trained_matcher.pair()]
# A pair of other sizes than the model's, and each of another.
OTHER = [PAIR[0].resize((250, 150)), PAIR[1].resize((120, 200)).convert("L")]
SQUARE = [one.resize((160, 160)) for one in PAIR]


@pytest.fixture(scope="module", params=PROCESSORS)
def both(request: pytest.FixtureRequest) -> tuple[Any, Any]:
    """Our pipeline and upstream's."""
    source, model = tiny_artifacts.pictures_checkpoint(request.param)
    processor = PROCESSORS[request.param].from_pretrained(source)
    theirs = transformers.pipeline("keypoint-matching", model=model, image_processor=processor)
    return precast.pipeline("keypoint-matching", tiny_artifacts.pictures(request.param)), theirs


def same(found: list[dict[str, Any]], expected: list[dict[str, Any]]) -> None:
    """But for the order of scores that are alike within rounding."""
    assert len(found) == len(expected)
    scores = [one["score"] for one in found]
    assert scores == sorted(scores, reverse=True)
    np.testing.assert_allclose(scores, [one["score"] for one in expected], rtol=0, atol=1e-5)

    def key(one: dict[str, Any]) -> tuple[Any, ...]:
        return tuple(one[f"keypoint_image_{number}"][axis] for number in (0, 1) for axis in "xy")

    assert sorted(map(key, found)) == sorted(map(key, expected))
    assert all(type(one["keypoint_image_0"]["x"]) is int and type(one["score"]) is float for one in found)


def test_matches_are_upstreams(both: tuple[Any, Any]) -> None:
    ours, theirs = both
    for threshold in (0.0, 0.6):
        found = ours(SQUARE, threshold=threshold)
        assert len(found) >= 10 and list(found[0]) == ["keypoint_image_0", "keypoint_image_1", "score"]
        same(found, theirs(SQUARE, threshold=threshold))
    # One pair in a list is that pair, as upstream's; several are a list.
    same(ours([SQUARE]), theirs([SQUARE]))
    several, expected = ours([SQUARE, SQUARE[::-1]]), theirs([SQUARE, SQUARE[::-1]])
    assert len(several) == 2
    for one, other in zip(several, expected, strict=True):
        same(one, other)


@pytest.mark.parametrize("pair", [PAIR, OTHER], ids=["own size", "other sizes"])
def test_places_are_pixels_of_each_picture(both: tuple[Any, Any], pair: list[Image.Image]) -> None:
    """As upstream's post-processing gives them of heights and widths. Its pipeline says widths and heights instead, so
    that of pictures that are not square it gives places that may lie outside of them."""
    ours, theirs = both
    upright = [one.convert("RGB") for one in pair]
    inputs = theirs.image_processor(upright, return_tensors="pt")
    with torch.no_grad():
        outputs = theirs.model(**inputs)
    sizes = [[one.size[::-1] for one in pair]]
    [made] = theirs.image_processor.post_process_keypoint_matching(outputs, sizes, threshold=0.1)
    expected = [
        {"keypoint_image_0": dict(zip("xy", one, strict=True)), "keypoint_image_1": dict(zip("xy", other, strict=True))}
        | {"score": score}
        for one, other, score in zip(*(made[name].tolist() for name in made), strict=True)
    ]
    found = ours(pair, threshold=0.1)
    same(found, sorted(expected, key=lambda one: -one["score"]))
    for number, picture in enumerate(pair):
        places = np.array([list(one[f"keypoint_image_{number}"].values()) for one in found])
        assert (places >= 0).all() and (places < picture.size).all()
    if pair is PAIR:
        moved = [[one["keypoint_image_0"][axis] - one["keypoint_image_1"][axis] for axis in "xy"] for one in found[:30]]
        # A place that is rounded down twice, in two pictures, may be one pixel off.
        near = np.abs(np.array(moved) - trained_matcher.SHIFT[::-1]).max(axis=1) <= 1
        assert len(found) >= 30 and near.mean() >= 0.9
    # The same numbers as the pipeline's, were it given heights and widths.
    turned = theirs(upright, threshold=0.1)
    assert len(turned) == len(found)


def test_a_stream_of_pairs_is_answered_one_by_one(both: tuple[Any, Any]) -> None:
    ours, _ = both
    stream = ours(iter([tuple(SQUARE), tuple(SQUARE[::-1])]), batch_size=2)
    assert [len(one) for one in stream] == [len(ours(SQUARE)), len(ours(SQUARE[::-1]))]


def test_keypoints_of_pictures_are_upstreams() -> None:
    source, theirs = tiny_artifacts.pictures_checkpoint("superpoint")
    path = tiny_artifacts.pictures("superpoint")
    processor: Any = SuperPointImageProcessorPil.from_pretrained(source)
    pixels = processor(PAIR, return_tensors="np")["pixel_values"]
    theirs.keypoint_decoder.keypoint_threshold, theirs.keypoint_decoder.max_keypoints = 0.05, 200
    pixels[1, :, :, 60:] *= 0.02
    model = precast.AutoModelForKeypointDetection.from_pretrained(path)
    np.testing.assert_array_equal(model.image_processor(PAIR)["pixel_values"][0], pixels[0])
    with torch.no_grad():
        expected = theirs(pixel_values=torch.from_numpy(pixels))
    for variant in Artifact.open(path).component_for(None).variants:
        one: Any = precast.load(path, variant=variant)
        one.selection = one.selection._replace(above=0.05, most=200)  # the second has fewer
        found = one(pixel_values=pixels)
        assert list(found) == ["keypoints", "scores", "descriptors", "mask"]
        for name, value in found.items():
            theirs_ = expected[name].numpy()
            assert value.dtype == theirs_.dtype and value.shape == theirs_.shape
            np.testing.assert_allclose(value, theirs_, rtol=0, atol=0 if name in ("keypoints", "mask") else 2e-5)
    assert len(set(expected.mask.sum(dim=1).tolist())) == 2
    report: Any = precast.verify(path)
    assert {entry["status"] for entry in report["variants"].values()} == {"verified"}
    # Keypoints may be given: what the picture is like there.
    own = model(pixel_values=pixels[:1], keypoints=found.keypoints[:1, 3:5])
    assert list(own) == ["keypoints", "descriptors", "mask"]
    np.testing.assert_allclose(own.descriptors, found.descriptors[:1, 3:5], rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", PROCESSORS)
def test_outputs_of_the_model_are_upstreams(name: str) -> None:
    _, theirs = tiny_artifacts.pictures_checkpoint(name)
    model = precast.AutoModelForKeypointMatching.from_pretrained(tiny_artifacts.pictures(name))
    pixels = model.image_processor(PAIR)["pixel_values"]
    with torch.no_grad():
        expected = theirs(pixel_values=torch.from_numpy(pixels))
    found = model(pixel_values=pixels)
    assert set(found) == {key for key in expected if key != "loss"}
    for key, value in found.items():
        theirs_ = expected[key].numpy()
        assert value.shape == theirs_.shape, key
        np.testing.assert_allclose(value, theirs_, rtol=0, atol=1e-5 if key == "matching_scores" else 0, err_msg=key)
        assert key == "matches" or value.dtype == theirs_.dtype, key
    assert (found.matches >= 0).sum() >= 60
    report: Any = precast.verify(model.path)
    assert {entry["status"] for entry in report["variants"].values()} == {"verified"}
    costs = [entry.work for part in model.artifact.components.values() for entry in part.variants.values()]
    assert costs and all(cost["flops"] and cost["uncounted"] == [] for cost in costs)


def test_a_picture_without_keypoints_has_none() -> None:
    """As upstream's where no picture of a call has any."""
    blank = np.zeros((1, 2, 3, 32, 40), np.float32)
    for name in ("superpoint", *PROCESSORS):
        _, theirs = tiny_artifacts.pictures_checkpoint(name)
        model: Any = precast.load(tiny_artifacts.pictures(name))
        getattr(theirs, "keypoint_detector", theirs).keypoint_decoder.keypoint_threshold = 0.2
        model.selection = model.selection._replace(above=0.2)
        pixels = blank[0] if name == "superpoint" else blank
        found = model(pixel_values=pixels)
        with torch.no_grad():
            expected = theirs(pixel_values=torch.from_numpy(pixels))
        assert {key: value.shape for key, value in found.items()} == {
            key: tuple(value.shape) for key, value in expected.items() if key != "loss"
        }
        assert not found.mask.size
    # One that has none beside one that has: nothing matches.
    pixels = model.image_processor(PAIR)["pixel_values"].copy()
    pixels[:, 1] = 0
    model.selection = model.selection._replace(above=0.05)
    found = model(pixel_values=pixels)
    assert found.mask[0, 0].any() and not found.mask[0, 1].any() and (found.matches == -1).all()


def test_on_the_command_line(tmp_path: Path) -> None:
    files = [str(tmp_path / f"{name}.png") for name in ("left", "right", "third")]
    for picture, file in zip((*OTHER, PAIR[0]), files, strict=True):
        picture.convert("RGB").save(file)
    path = tiny_artifacts.pictures("lightglue")
    expected = precast.pipeline("keypoint-matching", path)([picture.convert("RGB") for picture in OTHER])
    command = ("run", "keypoint-matching", path)
    found = json.loads(good(*command, *files[:2], "--json", "--save", str(tmp_path / "drawn.png")))
    assert found == expected
    with Image.open(tmp_path / "drawn.png") as drawn:
        assert drawn.height == 200 and drawn.width > 250 + 120
    lines = good(*command, *files[:2], "--param", "threshold=0.5").splitlines()
    assert len(lines) == sum(one["score"] > 0.5 for one in expected)
    assert lines[0].startswith(f"{expected[0]['score']:.4f}  ") and "keypoint_image_1" in lines[0]
    good(*command, *files[:2], *files[1::-1], "--save", str(tmp_path / "folder"))
    assert sorted(file.name for file in (tmp_path / "folder").iterdir()) == ["left-right.png", "right-left.png"]
    assert "takes pictures in pairs, one behind the other; received 3" in refused(*command, *files)


def test_matches_are_drawn_legibly() -> None:
    """On black, white and grey, lines and ends are seen: as bright on dark, with a dark rim on bright."""
    match = {"keypoint_image_0": {"x": 20, "y": 30}, "keypoint_image_1": {"x": 60, "y": 70}}
    for ground in (0, 128, 255):
        pictures = [Image.new("L", size, ground) for size in ((100, 80), (90, 120))]
        result = [{**match, "score": score} for score in (0.1, 0.95)]
        drawn = np.asarray(drawing("keypoint-matching")(pictures, result)).astype(int)
        assert drawn.shape == (120, 194, 3)
        bare = np.asarray(drawing("keypoint-matching")(pictures, [])).astype(int)
        off = np.abs(drawn - bare).max(axis=2)
        assert off[30, 20] > 90 and off[70, 104 + 60] > 90
        # The ring around a keypoint is dark, and beside the line it is dark, too, whose own colour is bright.
        assert drawn[30, 12:29].max(axis=1).min() <= 60 and drawn[30, 20].max() >= 200
        across = drawn[35:50, 80].max(axis=1)
        assert across.max() - across.min() >= 100
    assert pictures[0].getpixel((20, 30)) == 255  # the picture itself is as it was


def test_what_is_no_pair_is_refused() -> None:
    answer = precast.pipeline("keypoint-matching", tiny_artifacts.pictures("superglue"))
    for given, message in (
        (PAIR[0], r"takes pictures in pairs; received Image: .*Give a list of two pictures"),
        ([*PAIR, PAIR[0]], "takes pictures in pairs; received 3 of them"),
        ([[*PAIR, PAIR[0]]], "takes pictures in pairs; received list"),
        ([PAIR, 5], "takes pictures in pairs; received int: 5"),
        (["a.png", "b.png"], "There is no picture 'a.png'"),
        (None, "needs a pair of pictures, or a list of pairs"),
    ):
        with pytest.raises(InputError, match=message):
            answer(given)
    for options, message in (
        ({"threshold": "high"}, "threshold must be a number; received 'high'"),
        ({"top_k": 3}, "received 'top_k'"),
    ):
        with pytest.raises(InputError, match=message):
            answer(PAIR, **options)
    model = precast.load(tiny_artifacts.pictures("superglue"))
    for inputs, message in (
        ({"pixel_values": np.zeros((1, 2, 3, 15, 40), np.float32)}, "height is 16 at least; received 15"),
        (
            {"pixel_values": np.zeros((1, 3, 3, 16, 40), np.float32)},
            r"is \[batch, 2, 3, height, width\]; received shape",
        ),
        ({"mask": np.ones((1, 2, 4), np.int64)}, "'pixel_values' is needed; received: mask"),
        ({}, "'pixel_values' is needed; received: nothing"),
    ):
        with pytest.raises(InputError, match=message):
            model(**inputs)


def test_keypoints_are_the_largest_around() -> None:
    """Against every pixel's window, one by one."""
    rng = np.random.default_rng(0)
    scores = rng.permutation(30 * 40).reshape(30, 40).astype(np.float32) / 1200
    places, found = Selection(above=0.2, radius=2, border=3)(scores)
    first = {(x, y) for y in range(30) for x in range(40) if scores[y, x] == _around(scores, y, x, 2)}
    kept = {(int(x), int(y)) for x, y in places}
    assert {(x, y) for x, y in first if x >= 3 and y >= 3 and scores[y, x] > 0.2} <= kept
    assert (places >= 3).all() and (found > 0.2).all() and places.dtype == np.float32
    # None lies within another's reach, and they come row by row.
    assert all(max(abs(x - u), abs(y - v)) > 2 for x, y in kept for u, v in kept if (x, y) != (u, v))
    assert [tuple(one) for one in places[:, ::-1]] == sorted(tuple(one) for one in places[:, ::-1])
    fewer, best = Selection(above=0.2, radius=2, border=3, most=5)(scores)
    np.testing.assert_array_equal(best, np.sort(found)[::-1][:5])
    assert len(fewer) == 5 and len(Selection(above=2.0, radius=0, border=0)(scores)[0]) == 0
    assert len(Selection(above=-1.0, radius=0, border=0)(scores)[0]) == scores.size


def _around(scores: np.ndarray, y: int, x: int, radius: int) -> Any:
    return scores[max(0, y - radius) : y + radius + 1, max(0, x - radius) : x + radius + 1].max()


def test_matches_are_mutual() -> None:
    sure = np.array([[[0.9, 0.2, 0.0], [0.8, 0.3, 0.01], [0.0, 0.0, 0.05]]], np.float32)
    with np.errstate(divide="ignore"):
        sure = np.maximum(np.log(sure), np.float32(-110))
    matches, scores = Matching(above=0.1)(sure)
    assert matches.tolist() == [[[0, -1, -1], [0, -1, -1]]]
    np.testing.assert_allclose(scores, [[[0.9, 0, 0.05], [0.9, 0, 0.05]]], rtol=1e-6)
    np.testing.assert_allclose(Matching(above=0.1, hides=True)(sure)[1], [[[0.9, 0, 0], [0.9, 0, 0]]], rtol=1e-6)
