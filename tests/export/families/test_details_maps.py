"""Backbones inside models of dense predictions: each kind against upstream, and what is refused of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from support.lowering import held, lower
from support.oracle import apart, float64, sources, upstream, widened

from precast.export import parity
from precast.export.families import find_family
from precast.export.heads import BASE, DEPTH_ESTIMATION, OBJECT_DETECTION, SEMANTIC_SEGMENTATION, Head
from precast.export.reference import build
from precast.runtime.errors import ConfigError


def inner(model_type: str, **values: Any) -> dict[str, Any]:
    own = {key: value for key, value in find_family(model_type).tiny.items() if key != "out_indices"}
    return {**own, "model_type": model_type, **values}


def equals_upstream(model_type: str, head: Head, shape: tuple[int, int], **values: Any) -> None:
    config, narrow = upstream(model_type, head, values)
    model: Any = widened(narrow)
    ours = build(config, sources(model), dtype=torch.float64)
    pixels = torch.randn(2, 3, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    with float64():
        expected = model(pixels)
    for output, made in ours.parts[0].module(pixels).items():
        assert apart(made, expected[output]) <= 1, output


@pytest.mark.parametrize(
    "backbone",
    [
        inner("resnet", out_features=["stem", "stage2"]),
        inner("convnextv2", out_features=["stage1", "stage2"]),
        inner("bit", out_indices=[1, 2]),
        inner("swin", use_absolute_embeddings=False, depths=[2, 2], window_size=7, out_features=["stem", "stage2"]),
        inner("swinv2", out_features=["stage1", "stage2"]),
    ],
    ids=lambda backbone: backbone["model_type"],
)
def test_a_pyramid_over_stages_is_upstreams(backbone: dict[str, Any]) -> None:
    equals_upstream("upernet", SEMANTIC_SEGMENTATION, (75, 64), backbone_config=backbone, hidden_size=7)


@pytest.mark.parametrize(
    ("backbone", "message"),
    [
        (inner("swin", out_indices=[1, 2]), "'use_absolute_embeddings' is true, which is not honoured inside another"),
        (inner("poolformer"), "a backbone of model_type 'poolformer' cannot stand inside another model here"),
        (inner("dinov2", out_indices=[1, 2]), "a backbone of model_type 'dinov2' has patches of one size, and stages"),
    ],
)
def test_what_is_no_pyramid_is_refused(backbone: dict[str, Any], message: str) -> None:
    family = find_family("upernet")
    with pytest.raises(ConfigError, match=message):
        family.heads[SEMANTIC_SEGMENTATION](family.read({"backbone_config": backbone}), frozenset())


# A BiT of three stages, the last of whose sizes of stages are not there, as released.
BIT = {"model_type": "bit", "layer_type": "bottleneck", "global_padding": "SAME", "embedding_dynamic_padding": True}
BIT |= {"embedding_size": 8, "hidden_sizes": [16, 24, 32, 40], "depths": [1, 2, 1], "num_groups": 2}
BIT |= {"out_features": ["stage1", "stage2", "stage3"]}
HYBRID = {"is_hybrid": True, "backbone_config": BIT, "image_size": 64, "patch_size": 16, "num_hidden_layers": 2}
HYBRID |= {"backbone_out_indices": [0, 1, 0, 1], "neck_hidden_sizes": [16, 24, 10, 12], "fusion_hidden_size": 10}
HYBRID |= {"reassemble_factors": [1, 1, 1, 0.5], "hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 48}
HYBRID |= {"backbone_featmap_shape": [1, 32, 4, 4]}
LAYERS = {"num_hidden_layers": 2, "out_features": ["stage1", "stage2"], "reshape_hidden_states": False}
NECK = {
    "neck_hidden_sizes": [6, 8],
    "reassemble_factors": [2, 0.5],
    "fusion_hidden_size": 10,
    "readout_type": "project",
}
DEPTHS: dict[str, dict[str, Any]] = {
    "hybrid": HYBRID,
    "dinov2": {"backbone_config": inner("dinov2", **LAYERS), **NECK},
    "beit": {"backbone_config": inner("beit", **LAYERS), **NECK, "readout_type": "add"},
    "swinv2": {"backbone_config": inner("swinv2", out_features=["stage1", "stage2"]), **NECK}
    | {"neck_hidden_sizes": [16, 32], "reassemble_factors": []},
}


def shape_for(kind: str) -> tuple[int, int]:
    return (64, 64) if kind == "hybrid" else (75, 64)


@pytest.mark.parametrize("kind", DEPTHS)
def test_depth_over_a_backbone_is_upstreams(kind: str) -> None:
    equals_upstream("dpt", DEPTH_ESTIMATION, shape_for(kind), **DEPTHS[kind])


@pytest.mark.parametrize(
    ("kind", "changed", "message"),
    [
        ("hybrid", {"readout_type": "add"}, "'readout_type' is 'add', and of a hybrid only 'project' is honoured"),
        ("hybrid", {"neck_ignore_stages": [0]}, r"'neck_ignore_stages' are \(0,\), and of a hybrid always \(0, 1\)"),
        ("hybrid", {"backbone_config": {**BIT, "out_features": ["stage3"]}}, "names 1 states, and 3 are wanted"),
        ("hybrid", {"backbone_config": inner("resnet")}, "'resnet' is not honoured here; known: bit"),
        ("hybrid", {"patch_size": 8}, "a place of the backbone's last map is 16 pixels wide; 'patch_size' 8 must be"),
        ("dinov2", {"backbone_config": inner("resnet")}, "'resnet' is not honoured here; known: swinv2, beit, dinov2"),
        ("dinov2", {"backbone_config": inner("dinov2", out_indices=[1, 2])}, "'reshape_hidden_states' of 'backbone"),
        ("beit", {"backbone_config": inner("beit", add_fpn=True, **LAYERS)}, "'add_fpn' of 'backbone_config' is true"),
        ("beit", {"backbone": "dinov2"}, "'backbone' is 'dinov2', and only None is honoured here"),
    ],
)
def test_what_is_no_depth_is_refused(kind: str, changed: dict[str, Any], message: str) -> None:
    family = find_family("dpt")
    with pytest.raises(ConfigError, match=message):
        family.heads[DEPTH_ESTIMATION](family.read({**DEPTHS[kind], **changed}), frozenset())


def test_over_a_backbone_there_is_depth_alone() -> None:
    config, model = upstream("dpt", DEPTH_ESTIMATION, DEPTHS["dinov2"])
    with pytest.raises(ConfigError, match="that is not a hybrid's there is depth-estimation alone"):
        build(config, sources(model), "semantic-segmentation")


@pytest.mark.parametrize("kind", DEPTHS)
def test_graphs_of_depth_equal_reference(kind: str, tmp_path: Path) -> None:
    config, model = upstream("dpt", DEPTH_ESTIMATION, DEPTHS[kind])
    ours = build(config, sources(model))
    recorded = parity.record(ours.parts, parity.cases_for(ours.parts))
    for lowered in lower(ours.parts, tmp_path, f"dpt depth-estimation {kind}"):
        held(ours.parts, recorded, lowered)


@pytest.mark.parametrize("head", [BASE, SEMANTIC_SEGMENTATION], ids=lambda head: head.task)
def test_a_hybrid_has_every_head(head: Head) -> None:
    equals_upstream("dpt", head, shape_for("hybrid"), **HYBRID)


@pytest.mark.parametrize(
    ("kind", "changed"),
    [
        ("dinov2", {"apply_layernorm": False}),
        ("beit", {"use_relative_position_bias": False, "use_absolute_position_embeddings": True}),
        ("beit", {"use_shared_relative_position_bias": True, "layer_scale_init_value": 0.0}),
        ("swinv2", {"depths": [2, 2], "window_size": 3}),
    ],
)
def test_variations_of_a_backbone_are_upstreams(kind: str, changed: dict[str, Any]) -> None:
    said = {**DEPTHS[kind], "backbone_config": {**DEPTHS[kind]["backbone_config"], **changed}}
    equals_upstream("dpt", DEPTH_ESTIMATION, (49, 80), **{**said, "readout_type": "ignore"})


@pytest.mark.parametrize("kind", ["swin", "convnext", "bit"])
def test_a_detector_over_stages_is_upstreams(kind: str) -> None:
    changed = {"use_absolute_embeddings": False} if kind == "swin" else {}
    values = {"backbone_config": inner(kind, out_features=["stage2"], **changed)}
    config, narrow = upstream("detr", OBJECT_DETECTION, values)
    model: Any = widened(narrow)
    ours = build(config, sources(model), dtype=torch.float64)
    pixels = torch.randn(1, 3, 75, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    mask = torch.ones(1, 75, 64, dtype=torch.int64)
    with float64():
        expected = model(pixels, mask)
    for output, made in ours.parts[0].module(pixel_values=pixels, pixel_mask=mask).items():
        assert apart(made, expected[output]) <= 1, output
