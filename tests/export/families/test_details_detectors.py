"""Detectors: what T1 does not see. Backbones by timm's names, what is refused of them, masks at a map's size."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
import torch
from support.oracle import sources, upstream

from precast.export.blocks.places import LearnedPlaces, mask_at
from precast.export.families import find_family
from precast.export.heads import OBJECT_DETECTION
from precast.export.reference import build
from precast.runtime.errors import ConfigError

# ResNet-18 as transformers has it.
RESNET_18 = {"model_type": "resnet", "layer_type": "basic", "depths": [2, 2, 2, 2]}
RESNET_18 |= {"hidden_sizes": [64, 128, 256, 512], "out_features": ["stage4"]}


def timm_names(name: str) -> str:
    """timm's name of a weight of transformers' residual network."""
    for pattern, becomes in (
        (r"embedder\.embedder\.convolution", "conv1"),
        (r"embedder\.embedder\.normalization", "bn1"),
        (r"encoder\.stages\.(\d)\.layers\.(\d+)\.layer\.(\d)\.", lambda m: f"layer{int(m[1]) + 1}.{m[2]}.{m[3]}?"),
        (r"encoder\.stages\.(\d)\.layers\.(\d+)\.shortcut\.", lambda m: f"layer{int(m[1]) + 1}.{m[2]}.downsample!"),
        (r"(\d)\?convolution", lambda m: f"conv{int(m[1]) + 1}"),
        (r"(\d)\?normalization", lambda m: f"bn{int(m[1]) + 1}"),
        (r"downsample!convolution", "downsample.0"),
        (r"downsample!normalization", "downsample.1"),
    ):
        name = re.sub(pattern, becomes, name)  # type: ignore[arg-type]
    return name


@pytest.mark.parametrize("older", [False, True])
def test_a_backbone_has_timms_names(older: bool) -> None:
    """The same numbers under both names: as transformers 5 writes such a config, and as transformers 4 did."""
    config, model = upstream("detr", OBJECT_DETECTION, {"backbone_config": RESNET_18})
    plain = sources(model)
    head = "model.backbone.model."
    put = "model.backbone.conv_encoder.model." if older else head
    renamed = {
        (put + timm_names(name.removeprefix(head)) if name.startswith(head) else name): source
        for name, source in plain.items()
    }
    assert f"{put}layer2.0.downsample.1.running_var" in renamed and f"{put}layer4.1.conv2.weight" in renamed
    said: dict[str, Any] = {"backbone_config": None, "use_timm_backbone": True, "backbone": "resnet18"}
    if not older:
        inner = {"model_type": "timm_backbone", "backbone": "resnet18", "out_indices": [1, 2, 3, 4]}
        said = {"backbone_config": {**inner, "features_only": True, "use_pretrained_backbone": False}}
    pixels, mask = torch.randn(1, 3, 70, 99), torch.ones(1, 70, 99, dtype=torch.int64)
    with torch.no_grad():
        one, other = (
            made.parts[0].module(pixel_values=pixels, pixel_mask=mask)
            for made in (build(config, plain), build({**config, **said}, renamed))
        )
    for name, value in one.items():
        torch.testing.assert_close(other[name], value, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"use_timm_backbone": True, "backbone": "resnet5"}, r"backbone 'resnet5' of timm is not known.*resnet50"),
        ({"dilation": True}, "'dilation' is True, and only False is honoured"),
        (
            {"backbone_config": {"model_type": "timm_backbone", "backbone": "resnet50", "output_stride": 16}},
            "output_st",
        ),
        ({"backbone_config": {"model_type": "vit"}}, "of model_type 'vit' cannot stand inside another model"),
        ({"backbone_config": {**RESNET_18, "out_features": ["stage9"]}}, "maps are stem, stage1.*asked for are"),
        ({"backbone_config": {**RESNET_18, "out_features": []}}, "out_features and out_indices are lists"),
        ({"backbone_config": {**RESNET_18, "layer_type": "wide"}}, "'layer_type' is 'wide', and only 'basic'"),
        ({"position_embedding_type": "none"}, "only 'sine' or 'learned' is honoured"),
    ],
)
def test_what_is_not_honoured_of_a_backbone_is_told(said: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        find_family("detr").read({"model_type": "detr", **said})


# What config.json of released checkpoints has beside what their models are made of.
RELEASED: dict[str, Any] = {"classifier_dropout": 0.0, "scale_embedding": False, "max_position_embeddings": 1024}
RELEASED |= {"encoder_layerdrop": 0.0, "decoder_layerdrop": 0.0, "init_std": 0.02, "init_xavier_std": 1.0}
RELEASED |= {"use_pretrained_backbone": True, "use_timm_backbone": True, "backbone": "resnet50", "dilation": False}


@pytest.mark.parametrize(
    ("model_type", "own"),
    [
        ("detr", {}),
        ("conditional_detr", {"cls_loss_coefficient": 2, "focal_alpha": 0.25, "num_queries": 300}),
        ("table-transformer", {"backbone": "resnet18", "num_queries": 15}),
        ("deformable_detr", {"return_intermediate": True, "focal_alpha": 0.25, "num_queries": 300}),
    ],
)
def test_configs_of_released_checkpoints_are_read(model_type: str, own: dict[str, Any]) -> None:
    spec: Any = find_family(model_type).read({**RELEASED, **own, "model_type": model_type})
    assert spec.d_model == 256 and spec.inner.channels[-1] == (512 if "backbone" in own else 2048)


def test_a_mask_at_a_maps_size_is_the_nearest_pixels() -> None:
    """Each size there is of a side, and what strides leave of it: as upstream's interpolation finds them."""
    rng = np.random.default_rng(0)
    for side in (*range(1, 130), 190, 333, 800, 1066, 1201):
        mask = torch.from_numpy(rng.integers(0, 2, (2, side, 7)))
        for size in {-(-side // 32), -(-side // 16), max(1, side // 8), side}:
            wanted = torch.nn.functional.interpolate(mask[None].float(), size=(size, 3))[0]
            torch.testing.assert_close(mask_at(mask, size, 3).float(), wanted, rtol=0, atol=0)


def test_learned_places_bound_a_picture() -> None:
    bounds = LearnedPlaces(8, stride=32).bounds()
    assert bounds["height"].most == bounds["width"].most == 1600
