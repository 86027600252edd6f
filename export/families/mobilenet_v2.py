"""MobileNet V2: layers that widen what they are given, convolve every channel of that, and make it narrow again.
https://arxiv.org/abs/1801.04381"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from torch import Tensor, nn

from precast.export import heads
from precast.export.blocks.convolution import COUNTERS
from precast.export.families import Family
from precast.export.families.mobilenet_v1 import MobileSpec, convolved
from precast.export.head_sets.dense import AtrousPyramid, SemanticSegmentation
from precast.export.head_sets.maps import MeanPool, map_heads
from precast.export.skeletons.backbone import Backbone
from precast.export.spec import hf
from precast.export.weights import Rename, Rule, Within

__all__ = ["FAMILY", "Spec"]

# Channels behind the stem and each layer, and the strides of the layers.
_CHANNELS = (16, 24, 24, 32, 32, 32, 64, 64, 64, 64, 96, 96, 96, 160, 160, 160, 320)
_STRIDES = (2, 1, 2, 1, 1, 2, 1, 1, 1, 1, 1, 1, 2, 1, 1, 1)
_FIRST, _LAST, _DECODED = 32, 1280, 256


@dataclass(frozen=True, kw_only=True)
class Spec(MobileSpec):
    """Defaults are those of the full width at 224 pixels."""

    depth_divisible_by: int = hf(default=8)
    expand_ratio: float = hf(default=6.0)
    output_stride: int = hf(default=32)
    first_layer_is_expansion: bool = hf(default=True)
    finegrained_output: bool = hf(default=True)

    def rounded(self, channels: int) -> int:
        """To a multiple of the divisor, but not down by more than a tenth."""
        by = self.depth_divisible_by
        made = max(self.min_depth, int(channels + by / 2) // by * by)
        return made + by if made < 0.9 * channels else made

    def width(self, channels: int) -> int:
        """Of a layer that has ``channels`` in the paper."""
        return self.rounded(round(channels * self.depth_multiplier))

    @property
    def last(self) -> int:
        """Channels of the last map."""
        return _LAST if self.finegrained_output and self.depth_multiplier < 1 else self.width(_LAST)


class _Inverted(nn.Module):
    """narrow(depthwise(widen(x))), and x added where that has its shape."""

    def __init__(self, spec: Spec, channels: int, out: int, stride: int, dilation: int) -> None:
        super().__init__()
        wide = spec.rounded(round(channels * spec.expand_ratio))
        self.added = stride == 1 and channels == out
        self.widen = convolved(spec, channels, wide)
        self.depthwise = convolved(spec, wide, wide, 3, stride=stride, groups=wide, dilation=dilation)
        self.narrow = convolved(spec, wide, out, act=False)

    def forward(self, x: Tensor) -> Tensor:
        made = self.narrow(self.depthwise(self.widen(x)))
        return x + made if self.added else made


def _stem(spec: Spec) -> nn.Module:
    wide, parts = spec.width(_FIRST), {}
    parts["first"] = convolved(spec, spec.num_channels, wide, 3, stride=2)
    if not spec.first_layer_is_expansion:
        parts["widen"] = convolved(spec, wide, wide)
    parts["depthwise"] = convolved(spec, wide, wide, 3, groups=wide)
    parts["narrow"] = convolved(spec, wide, spec.width(_CHANNELS[0]), act=False)
    made = nn.Sequential()
    for name, part in parts.items():
        made.add_module(name, part)
    return made


def _layers(spec: Spec) -> Iterator[nn.Module]:
    """Once maps are as small as ``output_stride`` says, gaps between what a kernel reads grow instead."""
    total, dilation = 2, 1
    for (before, after), stride in zip(pairwise(map(spec.width, _CHANNELS)), _STRIDES, strict=True):
        if total == spec.output_stride:
            yield _Inverted(spec, before, after, 1, dilation)
            dilation *= stride
        else:
            yield _Inverted(spec, before, after, stride, 1)
            total *= stride


def _body(spec: Spec, whole: bool = True) -> Backbone:
    last = convolved(spec, spec.width(_CHANNELS[-1]), spec.last) if whole else None
    return Backbone(_stem(spec), _layers(spec), last, channels=spec.num_channels, stem_is_state=False)


def _segmentation(spec: Spec, absent: frozenset[str]) -> nn.Module:
    decoder = AtrousPyramid(spec.width(_CHANNELS[-1]), _DECODED, spec.labels, whole_first=True)
    return SemanticSegmentation(_body(spec, whole=False), decoder)


def _weights(spec: Spec) -> tuple[Rule, ...]:
    parts = {"first_conv": "first", "expand_1x1": "widen", "conv_3x3": "depthwise", "reduce_1x1": "narrow"}
    names = tuple(Rename(f"{old}.*", f"{new}.*") for old, new in parts.items())
    return (
        COUNTERS,
        Rename("mobilenet_v2.*", "*"),
        Rename("*.normalization.*", "*.norm.*"),
        Within("conv_stem.", names, to="model.stem."),
        Within("layer.{}.", names, to="model.stages.{}."),
        Rename("conv_1x1.*", "model.last.*"),
        Rename("segmentation_head.classifier.convolution.*", "decoder.classifier.*"),
        Rename("segmentation_head.conv_pool.*", "decoder.whole.*"),
        Rename("segmentation_head.conv_aspp.*", "decoder.near.0.*"),
        Rename("segmentation_head.conv_projection.*", "decoder.project.*"),
    )


FAMILY = Family(
    spec=Spec,
    heads={
        **map_heads(_body, lambda spec: spec.last, lambda spec: MeanPool(keep=False)),
        heads.SEMANTIC_SEGMENTATION: _segmentation,
    },
    weights=_weights,
    inert=frozenset({"image_size", "semantic_loss_ignore_index"}),
    tiny={"depth_multiplier": 0.05, "min_depth": 4, "depth_divisible_by": 3, "expand_ratio": 2.0}
    | {"finegrained_output": False},
    variations=(
        {"tf_padding": False, "num_channels": 1, "min_depth": 5, "hidden_act": "relu", "output_stride": 8}
        | {"first_layer_is_expansion": False, "layer_norm_eps": 1e-2, "num_labels": 5}
        | {"finegrained_output": True, "depth_divisible_by": 2},
    ),
)
