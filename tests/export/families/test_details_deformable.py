"""Detectors that look at several maps: configs beyond those of T2, names of older checkpoints, and what is refused."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from support.oracle import TensorSource, apart, float64, sources, upstream, widened
from torch import Tensor, nn

from precast.export.families import detr, find_family, rt_detr
from precast.export.heads import BASE, OBJECT_DETECTION
from precast.export.operators import means_of_four
from precast.export.reference import build
from precast.export.skeletons.deformable import least_side, moved
from precast.export.trace import trace
from precast.runtime.errors import ConfigError

RESNET_D = {"model_type": "rt_detr_resnet", "embedding_size": 8, "hidden_sizes": [12, 16, 20], "depths": [1, 1, 2]}
BOTH = {"backbone_config": {**detr.BACKBONE, "out_features": ["stage1", "stage2"]}}
NARROW: dict[str, Any] = {"d_model": 12, "encoder_hidden_dim": 12, "encoder_attention_heads": 3}
NARROW |= {"decoder_attention_heads": 3, "num_queries": 3, "num_labels": 5, "num_denoising": 0, "decoder_layers": 1}
ACTS = {"activation_function": "relu", "encoder_activation_function": "relu", "decoder_activation_function": "gelu"}
SMALL = {"layer_norm_eps": 1e-4, "batch_norm_eps": 1e-3, "positional_encoding_temperature": 100}
ONE_MAP = {"encoder_in_channels": [20], "decoder_in_channels": [12], "encode_proj_layers": [0]}
DEEP = {**RESNET_D, "layer_type": "bottleneck", "out_features": ["stage3"], "num_channels": 1}

CASES: list[tuple[str, dict[str, Any]]] = [
    # Maps of the backbone and smaller ones behind the last; each layer moves boxes, or none does.
    ("deformable_detr", {**BOTH, "num_feature_levels": 4}),
    ("deformable_detr", {**BOTH, "num_feature_levels": 3, "with_box_refine": False, "decoder_n_points": 3}),
    ("deformable_detr", {**BOTH, "num_feature_levels": 3, "two_stage": True, "two_stage_num_proposals": 7}),
    # One map and smaller ones of it, another backbone, other numbers.
    ("rt_detr", {"backbone_config": DEEP, **ONE_MAP, **NARROW, **ACTS, **SMALL, "num_feature_levels": 3}),
    ("rt_detr", {"encoder_layers": 0, "hidden_expansion": 1.0, "num_feature_levels": 3}),
    ("rt_detr_v2", {"num_feature_levels": 3, "decoder_n_levels": 3, "decoder_n_points": 4}),
    # Its backbone inside a detector that takes odd sizes.
    ("detr", {"backbone_config": {**RESNET_D, "layer_type": "bottleneck", "out_features": ["stage3"]}}),
    ("detr", {"backbone_config": {**RESNET_D, "embedding_size": 12, "layer_type": "basic", "depths": [2, 1, 1]}}),
]


@pytest.mark.parametrize(("model_type", "said"), CASES, ids=[f"{name}-{n}" for n, (name, _) in enumerate(CASES)])
def test_outputs_are_upstreams(model_type: str, said: dict[str, Any]) -> None:
    config, narrow = upstream(model_type, OBJECT_DETECTION, said)
    model: Any = widened(narrow)
    ours = build(config, sources(model), dtype=torch.float64)
    [part] = ours.parts
    for height, width in ((96, 64), (64, 128)):
        if model_type == "detr":
            height, width = height - 7, width - 3
        generator = torch.Generator().manual_seed(height)
        channels = part.signature.ports[0].shape[1]
        inputs = {"pixel_values": torch.randn(2, channels, height, width, generator=generator, dtype=torch.float64)}
        if part.signature.port("pixel_mask"):
            inputs["pixel_mask"] = torch.ones(2, height, width, dtype=torch.int64)
            inputs["pixel_mask"][0, 41:] = inputs["pixel_mask"][0, :, 52:] = 0
        with float64():
            expected = model(**inputs)
        with torch.no_grad():
            made = part.module(**inputs)
        for name, value in made.items():
            assert apart(value, expected[name]) <= 1, f"{name}: {apart(value, expected[name]):.2f} times the gate"


def alike(config: dict[str, Any], plain: dict[str, TensorSource], renamed: dict[str, TensorSource]) -> None:
    one, other = (build(config, each).model.state_dict() for each in (plain, renamed))
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert torch.equal(value, other[name]), name


OLDER = ((r"\.o_proj\.", ".out_proj."), (r"\.mlp\.(fc\d)\.", r".\1."), (r"encoder\.aifi\.", "encoder.encoder."))


def older(name: str) -> str:
    for pattern, becomes in OLDER:
        name = re.sub(pattern, becomes, name)
    return name


@pytest.mark.parametrize("refined", [False, True])
def test_heads_are_stored_once_or_in_both_places(refined: bool) -> None:
    """As transformers 4 wrote them: beside the decoder, within it, or both; and one for all layers under one name."""
    config, model = upstream("deformable_detr", OBJECT_DETECTION, {"with_box_refine": refined})
    plain = sources(model)
    within = {name for name in plain if name.startswith("model.decoder.bbox_embed.")}
    assert bool(within) is refined
    names = {
        older(name).replace("model.backbone.", "model.backbone.conv_encoder."): value for name, value in plain.items()
    }
    assert names.keys() != plain.keys()
    alike(config, plain, names)
    for gone in (within, {name.removeprefix("model.decoder.") for name in within}):
        alike(config, plain, {name: value for name, value in names.items() if name not in gone})
    same = [name for name in names if re.match(r"(class_embed|bbox_embed)\.1\.", name)]
    once = {name: value for name, value in names.items() if name not in same or (refined and "bbox" in name)}
    assert len(once) < len(names)
    alike(config, plain, once)
    if not refined:  # a checkpoint may untie what a config ties
        generator = torch.Generator().manual_seed(3)
        other = {name: TensorSource(torch.randn(names[name].shape, generator=generator)) for name in same}
        made = build(config, {**names, **other}).model.state_dict()
        assert torch.equal(made["classifier.weight"], other["class_embed.1.weight"].tensor)


def test_names_of_older_versions() -> None:
    config, model = upstream("rt_detr", OBJECT_DETECTION)
    plain = sources(model)
    named = {older(name): value for name, value in plain.items()}
    assert any("encoder.encoder.0" in name for name in named) and any(".layers.0.fc1." in name for name in named)
    # Heads beside the decoder's own are not upstream's to read any more.
    beside = {name.removeprefix("model.decoder."): TensorSource(value.tensor + 1) for name, value in plain.items()}
    beside = {name: value for name, value in beside.items() if name.startswith(("class_embed.", "bbox_embed."))}
    assert beside
    alike(config, plain, {**named, **beside})


@pytest.mark.parametrize(
    ("model_type", "said", "message"),
    [
        ("deformable_detr", {"two_stage": True, "with_box_refine": False}, "'two_stage' is true, and only with"),
        ("deformable_detr", {**BOTH, "num_feature_levels": 1}, "'num_feature_levels' is 1, and the backbone gives 2 m"),
        (
            "rt_detr",
            {"num_feature_levels": 1},
            "backbone gives 2 maps: as many 'encoder_in_channels'.*received 2, 2 and",
        ),
        ("rt_detr", {"decoder_in_channels": [16]}, "as many 'encoder_in_channels' and 'decoder_in_channels'"),
        (
            "rt_detr",
            {"encode_proj_layers": [2]},
            r"'encode_proj_layers' are numbers of 2 maps, .*ceived \(2,\)",
        ),
        ("rt_detr", {"normalize_before": True}, "'normalize_before' is True, and only False is honoured"),
        ("rt_detr", {"eval_size": [640, 640]}, "'eval_size' is .*, and only None is honoured"),
        ("rt_detr", {"anchor_image_size": [640, 640]}, "'anchor_image_size' is .*, and only None is honoured"),
        ("rt_detr", {"learn_initial_query": True}, "'learn_initial_query' is True, and only False is honoured"),
        ("rt_detr_v2", {"decoder_method": "discrete"}, "'decoder_method' is 'discrete', and only 'default' is hon"),
        (
            "rt_detr_v2",
            {"decoder_n_levels": 3},
            "'decoder_n_levels' are the maps .* 'num_feature_levels' 2; received 3",
        ),
    ],
)
def test_what_is_not_honoured_is_told(model_type: str, said: dict[str, Any], message: str) -> None:
    family = find_family(model_type)
    with pytest.raises(ConfigError, match=message):
        family.read({"model_type": model_type, **family.tiny, **said})


def test_usual_backbones() -> None:
    """Of checkpoints that say nothing of theirs."""
    for levels, taken in ((4, (2, 3, 4)), (1, (4,))):
        spec: Any = find_family("deformable_detr").read({"model_type": "deformable_detr", "num_feature_levels": levels})
        assert spec.inner.taken == taken and spec.inner.timm and spec.inner.widths[-1] == 2048
    spec = rt_detr.FAMILY.read({"model_type": "rt_detr"})
    assert spec.inner.taken == (2, 3, 4) and spec.inner.channels == (512, 1024, 2048)


def test_proposals_are_chosen_by_heads() -> None:
    """Upstream's base model asks for heads that it has not."""
    said = {"two_stage": True, "two_stage_num_proposals": 7}
    config, model = upstream("deformable_detr", OBJECT_DETECTION, said)
    with pytest.raises(ConfigError, match="proposals are chosen by heads: export task='object-detection'"):
        build(config, sources(model), task=BASE.task)


def test_boxes_keep_their_digits_where_they_fill_a_picture() -> None:
    """Moved by 0 they are where they were, though 1 - share is nothing in float32; but no nearer to an edge than
    1e-5."""
    logits = torch.tensor([-1e4, -30.0, -11.0, -3.0, 0.0, 3.0, 11.0, 30.0, 1e4], dtype=torch.float64)
    share = torch.sigmoid(logits)
    expected = torch.log(share.clamp(min=1e-5) / (1 - share).clamp(min=1e-5))
    found = moved(logits.view(9, 1).expand(9, 4), torch.zeros(9, 4, dtype=torch.float64))
    torch.testing.assert_close(found, expected.view(9, 1).expand(9, 4), rtol=0, atol=1e-9)
    narrow = moved(logits.view(9, 1).expand(9, 4).float(), torch.zeros(9, 4))
    torch.testing.assert_close(narrow.double(), found, rtol=0, atol=1e-6)
    points = moved(logits[:8].view(4, 2), torch.zeros(4, 4, dtype=torch.float64))
    torch.testing.assert_close(points[:, 2:], torch.zeros(4, 2, dtype=torch.float64))


def test_a_picture_has_a_place_for_each_object() -> None:
    assert least_side((8, 16, 32), 300, multiple=32)["height"].least == 128
    for side in range(1, 70):
        places = sum((-(-side // stride)) ** 2 for stride in (8, 16))
        assert (least_side((8, 16), 10)["width"].least <= side) is (places >= 10)
    with pytest.raises(ConfigError, match="2097152 objects of a picture are too many"):
        least_side((8,), 1 << 21)


class Means(nn.Module):
    def forward(self, pixel_values: Tensor) -> dict[str, Tensor]:
        return {"means": means_of_four(pixel_values)}


def test_means_of_odd_sides() -> None:
    """What is left of a side is the mean of the places it has, in a graph too."""
    dynamic = {"pixel_values": {0: "batch", 2: "height", 3: "width"}}
    graph = trace(Means(), {"pixel_values": torch.zeros(2, 3, 70, 102)}, dynamic, ("means",), "means")
    session = onnxruntime.InferenceSession(ir.to_proto(graph).SerializeToString())
    for height, width in ((1, 1), (2, 3), (7, 10), (33, 41)):
        pixels = np.random.default_rng(height).standard_normal((2, 3, height, width), dtype=np.float32)
        [found] = session.run(None, {"pixel_values": pixels})
        rows = [pixels[:, :, at : at + 2].mean(2) for at in range(0, height, 2)]
        wide = np.stack(rows, axis=2)
        expected = np.stack([wide[..., at : at + 2].mean(3) for at in range(0, width, 2)], axis=3)
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)
