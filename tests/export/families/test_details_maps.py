"""Backbones inside models of dense predictions: each kind against upstream, and what is refused of them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support.oracle import apart, float64, sources, upstream, widened

from precast.export.families import find_family
from precast.export.heads import SEMANTIC_SEGMENTATION, Head
from precast.export.reference import build
from precast.runtime.errors import ConfigError


def inner(model_type: str, **values: Any) -> dict[str, Any]:
    return {**find_family(model_type).tiny, "model_type": model_type, **values}


def equals_upstream(model_type: str, head: Head, shape: tuple[int, int], **values: Any) -> None:
    config, narrow = upstream(model_type, head, values)
    model: Any = widened(narrow)
    ours = build(config, sources(model), dtype=torch.float64)
    pixels = torch.randn(2, 3, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    [output] = ours.parts[0].signature.outputs
    with float64():
        expected = model(pixels)[output]
    assert apart(ours.parts[0].module(pixels)[output], expected) <= 1


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
