"""RegNet: residual layers of grouped convolutions, whose channels may be weighed by the whole picture.
https://arxiv.org/abs/2003.13678"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from precast.export.blocks.activations import activation
from precast.export.blocks.convolution import ConvNorm, SqueezeExcite
from precast.export.families import Family
from precast.export.families.resnet import ResidualSpec, Shortcut, residual_names, residual_stages
from precast.export.head_sets.maps import map_heads
from precast.export.skeletons.backbone import Backbone
from precast.export.spec import hf
from precast.export.weights import Rename, Rule

__all__ = ["FAMILY", "Spec"]


@dataclass(frozen=True, kw_only=True)
class Spec(ResidualSpec):
    """Defaults are those of RegNetY-4GF's kind."""

    embedding_size: int = hf(default=32)
    hidden_sizes: tuple[int, ...] = hf(default=(128, 192, 512, 1088), read=tuple)
    depths: tuple[int, ...] = hf(default=(2, 6, 12, 2), read=tuple)
    downsample_in_first_stage: bool = hf(default=True)
    groups_width: int = hf(default=64)
    layer_type: str = hf(default="y", only=("x", "y"))


def _layer(spec: Spec, channels: int, out: int, stride: int) -> Shortcut:
    act, groups = spec.hidden_act, max(1, out // spec.groups_width)
    weighed = (SqueezeExcite(out, round(channels / 4), activation("relu")),) if spec.layer_type == "y" else ()
    layers: tuple[nn.Module, ...] = (
        ConvNorm(channels, out, act=act),
        ConvNorm(out, out, 3, stride=stride, groups=groups, act=act),
        *weighed,
        ConvNorm(out, out),
    )
    return Shortcut(channels, out, stride, act, *layers)


def _body(spec: Spec) -> Backbone:
    stem = ConvNorm(spec.num_channels, spec.embedding_size, 3, stride=2, act=spec.hidden_act)
    return Backbone(stem, residual_stages(spec, _layer), channels=spec.num_channels)


def _weights(spec: Spec) -> tuple[Rule, ...]:
    return (
        *residual_names("regnet", "stem"),
        Rename("*.layers.2.attention.0.*", "*.layers.2.reduce.*"),
        Rename("*.layers.2.attention.2.*", "*.layers.2.expand.*"),
    )


FAMILY = Family(
    spec=Spec,
    heads=map_heads(_body, lambda spec: spec.hidden_sizes[-1]),
    weights=_weights,
    tiny={"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 2], "groups_width": 4},
    variations=(
        {"layer_type": "x", "num_channels": 1, "embedding_size": 6, "hidden_sizes": [6, 15], "depths": [1, 1]}
        | {"groups_width": 5, "hidden_act": "silu", "downsample_in_first_stage": False, "num_labels": 5},
    ),
)
