"""BiT: ResNet with group norms in front of convolutions whose kernels are standardised, which is done as they are read.
https://arxiv.org/abs/1912.11370"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

from precast.export.blocks.activations import Activation, activation
from precast.export.blocks.convolution import Convolution, GroupNorm
from precast.export.families import Family, LabelSpec
from precast.export.head_sets.maps import map_heads
from precast.export.operators import halved
from precast.export.skeletons.backbone import BACKBONE_KEYS, Backbone
from precast.export.spec import hf
from precast.export.weights import Ignore, Rename, Rule, Standardise
from precast.runtime.errors import ConfigError

__all__ = ["FAMILY", "Spec"]

_EPSILON = 1e-8  # beside the variance of a kernel


@dataclass(frozen=True, kw_only=True)
class Spec(LabelSpec):
    """Defaults are those of BiT-50. What convolutions that pad nothing make cannot be added to what they were given."""

    num_channels: int = hf(default=3)
    embedding_size: int = hf(default=64)
    hidden_sizes: tuple[int, ...] = hf(default=(256, 512, 1024, 2048), read=tuple)
    depths: tuple[int, ...] = hf(default=(3, 4, 6, 3), read=tuple)
    layer_type: str = hf(default="preactivation", only=("preactivation", "bottleneck"))
    hidden_act: Activation = hf(default=activation("relu"), read=activation)
    global_padding: str | None = hf(default=None, only=(None, "SAME", "same"))
    num_groups: int = hf(default=32)
    embedding_dynamic_padding: bool = hf(default=False)
    output_stride: int = hf(default=32)
    width_factor: int = hf(default=1, only=(1,))

    def __post_init__(self) -> None:
        if len(self.hidden_sizes) < len(self.depths):
            raise ConfigError(f"'hidden_sizes' {self.hidden_sizes} must be as many as 'depths' {self.depths}, or more")

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of what the stem makes and each stage."""
        return (self.embedding_size, *map(_rounded, self.hidden_sizes[: len(self.depths)]))

    def norm(self, channels: int, act: bool = True) -> GroupNorm:
        """As many groups as config.json says."""
        return GroupNorm(channels, self.num_groups, act=self.hidden_act if act else None)

    def convolution(self, channels: int, out: int, kernel: int = 1, stride: int = 1, dilation: int = 1) -> Convolution:
        """Without a bias, padded as config.json says."""
        padding = (stride - 1 + dilation * (kernel - 1)) // 2
        same = self.global_padding is not None and kernel > 1
        return Convolution(
            channels, out, kernel, stride=stride, dilation=dilation, padding=() if same else padding, bias=False
        )


def _rounded(channels: float) -> int:
    """To a multiple of 8, but not down by more than a tenth."""
    made = max(8, int(channels + 4) // 8 * 8)
    return made + 8 if made < 0.9 * channels else made


class _Stem(nn.Module):
    """The largest of norm(convolution(x)) in windows of 3 at every second place, zeros around it."""

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        self.convolution = spec.convolution(spec.num_channels, spec.embedding_size, 7, stride=2)
        self.norm = spec.norm(spec.embedding_size) if spec.layer_type == "bottleneck" else None
        self.around = int(spec.global_padding is None)
        self.whole = spec.embedding_dynamic_padding

    def forward(self, x: Tensor) -> Tensor:
        x = self.convolution(x)
        if self.around:
            x = F.pad(x, (1, 1, 1, 1))
        if self.norm is not None:
            x = self.norm(x)
        return halved(x) if self.whole else F.max_pool2d(x, 3, 2)


class _PreActivation(nn.Module):
    """shortcut + convolutions of what is normed in front of each; the shortcut is convolved where a stage begins."""

    def __init__(self, spec: Spec, channels: int, out: int, stride: int, dilation: int, first: bool) -> None:
        super().__init__()
        inner = _rounded(out / 4)
        self.shortcut = spec.convolution(channels, out, stride=stride) if first else None
        self.norm1, self.conv1 = spec.norm(channels), spec.convolution(channels, inner)
        self.norm2, self.conv2 = spec.norm(inner), spec.convolution(inner, inner, 3, stride)
        self.norm3, self.conv3 = spec.norm(inner), spec.convolution(inner, out)

    def forward(self, x: Tensor) -> Tensor:
        normed = self.norm1(x)
        made = self.conv3(self.norm3(self.conv2(self.norm2(self.conv1(normed)))))
        return made + (x if self.shortcut is None else self.shortcut(normed))


class _Bottleneck(nn.Module):
    """act(shortcut + convolutions, each with a norm behind it)."""

    def __init__(self, spec: Spec, channels: int, out: int, stride: int, dilation: int, first: bool) -> None:
        super().__init__()
        inner, self.act = _rounded(out / 4), spec.hidden_act
        self.shortcut = spec.convolution(channels, out, stride=stride) if first else None
        self.shortcut_norm = spec.norm(out, act=False) if first else None
        self.conv1, self.norm1 = spec.convolution(channels, inner), spec.norm(inner)
        self.conv2, self.norm2 = spec.convolution(inner, inner, 3, stride, dilation), spec.norm(inner)
        self.conv3, self.norm3 = spec.convolution(inner, out), spec.norm(out, act=False)

    def forward(self, x: Tensor) -> Tensor:
        made = self.norm3(self.conv3(self.norm2(self.conv2(self.norm1(self.conv1(x))))))
        if self.shortcut is not None and self.shortcut_norm is not None:
            x = self.shortcut_norm(self.shortcut(x))
        return self.act(made + x)


def _stages(spec: Spec) -> Iterator[nn.Module]:
    """Once maps are as small as ``output_stride`` says, gaps between what a kernel reads grow instead."""
    layer = _PreActivation if spec.layer_type == "preactivation" else _Bottleneck
    total, dilation = 4, 1
    sizes = pairwise(spec.widths)
    for number, ((channels, out), depth) in enumerate(zip(sizes, spec.depths, strict=True)):
        stride = 2 if number else 1
        if total >= spec.output_stride:
            stride, dilation = 1, dilation * stride
        total *= stride
        first = layer(spec, channels, out, stride, 1 if dilation in (1, 2) else 2, True)
        yield nn.Sequential(first, *(layer(spec, out, out, 1, dilation, False) for _ in range(depth - 1)))


def _body(spec: Spec) -> Backbone:
    last = spec.norm(spec.hidden_sizes[-1]) if spec.layer_type == "preactivation" else None
    # Of less than one place a stage, groups of two numbers are normed, which tells these apart by their rounding.
    least = max(8, spec.output_stride)
    return Backbone(_Stem(spec), _stages(spec), last, channels=spec.num_channels, least=least)


def _weights(spec: Spec) -> tuple[Rule, ...]:
    return (
        Rename("bit.*", "*"),
        Rename("classifier.1.*", "classifier.*"),
        Rename("embedder.*", "model.stem.*"),
        Rename("norm.*", "model.last.*"),
        Rename("encoder.stages.{}.layers.{}.downsample.conv.*", "model.stages.{}.{}.shortcut.*"),
        Rename("encoder.stages.{}.layers.{}.downsample.norm.*", "model.stages.{}.{}.shortcut_norm.*"),
        Rename("encoder.stages.{}.layers.{}.*", "model.stages.{}.{}.*"),
        Standardise("model.stem.convolution.weight", _EPSILON),
        Standardise("model.stages.{}.{}.conv{}.weight", _EPSILON),
        Standardise("model.stages.{}.{}.shortcut.weight", _EPSILON),
    )


FAMILY = Family(
    spec=Spec,
    heads=map_heads(_body, lambda spec: spec.hidden_sizes[-1]),
    weights=_weights,
    body=_body,
    body_names=lambda spec: (Ignore("model.last.*"),),
    inert=BACKBONE_KEYS,
    tiny={"embedding_size": 8, "hidden_sizes": [16, 24], "depths": [2, 1], "num_groups": 2}
    | {"global_padding": "SAME", "embedding_dynamic_padding": True},
    variations=(
        {"layer_type": "bottleneck", "num_channels": 1, "hidden_sizes": [8, 16, 24], "depths": [1, 1, 2]}
        | {"global_padding": None, "embedding_dynamic_padding": False, "num_groups": 1, "hidden_act": "silu"}
        | {"output_stride": 8, "num_labels": 5},
        # One group: over the smallest picture two would have so few numbers that float32 itself is strained.
        {"embedding_dynamic_padding": False, "output_stride": 4, "depths": [1, 1], "num_groups": 1},
    ),
)
