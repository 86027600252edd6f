"""ConvNeXt: depthwise convolutions, each with a feed-forward block over channels behind a layer norm.
https://arxiv.org/abs/2201.03545"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from precast.export.blocks.activations import Activation, activation
from precast.export.blocks.convolution import MapNorm
from precast.export.blocks.mlp import MLP
from precast.export.blocks.norms import LayerNorm
from precast.export.families import Family, LabelSpec
from precast.export.head_sets.maps import map_heads
from precast.export.heads import Head
from precast.export.skeletons.backbone import BACKBONE_KEYS, Backbone
from precast.export.spec import hf
from precast.export.weights import Ignore, Rename, Rule, Within
from precast.runtime.errors import ConfigError

__all__ = ["FAMILY", "Layer", "Spec", "StageSpec", "body_names", "stage_body", "stage_heads", "weights"]

_EPSILON = 1e-6  # of every norm but the last


@dataclass(frozen=True, kw_only=True)
class StageSpec(LabelSpec):
    """What both versions have; defaults are those of the tiny model."""

    num_channels: int = hf(default=3)
    patch_size: int = hf(default=4)
    num_stages: int = hf(("num_stages", "num_hidden_layers"), default=4)
    hidden_sizes: tuple[int, ...] = hf(default=(96, 192, 384, 768), read=tuple)
    depths: tuple[int, ...] = hf(default=(3, 3, 9, 3), read=tuple)
    hidden_act: Activation = hf(default=activation("gelu"), read=activation)
    layer_norm_eps: float = hf(default=1e-12)

    def __post_init__(self) -> None:
        if not self.num_stages == len(self.hidden_sizes) == len(self.depths):
            raise ConfigError(
                f"'num_stages' is {self.num_stages}, and 'hidden_sizes' and 'depths' have {len(self.hidden_sizes)} and "
                f"{len(self.depths)} numbers: each stage has one of either"
            )

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of what the stem makes and each stage."""
        return (self.hidden_sizes[0], *self.hidden_sizes)


@dataclass(frozen=True, kw_only=True)
class Spec(StageSpec):
    """Of the first version."""

    layer_scale_init_value: float = hf(default=1e-6)


class Layer(nn.Module):
    """x + mlp(norm(depthwise(x))), [B, C, H, W] -> [B, C, H, W].

    Args:
        scaled: a weight for each channel follows the mlp.
    """

    def __init__(self, size: int, mlp: nn.Module, scaled: bool = False) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(size, size, 7, padding=3, groups=size)
        self.norm = LayerNorm(size, _EPSILON)
        self.mlp = mlp
        self.scale = nn.Parameter(torch.empty(size)) if scaled else None

    def forward(self, x: Tensor) -> Tensor:
        made = self.mlp(self.norm(self.depthwise(x).permute(0, 2, 3, 1)))
        if self.scale is not None:
            made = self.scale * made
        return x + made.permute(0, 3, 1, 2)


class NormPool(nn.Module):
    """norm(mean over the picture), [B, C, H, W] -> [B, C]."""

    outs = ("batch", "size")

    def __init__(self, size: int, epsilon: float) -> None:
        super().__init__()
        self.norm = LayerNorm(size, epsilon)

    def forward(self, states: Tensor) -> Tensor:
        return self.norm(states.mean((2, 3)))


def _layer(spec: Spec, size: int) -> Layer:
    return Layer(size, MLP(size, 4 * size, spec.hidden_act), scaled=spec.layer_scale_init_value > 0)


def stage_body(spec: StageSpec, layer: Callable[[Any, int], nn.Module]) -> Backbone:
    """Stages of ``layer`` (spec, channels)."""

    def stages() -> Iterator[nn.Module]:
        sizes = pairwise((spec.hidden_sizes[0], *spec.hidden_sizes))
        for number, ((before, size), depth) in enumerate(zip(sizes, spec.depths, strict=True)):
            halved = (MapNorm(before, _EPSILON), nn.Conv2d(before, size, 2, stride=2)) if number else ()
            yield nn.Sequential(nn.Sequential(*halved), nn.Sequential(*(layer(spec, size) for _ in range(depth))))

    size, patch = spec.hidden_sizes[0], spec.patch_size
    stem = nn.Sequential(nn.Conv2d(spec.num_channels, size, patch, stride=patch), MapNorm(size, _EPSILON))
    least = patch * 2 ** (spec.num_stages - 1)
    return Backbone(stem, stages(), channels=spec.num_channels, least=least, norm=_EPSILON)


def stage_heads(layer: Callable[[Any, int], nn.Module]) -> Mapping[Head, Callable[[Any, frozenset[str]], nn.Module]]:
    """The heads of stages of ``layer`` (spec, channels)."""

    return map_heads(
        lambda spec: stage_body(spec, layer),
        lambda spec: spec.hidden_sizes[-1],
        lambda spec: NormPool(spec.hidden_sizes[-1], spec.layer_norm_eps),
    )


def weights(base: str, *own: Rule) -> tuple[Rule, ...]:
    """Names of stages, behind the prefix ``base`` or not; ``own``: of what stands in a layer."""
    layer = (
        Rename("dwconv.*", "depthwise.*"),
        Rename("layernorm.*", "norm.*"),
        Rename("pwconv1.*", "mlp.up_proj.*"),
        Rename("pwconv2.*", "mlp.down_proj.*"),
        *own,
    )
    return (
        Rename(f"{base}.*", "*"),
        Rename("embeddings.patch_embeddings.*", "model.stem.0.*"),
        Rename("embeddings.layernorm.*", "model.stem.1.*"),
        Rename("encoder.stages.{}.downsampling_layer.{}.*", "model.stages.{}.0.{}.*"),
        Within("encoder.stages.{}.layers.{}.", layer, to="model.stages.{}.1.{}."),
        Rename("layernorm.*", "pooler.norm.*"),
    )


def body_names(spec: StageSpec) -> tuple[Rule, ...]:
    """The norm of their mean, which maps alone do not have."""
    return (Ignore("pooler.*"),)


FAMILY = Family(
    spec=Spec,
    heads=stage_heads(_layer),
    weights=lambda spec: weights("convnext", Rename("layer_scale_parameter", "scale")),
    body=lambda spec: stage_body(spec, _layer),
    body_names=body_names,
    inert=BACKBONE_KEYS | {"image_size"},
    tiny={"num_stages": 2, "hidden_sizes": [8, 12], "depths": [1, 2], "layer_scale_init_value": 0.1},
    variations=(
        {"num_stages": 3, "hidden_sizes": [7, 9, 10], "depths": [1, 1, 1], "patch_size": 3, "num_channels": 1}
        | {"hidden_act": "relu", "layer_norm_eps": 1e-5, "layer_scale_init_value": 0.0, "num_labels": 5},
    ),
)
