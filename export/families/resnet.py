"""ResNet: layers of convolutions whose result is added to what they were given, the first of a stage at half the size.
https://arxiv.org/abs/1512.03385"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from torch import Tensor, nn

from precast.export.blocks.activations import Activation, activation
from precast.export.blocks.convolution import COUNTERS, ConvNorm
from precast.export.families import Family, LabelSpec
from precast.export.head_sets.maps import map_heads
from precast.export.skeletons.backbone import BACKBONE_KEYS, Backbone
from precast.export.spec import hf
from precast.export.weights import Rename, Rule

__all__ = ["FAMILY", "ResidualSpec", "Shortcut", "Spec", "layer", "residual_names", "residual_stages"]


@dataclass(frozen=True, kw_only=True)
class ResidualSpec(LabelSpec):
    """What every network of residual stages has."""

    num_channels: int = hf(default=3)
    embedding_size: int = hf(default=64)
    hidden_sizes: tuple[int, ...] = hf(default=(256, 512, 1024, 2048), read=tuple)
    depths: tuple[int, ...] = hf(default=(3, 4, 6, 3), read=tuple)
    hidden_act: Activation = hf(default=activation("relu"), read=activation)
    downsample_in_first_stage: bool = hf(default=False)

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of what the stem makes and each stage."""
        return (self.embedding_size, *self.hidden_sizes)


@dataclass(frozen=True, kw_only=True)
class Spec(ResidualSpec):
    """Defaults are ResNet-50's."""

    layer_type: str = hf(default="bottleneck", only=("basic", "bottleneck"))
    downsample_in_bottleneck: bool = hf(default=False)


class Shortcut(nn.Module):
    """act(layers(x) + shortcut(x)), where the shortcut of a map of another size is a convolution."""

    def __init__(self, channels: int, out: int, stride: int, act: Activation, *layers: nn.Module) -> None:
        super().__init__()
        self.act = act
        self.shortcut = ConvNorm(channels, out, stride=stride) if channels != out or stride != 1 else None
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.layers(x) + (x if self.shortcut is None else self.shortcut(x)))


def layer(spec: Spec, channels: int, out: int, stride: int) -> Shortcut:
    """Two convolutions, or three of which the middle one has fewer channels."""
    act = spec.hidden_act
    inner = activation("relu")  # upstream leaves these at it, whatever config.json says of the rest
    layers: tuple[nn.Module, ...]
    if spec.layer_type == "basic":
        layers = (ConvNorm(channels, out, 3, stride=stride, act=inner), ConvNorm(out, out, 3))
    else:
        reduced, first = out // 4, stride if spec.downsample_in_bottleneck else 1
        layers = (
            ConvNorm(channels, reduced, stride=first, act=inner),
            ConvNorm(reduced, reduced, 3, stride=stride // first, act=inner),
            ConvNorm(reduced, out),
        )
    return Shortcut(channels, out, stride, act, *layers)


def residual_stages(
    spec: Any,
    layer: Callable[[Any, int, int, int], nn.Module],
    first: Callable[[Any, int, int, int], nn.Module] | None = None,
) -> Iterator[nn.Module]:
    """Stages of layers (spec, channels, channels of the result, stride), the first of each at the stage's stride, and
    of its own kind where there is one."""
    strides = (2 if spec.downsample_in_first_stage else 1, *(2 for _ in spec.depths[1:]))
    sizes = pairwise((spec.embedding_size, *spec.hidden_sizes))
    for (channels, out), depth, stride in zip(sizes, spec.depths, strides, strict=True):
        begin = (first or layer)(spec, channels, out, stride)
        yield nn.Sequential(begin, *(layer(spec, out, out, 1) for _ in range(depth - 1)))


def _body(spec: Spec) -> Backbone:
    stem = ConvNorm(spec.num_channels, spec.embedding_size, 7, stride=2, act=spec.hidden_act)
    stages = residual_stages(spec, layer)
    return Backbone(nn.Sequential(stem, nn.MaxPool2d(3, 2, 1)), stages, channels=spec.num_channels)


def residual_names(base: str, stem: str) -> tuple[Rule, ...]:
    """Names of stages of residual layers, behind the base model's prefix or not; ``stem``: what is first here."""
    return (
        COUNTERS,
        Rename(f"{base}.*", "*"),
        Rename("*.normalization.*", "*.norm.*"),
        Rename("embedder.embedder.*", f"model.{stem}.*"),
        Rename("encoder.stages.{}.layers.{}.layer.*", "model.stages.{}.{}.layers.*"),
        Rename("encoder.stages.{}.layers.{}.shortcut.*", "model.stages.{}.{}.shortcut.*"),
        Rename("classifier.1.*", "classifier.*"),
    )


FAMILY = Family(
    spec=Spec,
    heads=map_heads(_body, lambda spec: spec.hidden_sizes[-1]),
    weights=lambda spec: residual_names("resnet", "stem.0"),
    body=_body,
    inert=BACKBONE_KEYS,
    tiny={"embedding_size": 8, "hidden_sizes": [16, 24], "depths": [2, 1]},
    variations=(
        {
            "layer_type": "basic",
            "num_channels": 1,
            "embedding_size": 6,
            "hidden_sizes": [6, 10, 15],
            "depths": [1, 2, 1],
        }
        | {"hidden_act": "gelu", "num_labels": 5},
        {"downsample_in_bottleneck": True, "downsample_in_first_stage": True},
    ),
)
