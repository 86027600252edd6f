"""MobileNet V1: each convolution is one of every channel and one across channels. https://arxiv.org/abs/1704.04861"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from torch import nn

from precast.export.blocks.activations import Activation, activation
from precast.export.blocks.convolution import COUNTERS, ConvNorm
from precast.export.families import Family, LabelSpec
from precast.export.head_sets.maps import MeanPool, map_heads
from precast.export.skeletons.backbone import Backbone
from precast.export.spec import hf
from precast.export.weights import Rename, Rule
from precast.runtime.errors import ConfigError

__all__ = ["FAMILY", "MobileSpec", "Spec", "convolved"]

# Channels behind the stem and each pair of layers, and the strides of the pairs.
_CHANNELS = (32, 64, 128, 128, 256, 256, *(512,) * 6, 1024, 1024)
_STRIDES = (1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1)


@dataclass(frozen=True, kw_only=True)
class MobileSpec(LabelSpec):
    """What both versions have."""

    num_channels: int = hf(default=3)
    depth_multiplier: float = hf(default=1.0)
    min_depth: int = hf(default=8)
    hidden_act: Activation = hf(default=activation("relu6"), read=activation)
    tf_padding: bool = hf(default=True)
    layer_norm_eps: float = hf(default=1e-3)

    def __post_init__(self) -> None:
        if self.depth_multiplier <= 0:
            raise ConfigError(f"'depth_multiplier' is {self.depth_multiplier}, and must be above 0")


@dataclass(frozen=True, kw_only=True)
class Spec(MobileSpec):
    """Defaults are those of the full width at 224 pixels."""

    def width(self, channels: int) -> int:
        """Of a layer that has ``channels`` in the paper."""
        return max(int(channels * self.depth_multiplier), self.min_depth)


def convolved(
    spec: MobileSpec,
    channels: int,
    out: int,
    kernel: int = 1,
    *,
    stride: int = 1,
    groups: int = 1,
    dilation: int = 1,
    act: bool = True,
) -> ConvNorm:
    """A convolution as a spec pads and norms it."""
    return ConvNorm(
        channels,
        out,
        kernel,
        stride=stride,
        groups=groups,
        dilation=dilation,
        padding=() if spec.tf_padding else dilation * ((kernel - 1) // 2),
        eps=spec.layer_norm_eps,
        act=spec.hidden_act if act else None,
    )


def _layers(spec: Spec) -> Iterator[nn.Module]:
    for (before, after), stride in zip(pairwise(_CHANNELS), _STRIDES, strict=True):
        channels = spec.width(before)
        yield convolved(spec, channels, channels, 3, stride=stride, groups=channels)
        yield convolved(spec, channels, spec.width(after))


def _body(spec: Spec) -> Backbone:
    stem = convolved(spec, spec.num_channels, spec.width(_CHANNELS[0]), 3, stride=2)
    return Backbone(stem, _layers(spec), channels=spec.num_channels, stem_is_state=False)


def _weights(spec: Spec) -> tuple[Rule, ...]:
    return (
        COUNTERS,
        Rename("mobilenet_v1.*", "*"),
        Rename("*.normalization.*", "*.norm.*"),
        Rename("conv_stem.*", "model.stem.*"),
        Rename("layer.*", "model.stages.*"),
    )


FAMILY = Family(
    spec=Spec,
    heads=map_heads(_body, lambda spec: spec.width(_CHANNELS[-1]), lambda spec: MeanPool(keep=False)),
    weights=_weights,
    inert=frozenset({"image_size"}),
    tiny={"depth_multiplier": 0.05, "min_depth": 4},
    variations=(
        {"tf_padding": False, "num_channels": 1, "depth_multiplier": 0.03, "min_depth": 5, "hidden_act": "relu"}
        | {"layer_norm_eps": 1e-2, "num_labels": 5},
    ),
)
