"""GLPN: the stages of SegFormer, and a decoder that goes from the last to the first, weighing what each says against
what those behind it said. https://arxiv.org/abs/2201.07436"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from precast.export import heads
from precast.export.blocks.convolution import ConvNorm
from precast.export.families import segformer
from precast.export.head_sets.dense import DepthEstimation
from precast.export.head_sets.maps import MapFeatures
from precast.export.operators import resized
from precast.export.spec import hf
from precast.export.weights import Rename, Rule
from precast.runtime.errors import ConfigError
from precast.runtime.ports import Dim

__all__ = ["FAMILY"]


@dataclass(frozen=True, kw_only=True)
class Spec(segformer.MixSpec):
    decoder_hidden_size: int = hf(default=64)
    max_depth: int = hf(default=10)
    head_in_index: int = hf(default=-1, only=(-1,))


class _Fusion(nn.Module):
    """Two maps [B, C, H, W], each weighed at every place by what both are."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.first = ConvNorm(2 * size, size, 3, bias=True, act=F.relu)
        self.second = ConvNorm(size, size // 2, 3, bias=True, act=F.relu)
        self.third = nn.Conv2d(size // 2, 2, 3, padding=1)

    def forward(self, local: Tensor, far: Tensor) -> Tensor:
        shares = torch.sigmoid(self.third(self.second(self.first(torch.cat((local, far), dim=1)))))
        return local * shares[:, :1] + far * shares[:, 1:]


class _Decoder(nn.Module):
    """Maps of all stages -> depth [B, H, W], of a picture whose sides all strides divide."""

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        size, self.max_depth, self.step = spec.decoder_hidden_size, spec.max_depth, math.prod(spec.strides)
        if set(spec.strides[1:]) > {2} or not all(patch % 2 for patch in spec.patch_sizes):
            raise ConfigError(
                f"'strides' {spec.strides} behind the first must be 2, and 'patch_sizes' {spec.patch_sizes} odd: the "
                "decoder doubles what each stage has halved"
            )
        self.projections = nn.ModuleList(
            nn.Identity() if channels == size else nn.Conv2d(channels, size, 1) for channels in spec.hidden_sizes[::-1]
        )
        self.fusions = nn.ModuleList(_Fusion(size) for _ in spec.hidden_sizes[1:])
        self.first, self.last = nn.Conv2d(size, size, 3, padding=1), nn.Conv2d(size, 1, 3, padding=1)

    def bounds(self) -> Mapping[str, Dim]:
        """Of a picture."""
        return {"height": Dim(self.step, multiple=self.step), "width": Dim(self.step, multiple=self.step)}

    def forward(self, maps: list[Tensor]) -> Tensor:
        x, *others = (project(each) for project, each in zip(self.projections, maps[::-1], strict=True))
        for fuse, each in zip(self.fusions, others, strict=True):
            x = fuse(each, resized(x, each))  # twice as large
        x = resized(resized(x, factor=2), factor=2)
        return (torch.sigmoid(self.last(F.relu(self.first(x)))) * self.max_depth)[:, 0]


def _base(spec: Spec, absent: frozenset[str]) -> nn.Module:
    return MapFeatures(segformer.body(spec), None)


def _depth(spec: Spec, absent: frozenset[str]) -> nn.Module:
    return DepthEstimation(segformer.body(spec), _Decoder(spec))


def _weights(spec: Spec) -> tuple[Rule, ...]:
    layers = {"1": "first", "2": "second"}
    return (
        *segformer.names("glpn"),
        Rename("decoder.stages.{}.convolution.*", "decoder.projections.{}.*"),
        *(
            Rename(f"decoder.stages.{number + 1}.fusion.*", f"decoder.fusions.{number}.*")
            for number in range(len(spec.hidden_sizes) - 1)
        ),
        *(
            Rename(f"decoder.fusions.{{}}.convolutional_layer{old}.{place}.*", f"decoder.fusions.{{}}.{new}.{part}.*")
            for old, new in layers.items()
            for place, part in enumerate(("convolution", "norm"))
        ),
        Rename("decoder.fusions.{}.convolutional_layer3.*", "decoder.fusions.{}.third.*"),
        Rename("head.head.0.*", "decoder.first.*"),
        Rename("head.head.2.*", "decoder.last.*"),
    )


FAMILY = replace(
    segformer.FAMILY,
    spec=Spec,
    heads={heads.BASE: _base, heads.DEPTH_ESTIMATION: _depth},
    weights=_weights,
    inert=segformer.INERT,
    tiny={key: value for key, value in segformer.FAMILY.tiny.items() if key != "num_labels"}
    | {"decoder_hidden_size": 12},
    variations=(
        {"num_encoder_blocks": 3, "depths": [1, 1, 1], "sr_ratios": [3, 1, 1], "hidden_sizes": [6, 9, 10]}
        | {"strides": [3, 2, 2], "patch_sizes": [5, 3, 1], "num_attention_heads": [2, 3, 1], "mlp_ratios": [1, 2, 1]}
        | {"num_channels": 1, "hidden_act": "relu", "decoder_hidden_size": 8, "max_depth": 3},
    ),
)
