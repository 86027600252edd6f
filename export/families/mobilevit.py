"""MobileViT: convolutions of ever smaller maps, the last of which are also read by attention among the same places of
all patches. https://arxiv.org/abs/2110.02178"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from precast.export import heads
from precast.export.blocks.activations import Activation, activation
from precast.export.blocks.attention import SelfAttention, head_size
from precast.export.blocks.convolution import COUNTERS, ConvNorm
from precast.export.blocks.mlp import MLP
from precast.export.blocks.norms import LayerNorm
from precast.export.families import Family, LabelSpec, vit
from precast.export.head_sets.dense import AtrousPyramid, SemanticSegmentation
from precast.export.head_sets.maps import MeanPool, map_heads
from precast.export.operators import resized
from precast.export.skeletons.backbone import Backbone
from precast.export.skeletons.encoder import PreNormLayer
from precast.export.skeletons.stack import Stack
from precast.export.spec import hf
from precast.export.weights import Rename, Rule
from precast.runtime.errors import ConfigError

__all__ = ["FAMILY", "Spec"]

_DEPTHS = (2, 4, 3)  # transformer layers of the last three stages


@dataclass(frozen=True, kw_only=True)
class Spec(LabelSpec):
    """Defaults are those of the small model."""

    num_channels: int = hf(default=3)
    patch_size: int = hf(default=2)
    hidden_sizes: tuple[int, ...] = hf(default=(144, 192, 240), read=tuple)
    neck_hidden_sizes: tuple[int, ...] = hf(default=(16, 32, 64, 96, 128, 160, 640), read=tuple)
    num_attention_heads: int = hf(default=4)
    mlp_ratio: float = hf(default=2.0)
    expand_ratio: float = hf(default=4.0)
    hidden_act: Activation = hf(default=activation("silu"), read=activation)
    conv_kernel_size: int = hf(default=3)
    output_stride: int = hf(default=32)
    layer_norm_eps: float = hf(default=1e-5)
    qkv_bias: bool = hf(default=True)
    aspp_out_channels: int = hf(default=256)
    atrous_rates: tuple[int, ...] = hf(default=(6, 12, 18), read=tuple)

    def __post_init__(self) -> None:
        if len(self.hidden_sizes) != 3 or len(self.neck_hidden_sizes) != 7 or len(self.atrous_rates) != 3:
            raise ConfigError(
                "'hidden_sizes' are 3, 'neck_hidden_sizes' 7 and 'atrous_rates' 3; received "
                f"{len(self.hidden_sizes)}, {len(self.neck_hidden_sizes)} and {len(self.atrous_rates)}"
            )
        if self.conv_kernel_size % 2 == 0:
            raise ConfigError(f"'conv_kernel_size' is {self.conv_kernel_size}, and must be odd: maps keep their size")


class _Inverted(nn.Module):
    """narrow(depthwise(widen(x))), and x added where that has its shape. https://arxiv.org/abs/1801.04381"""

    def __init__(self, spec: Spec, channels: int, out: int, stride: int = 1, dilation: int = 1) -> None:
        super().__init__()
        wanted = round(channels * spec.expand_ratio)
        wide = max(8, int(wanted + 4) // 8 * 8)
        wide += 8 if wide < 0.9 * wanted else 0
        self.added, act = stride == 1 and channels == out, spec.hidden_act
        self.widen = ConvNorm(channels, wide, act=act)
        self.depthwise = ConvNorm(wide, wide, 3, stride=stride, groups=wide, dilation=dilation, act=act)
        self.narrow = ConvNorm(wide, out)

    def forward(self, x: Tensor) -> Tensor:
        made = self.narrow(self.depthwise(self.widen(x)))
        return x + made if self.added else made


class _Patches(nn.Module):
    """A map [B, C, H, W] through ``layers``, in which a place sees those at the same place of other patches; where
    patches do not fill the map it is enlarged, and made as small again."""

    def __init__(self, layers: Stack, patch: int) -> None:
        super().__init__()
        self.layers, self.patch = layers, patch

    def forward(self, x: Tensor) -> Tensor:
        batch, size, height, width = x.shape
        side = self.patch
        down, across = ((edge + side - 1) // side for edge in (height, width))
        grid = resized(x, multiple=side).view(batch, size, down, side, across, side)
        rows = grid.permute(0, 3, 5, 2, 4, 1).clone(memory_format=torch.contiguous_format)
        rows = self.layers(rows.view(batch * side * side, down * across, size))
        grid = rows.view(batch, side, side, down, across, size).permute(0, 5, 3, 1, 4, 2)
        grid = grid.clone(memory_format=torch.contiguous_format)
        return resized(grid.view(batch, size, down * side, across * side), x)


class _Stage(nn.Module):
    """A smaller map, and what its patches say added to it by a convolution of both."""

    def __init__(self, spec: Spec, number: int, channels: int, out: int, stride: int, dilation: int) -> None:
        super().__init__()
        hidden, kernel, act = spec.hidden_sizes[number], spec.conv_kernel_size, spec.hidden_act
        head_size(hidden, spec.num_attention_heads)

        def layer() -> PreNormLayer:
            return PreNormLayer(
                attention=SelfAttention(hidden, heads=spec.num_attention_heads, bias=spec.qkv_bias, out_bias=True),
                attention_norm=LayerNorm(hidden, spec.layer_norm_eps),
                mlp=MLP(hidden, int(hidden * spec.mlp_ratio), act),
                mlp_norm=LayerNorm(hidden, spec.layer_norm_eps),
            )

        layers = Stack((layer() for _ in range(_DEPTHS[number])), LayerNorm(hidden, spec.layer_norm_eps))
        self.down = _Inverted(spec, channels, out, stride, dilation)
        self.local = ConvNorm(out, out, kernel, act=act)
        self.into = nn.Conv2d(out, hidden, 1, bias=False)
        self.patches = _Patches(layers, spec.patch_size)
        self.back = ConvNorm(hidden, out, act=act)
        self.fusion = ConvNorm(2 * out, out, kernel, act=act)

    def forward(self, x: Tensor) -> Tensor:
        x = self.down(x)
        return self.fusion(torch.cat((x, self.back(self.patches(self.into(self.local(x))))), dim=1))


def _stages(spec: Spec) -> Iterator[nn.Module]:
    """Once maps are as small as ``output_stride`` says, gaps between what a kernel reads grow instead."""
    (first, second), (_, third), *others = pairwise(spec.neck_hidden_sizes[:6])
    yield nn.Sequential(_Inverted(spec, first, second))
    yield nn.Sequential(_Inverted(spec, second, third, 2), *(_Inverted(spec, third, third) for _ in range(2)))
    gaps = {8: (0, 1, 2), 16: (0, 0, 1)}.get(spec.output_stride, (0, 0, 0))
    for number, ((channels, out), gap) in enumerate(zip(others, gaps, strict=True)):
        yield _Stage(spec, number, channels, out, 1 if gap else 2, max(1, gap))


def _body(spec: Spec, last: bool = True) -> Backbone:
    *_, before, after = spec.neck_hidden_sizes
    stem = ConvNorm(spec.num_channels, spec.neck_hidden_sizes[0], 3, stride=2, act=spec.hidden_act)
    made = ConvNorm(before, after, act=spec.hidden_act) if last else None
    return Backbone(stem, _stages(spec), made, channels=spec.num_channels, stem_is_state=False)


def _segmentation(spec: Spec, absent: frozenset[str]) -> nn.Module:
    decoder = AtrousPyramid(spec.neck_hidden_sizes[5], spec.aspp_out_channels, spec.labels, spec.atrous_rates)
    return SemanticSegmentation(_body(spec, last=False), decoder)


def _weights(spec: Spec) -> tuple[Rule, ...]:
    parts = {"expand_1x1": "widen", "conv_3x3": "depthwise", "reduce_1x1": "narrow", "downsampling_layer": "down"}
    parts |= {"conv_kxk": "local", "conv_projection": "back"}
    return (
        COUNTERS,
        Rename("mobilevit.*", "*"),
        Rename("*.normalization.*", "*.norm.*"),
        Rename("conv_stem.*", "model.stem.*"),
        Rename("conv_1x1_exp.*", "model.last.*"),
        Rename("encoder.layer.{}.layer.{}.*", "model.stages.{}.{}.*"),
        Rename("encoder.layer.*", "model.stages.*"),
        *(Rename(f"model.stages.*{old}.*", f"model.stages.*{new}.*") for old, new in parts.items()),
        Rename("model.stages.{}.conv_1x1.convolution.*", "model.stages.{}.into.*"),
        vit.layer_names("model.stages.{}.transformer.layer.{}.", "model.stages.{}.patches.layers.layers.{}."),
        Rename("model.stages.{}.layernorm.*", "model.stages.{}.patches.layers.norm.*"),
        Rename("segmentation_head.aspp.convs.4.conv_1x1.*", "decoder.whole.*"),
        Rename("segmentation_head.aspp.convs.{}.*", "decoder.near.{}.*"),
        Rename("segmentation_head.aspp.project.*", "decoder.project.*"),
        Rename("segmentation_head.classifier.convolution.*", "decoder.classifier.*"),
    )


FAMILY = Family(
    spec=Spec,
    heads={
        **map_heads(_body, lambda spec: spec.neck_hidden_sizes[-1], lambda spec: MeanPool(keep=False)),
        heads.SEMANTIC_SEGMENTATION: _segmentation,
    },
    weights=_weights,
    inert=frozenset({"image_size", "aspp_dropout_prob", "semantic_loss_ignore_index"}),
    tiny={"hidden_sizes": [8, 12, 8], "neck_hidden_sizes": [4, 6, 6, 8, 10, 12, 16], "num_attention_heads": 2}
    | {"mlp_ratio": 1.5, "expand_ratio": 2.0, "aspp_out_channels": 10, "atrous_rates": [1, 2, 3], "num_labels": 5}
    | {"output_stride": 16},
    variations=(
        {"hidden_sizes": [9, 6, 9], "num_attention_heads": 3, "patch_size": 3, "output_stride": 8, "qkv_bias": False}
        | {"num_channels": 1, "hidden_act": "relu", "conv_kernel_size": 1, "layer_norm_eps": 1e-3, "num_labels": 1}
        | {"neck_hidden_sizes": [5, 5, 7, 6, 5, 9, 11], "expand_ratio": 1.0},
    ),
)
