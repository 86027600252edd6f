"""Models of segments that queries ask for: what T1 does not see. Backbones of windows, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support.oracle import apart, float64, sources, upstream, widened

from precast.export.blocks.tables import fill_tables
from precast.export.blocks.windows import FreeWindows, Windows
from precast.export.families import find_family
from precast.export.families.maskformer import SWIN
from precast.export.heads import UNIVERSAL_SEGMENTATION
from precast.export.reference import build
from precast.runtime.errors import ConfigError

STAGES = ["stage1", "stage2", "stage3", "stage4"]


@pytest.mark.parametrize(("height", "width"), [(64, 40), (75, 51)])
def test_mask2former_stands_on_windows(height: int, width: int) -> None:
    """Whose norms have other names than those of MaskFormer's own Swin; of some stages, too."""
    said = {"backbone_config": {**SWIN, "qkv_bias": False, "out_features": STAGES[1:]}, "common_stride": 8}
    config, narrow = upstream("mask2former", UNIVERSAL_SEGMENTATION, said)
    model: Any = widened(narrow)
    ours = build(config, sources(model), dtype=torch.float64)
    pixels = torch.randn(2, 3, height, width, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    with float64():
        expected = model(pixel_values=pixels)
    with torch.no_grad():
        made = ours.parts[0].module(pixel_values=pixels)
    for name, value in made.items():
        assert apart(value, expected[name]) <= 1, name


def test_configs_of_released_checkpoints_are_read() -> None:
    """With what MaskFormer's config.json, its decoder's and its Swin's have beside what models are made of."""
    decoder = {
        "model_type": "detr",
        "scale_embedding": False,
        "max_position_embeddings": 1024,
        "classifier_dropout": 0.0,
    }
    inner = {
        "model_type": "swin",
        "depths": [2, 2, 6, 2],
        "embed_dim": 96,
        "num_heads": [3, 6, 12, 24],
        "window_size": 7,
    }
    inner |= {"in_channels": 3, "path_norm": True, "hidden_size": 768, "num_layers": 4, "drop_path_rate": 0.3}
    inner |= {"out_features": STAGES, "stage_names": ["stem", *STAGES], "encoder_stride": 32}
    said = {"backbone_config": inner, "decoder_config": decoder, "num_queries": 100, "output_auxiliary_logits": None}
    spec: Any = find_family("maskformer").read({"model_type": "maskformer", **said})
    assert spec.inner.channels == (96, 192, 384, 768) and spec.decoder.num_queries == 100
    older = {"backbone_config": inner, "enforce_input_proj": False, "num_queries": 200}
    spec = find_family("mask2former").read({"model_type": "mask2former", **older})
    assert spec.inner.strides == (4, 8, 16, 32) and spec.num_queries == 200


def test_a_released_sam_is_read() -> None:
    """Whose parts say what nothing reads: the width of the tower's MLP is ``mlp_dim``."""
    tied = {"tie_word_embeddings": True}
    vision = {**tied, "num_pos_feats": 128, "projection_dim": 512, "intermediate_size": 6144, "mlp_dim": 3072}
    vision |= {"window_size": 14, "global_attn_indexes": [2, 5, 8, 11], "initializer_range": 1e-10}
    said = {"vision_config": vision, "prompt_encoder_config": tied, "mask_decoder_config": tied}
    spec: Any = find_family("sam").read({"model_type": "sam", **said})
    assert spec.vision.mlp_dim == 3072


@pytest.mark.parametrize(("rows", "columns"), [(9, 9), (8, 5), (7, 13), (4, 4), (3, 2)])
@pytest.mark.parametrize("shift", [0, 2])
def test_windows_of_any_size_are_those_of_one(rows: int, columns: int, shift: int) -> None:
    """Each row of a grid is in the same window, beside the same ones, and hidden from the same ones."""
    fixed = Windows(rows, columns, size=4, shift=shift)
    fill_tables(fixed, torch.float64)
    grid = FreeWindows.of(torch.zeros(1, dtype=torch.float64), rows, columns, size=4, shift=shift)
    order, mask = fixed.order(), None if fixed.mask is None else fixed.mask()
    wanted = order.view(16, -1).t() if shift else order.view(-1, 16)
    torch.testing.assert_close(grid.order.view(-1, 16), wanted, rtol=0, atol=0)
    torch.testing.assert_close(grid.order[grid.back], torch.arange(rows * columns), rtol=0, atol=0)
    assert (grid.mask is None) == (mask is None)
    if grid.mask is not None:
        torch.testing.assert_close(grid.mask, mask, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("name", "said", "message"),
    [
        ("maskformer", {"use_auxiliary_loss": True}, "'use_auxiliary_loss' is True, and only False is honoured"),
        (
            "maskformer",
            {"decoder_config": {"auxiliary_loss": True}},
            "'decoder_config.auxiliary_loss' is True, and only",
        ),
        ("maskformer", {"backbone": "resnet50"}, "'backbone' is 'resnet50', and only None is honoured"),
        (
            "maskformer",
            {"backbone_config": {**SWIN, "use_absolute_embeddings": True}},
            "'use_absolute_embeddings' is true, which is not honoured inside another model",
        ),
        ("mask2former", {"backbone_config": {**SWIN, "out_features": ["stage4"]}}, "gives 1 maps, and 3 at least"),
        ("mask2former", {"feature_strides": [], "backbone_config": SWIN}, "'feature_strides' and 'common_stride' are"),
        ("mask2former", {"backbone_config": {"model_type": "vit"}}, "of model_type 'vit' cannot stand inside another"),
        ("oneformer", {"mask_dim": 128}, "'conv_dim', 'mask_dim' and 'hidden_dim' are one size"),
        ("oneformer", {"strides": []}, "'strides' and 'common_stride' are numbers from 1 on"),
        ("oneformer", {"is_training": True}, "'is_training' is True, and only False is honoured"),
        ("oneformer", {"backbone_config": {**SWIN, "out_features": ["stage4"]}}, "gives 1 maps, and 3 at least"),
        ("mask2former", {"use_timm_backbone": True}, "'use_timm_backbone' is True, and only False is honoured"),
    ],
)
def test_what_is_not_honoured_is_told(name: str, said: dict[str, Any], message: str) -> None:
    family = find_family(name)
    with pytest.raises(ConfigError, match=message):
        family.heads[UNIVERSAL_SEGMENTATION](family.read({"model_type": name, **said}), frozenset())
