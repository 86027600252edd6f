"""T1 of detectors and matchers of keypoints: their components, and what the runtime chooses between them, against
upstream in float64."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from support import trained_matcher
from support.oracle import apart, float64, sources, upstream, widened

from precast.export.families import find_family
from precast.export.heads import KEYPOINT_DETECTION, KEYPOINT_MATCHING
from precast.export.reference import Part, build
from precast.runtime.errors import ConfigError
from precast.runtime.fields import Fields
from precast.runtime.keypoints import Matching, Selection, chosen, overwrite


def selected(detector: Part, maps: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    said = detector.module.processing()["keypoints"]  # type: ignore[operator]
    selection = Selection.read(Fields(said, "processing.keypoints"))
    made = chosen(selection, maps["score_map"].numpy(), maps["image_size"].numpy())
    return {**maps, **{name: torch.from_numpy(value) for name, value in made.items()}}


def computed(part: Part, given: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    with torch.no_grad():
        made: dict[str, torch.Tensor] = part.module(**{port.name: given[port.name] for port in part.signature.ports})
    return made


def variations(model_type: str) -> list[dict[str, Any]]:
    return [{}, *find_family(model_type).variations]


@pytest.mark.parametrize("index", range(2))
@pytest.mark.parametrize("size", [(1, 16, 24), (3, 75, 113), (2, 64, 64)])
def test_keypoints_are_upstreams(index: int, size: tuple[int, int, int]) -> None:
    config, narrow = upstream("superpoint", KEYPOINT_DETECTION, variations("superpoint")[index], seed=index)
    model: Any = widened(narrow)
    detector, descriptors = build(config, sources(model), dtype=torch.float64).parts
    rows, height, width = size
    pixels = torch.randn((rows, 3, height, width), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    pixels[0, :, height // 2 :] *= 0.1  # a picture with fewer keypoints
    with float64():
        expected = model(pixel_values=pixels)
    given = selected(detector, computed(detector, {"pixel_values": pixels}))
    made = given | computed(descriptors, given)
    np.testing.assert_array_equal(made["mask"], expected.mask)
    assert torch.equal(made["keypoints"], expected.keypoints) and expected.mask.sum() > rows
    # Upstream computes nothing of what fills up a picture's keypoints, and has zeros there.
    made["descriptors"] = made["descriptors"] * made["mask"][..., None]
    for name in ("scores", "descriptors"):
        assert apart(made[name], expected[name]) <= 1, name


def pictures(kind: str, rows: int = 1) -> torch.Tensor:
    """Pixels [B, 2, 3, H, W] of pairs, some of which show the same."""
    if kind == "photograph":
        both = [np.stack(trained_matcher.pair(corner=(60, 180 + 30 * row))) for row in range(rows)]
        return torch.from_numpy(np.stack(both)).permute(0, 1, 4, 2, 3).double() / 255
    pixels = torch.randn((rows, 2, 3, 75, 113), generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    if kind == "moved":
        pixels[:, 1, ..., :-16] = pixels[:, 0, ..., 16:]
    if kind == "fewer":
        pixels[:, 1, :, 30:] = 0
    return pixels


def matched(parts: Sequence[Part], pixels: torch.Tensor) -> dict[str, np.ndarray]:
    detector, matcher = parts
    given = selected(detector, computed(detector, {"pixel_values": pixels}))
    made = {**given, **computed(matcher, given)}
    said = matcher.module.processing()["matching"]  # type: ignore[operator]
    matching = Matching.read(Fields(said, "processing.matching"))
    matches, scores = matching(made["assignment"].numpy())
    found = {name: made[name].numpy() for name in ("keypoints", "mask")}
    found |= {"matches": matches, "matching_scores": scores}
    if "prune" in made:
        found["prune"] = made["prune"].numpy()
        overwrite(matches, scores, found["prune"], found["mask"])
    return found


def compare(found: dict[str, np.ndarray], expected: Any) -> None:
    """All that is of keypoints that are there."""
    np.testing.assert_array_equal(found["mask"], expected.mask)
    np.testing.assert_array_equal(found["keypoints"], expected.keypoints)
    real = torch.from_numpy(found["mask"] != 0)
    # Of pairs that never stop early upstream gives [2 * B, K].
    matches, scores = (expected[name].reshape(real.shape) for name in ("matches", "matching_scores"))
    np.testing.assert_array_equal(found["matches"][real], matches[real])
    assert apart(torch.from_numpy(found["matching_scores"])[real], scores[real]) <= 1
    if "prune" in found:
        np.testing.assert_array_equal(found["prune"], expected.prune)


CONFIGS = [(name, index) for name in ("lightglue", "superglue") for index in range(2)]


@pytest.mark.parametrize("kind", ["apart", "moved", "fewer"])
@pytest.mark.parametrize(("model_type", "index"), CONFIGS)
def test_matches_are_upstreams(model_type: str, index: int, kind: str) -> None:
    config, narrow = upstream(model_type, KEYPOINT_MATCHING, variations(model_type)[index], seed=index)
    model: Any = widened(narrow)
    pixels = pictures(kind)
    with float64():
        expected = model(pixel_values=pixels)
    compare(matched(build(config, sources(model), dtype=torch.float64).parts, pixels), expected)


@pytest.mark.parametrize(
    ("model_type", "changed"),
    [
        ("lightglue", {"num_hidden_layers": 4}),
        ("lightglue", {"num_hidden_layers": 4, "depth_confidence": 0.9}),
        ("lightglue", {"depth_confidence": -1.0, "width_confidence": -1.0}),
        ("superglue", {}),
    ],
    ids=str,
)
def test_matches_of_a_photograph_are_right(model_type: str, changed: dict[str, Any]) -> None:
    """Of a part of it and another that begins further right and down, and upstream's."""
    asked = {**trained_matcher.config(model_type), **changed}
    config, narrow = upstream(model_type, KEYPOINT_MATCHING, asked)
    trained_matcher.planted(narrow)
    model: Any = widened(narrow)
    pixels = pictures("photograph")
    with float64():
        expected = model(pixel_values=pixels)
    found = matched(build(config, sources(model), dtype=torch.float64).parts, pixels)
    compare(found, expected)
    places = np.rint(found["keypoints"][0] * trained_matcher.SIZE[::-1])
    matches = found["matches"][0, 0]
    sure = matches >= 0
    moved = places[0][sure] - places[1][matches[sure]]
    right = (moved == trained_matcher.SHIFT[::-1]).all(axis=1)
    assert sure.sum() >= 30 and right.mean() >= 0.9


def test_pairs_stop_early_and_keypoints_are_left_out() -> None:
    """At different layers, of one picture more than of the other, and upstream's last keypoint is written over then."""
    stopped, written = set[int](), 0
    for seed in range(6):
        asked = {**trained_matcher.config("lightglue"), "num_hidden_layers": 4, "depth_confidence": 0.7}
        config, narrow = upstream("lightglue", KEYPOINT_MATCHING, asked)
        trained_matcher.planted(narrow, seed)
        # Layers that change what they are given, so that what is left out is missed by the others.
        with torch.no_grad():
            for name, value in narrow.named_parameters():
                if "fc2" in name:
                    value.mul_(10)
                elif name.endswith("matchability.bias"):
                    value.fill_(1.0)
        model: Any = widened(narrow)
        pixels = pictures("photograph")
        with float64():
            expected = model(pixel_values=pixels)
        parts = build(config, sources(model), dtype=torch.float64).parts
        found = matched(parts, pixels)
        compare(found, expected)
        prune = found["prune"][found["mask"] != 0]
        stopped |= {int(prune.max())}
        left = (found["prune"] == prune.max()).sum(axis=2)[0]
        written += int(left[0] != left[1] and prune.max() > 1)
    assert len(stopped) >= 3 and written >= 2


def test_rows_of_a_batch_are_as_alone() -> None:
    """LightGlue's, whatever layer the others stop at; upstream's may come in the order in which they stop."""
    config, narrow = upstream("lightglue", KEYPOINT_MATCHING, trained_matcher.config("lightglue"))
    trained_matcher.planted(narrow, 3)
    model: Any = widened(narrow)
    parts, pixels = build(config, sources(model), dtype=torch.float64).parts, pictures("photograph", rows=3)
    whole = matched(parts, pixels)
    for row in range(3):
        with float64():
            compare(
                {name: value[row : row + 1] for name, value in whole.items()}, model(pixel_values=pixels[row, None])
            )
    # SuperGlue counts what fills up a batch, and upstream's rows are in order.
    config, narrow = upstream("superglue", KEYPOINT_MATCHING, {})
    model, pixels = widened(narrow), pictures("fewer", rows=2)
    pixels[1, 0, :, 20:] = 0
    with float64():
        expected = model(pixel_values=pixels)
    compare(matched(build(config, sources(model), dtype=torch.float64).parts, pixels), expected)


@pytest.mark.parametrize(
    ("model_type", "said", "message"),
    [
        (
            "superpoint",
            {"encoder_hidden_sizes": [4, 6, 8]},
            "'encoder_hidden_sizes' are those of four blocks.* received 3",
        ),
        ("superpoint", {"keypoint_decoder_dim": 17}, "'keypoint_decoder_dim' is 17, and only 65 is honoured"),
        ("superpoint", {"nms_radius": -1}, "'nms_radius' is a number of pixels, 0 or more; received -1"),
        ("lightglue", {"depth_confidence": -1.0}, r"are both above 0, or neither is.* received -1\.0 and 0\.5"),
        ("lightglue", {"head_dim": 5}, r"'head_dim' 5 must be 'descriptor_dim' / 'num_attention_heads', 8"),
        ("lightglue", {"num_attention_heads": 16}, "must divide 'descriptor_dim' into even parts; received 16 and 16"),
        (
            "lightglue",
            {"num_key_value_heads": 3},
            "'num_key_value_heads' divide 'num_attention_heads'; received 2, 3 and 2",
        ),
        (
            "lightglue",
            {"keypoint_detector_config": {"model_type": "disk"}},
            "'keypoint_detector_config.model_type' is 'disk'",
        ),
        ("superglue", {"hidden_size": 32}, "must be one number; received 32 and 16"),
        ("superglue", {"gnn_layers_types": ["self", "own"]}, "each is 'self' or 'cross'"),
        ("superglue", {"sinkhorn_iterations": -1}, "'sinkhorn_iterations' is 0 to 1000; received -1"),
    ],
)
def test_what_cannot_be_computed_is_refused(model_type: str, said: dict[str, Any], message: str) -> None:
    family = find_family(model_type)
    with pytest.raises(ConfigError, match=message):
        family.read({**family.tiny, **said})
