"""Depth Anything: DINOv2 over pictures of any size, and DPT's decoder of its states. https://arxiv.org/abs/2401.10891"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from precast.export import heads
from precast.export.families import Family, dinov2
from precast.export.head_sets.dense import DepthEstimation
from precast.export.head_sets.fusion import FusionNeck, PatchMaps, neck_names
from precast.export.operators import resized
from precast.export.spec import Spec as Base
from precast.export.spec import hf
from precast.export.weights import Ignore, Rename, Rule, Within
from precast.runtime.errors import ConfigError
from precast.runtime.ports import Dim

__all__ = ["FAMILY"]


@dataclass(frozen=True, kw_only=True)
class Backbone(dinov2.Spec):
    """A DINOv2 of which some layers are read."""

    kind: str = hf("model_type", only=("dinov2",))
    out_indices: tuple[int, ...] = hf(("out_indices", "_out_indices"), read=tuple)
    apply_layernorm: bool = hf(default=True)
    reshape_hidden_states: bool = hf(default=True, only=(False,))

    @property
    def taps(self) -> tuple[int, ...]:
        """Layers that are read, counted from 1."""
        return tuple(sorted({index % (self.num_hidden_layers + 1) for index in self.out_indices}))


_TAPPED = {"out_indices", "_out_indices", "apply_layernorm", "reshape_hidden_states"}


@dataclass(frozen=True, kw_only=True)
class Spec(Base):
    backbone: Backbone = hf("backbone_config", spec=Backbone, inert=dinov2.FAMILY.inert - _TAPPED)
    patch_size: int = hf(default=14)
    reassemble_hidden_size: int = hf(default=384)
    reassemble_factors: tuple[float, ...] = hf(default=(4, 2, 1, 0.5), read=tuple)
    neck_hidden_sizes: tuple[int, ...] = hf(default=(48, 96, 192, 384), read=tuple)
    fusion_hidden_size: int = hf(default=64)
    head_in_index: int = hf(default=-1, only=(-1,))
    head_hidden_size: int = hf(default=32)
    depth_estimation_type: str = hf(default="relative", only=("relative", "metric"))
    max_depth: int | None = hf(default=1)

    def __post_init__(self) -> None:
        pairs = (
            ("reassemble_hidden_size", self.reassemble_hidden_size, "hidden_size", self.backbone.hidden_size),
            ("patch_size", self.patch_size, "patch_size", self.backbone.patch_size),
            ("neck_hidden_sizes", len(self.neck_hidden_sizes), "out_indices", len(self.backbone.taps)),
        )
        for name, own, other, wanted in pairs:
            if own != wanted:
                raise ConfigError(f"{name!r} says {own}, and {other!r} of 'backbone_config' {wanted}: they are one")


class _Decoder(nn.Module):
    """Maps, and a picture whose size they are of -> depth [B, H, W]."""

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        size, narrow, self.patch = spec.fusion_hidden_size, spec.head_hidden_size, spec.patch_size
        self.neck = FusionNeck(
            spec.reassemble_hidden_size, spec.neck_hidden_sizes, spec.reassemble_factors, size, exact=True
        )
        self.first, self.second = nn.Conv2d(size, size // 2, 3, padding=1), nn.Conv2d(size // 2, narrow, 3, padding=1)
        self.third = nn.Conv2d(narrow, 1, 1)
        self.act = F.relu if spec.depth_estimation_type == "relative" else torch.sigmoid
        self.most = 1 if spec.max_depth is None else spec.max_depth
        self.least = spec.patch_size * (1 + int(1 / min(1, *spec.reassemble_factors)))

    def bounds(self) -> dict[str, Dim]:
        """Of a picture: the smallest map has two places a side. Of one, torch would trace another product."""
        return {"height": Dim(self.least), "width": Dim(self.least)}

    def forward(self, maps: list[Tensor], pixel_values: Tensor) -> Tensor:
        height, width = (side // self.patch * self.patch for side in pixel_values.shape[2:])
        x = resized(self.first(self.neck(maps)), pixel_values[:, :1, :height, :width], aligned=True)
        return (self.act(self.third(F.relu(self.second(x)))) * self.most)[:, 0]


class _Depth(DepthEstimation):
    def forward(self, pixel_values: Tensor) -> dict[str, Tensor]:
        return {"predicted_depth": self.decoder(self.model.maps(pixel_values), pixel_values)}


def _depth(spec: Spec, absent: frozenset[str]) -> nn.Module:
    backbone = spec.backbone
    body = dinov2.body(backbone, normed=backbone.apply_layernorm)
    maps = PatchMaps(body, patch=spec.patch_size, layers=backbone.taps, normed=backbone.apply_layernorm)
    return _Depth(maps, _Decoder(spec))


def _weights(spec: Spec) -> tuple[Rule, ...]:
    return (
        Within("backbone.", dinov2.names("dinov2"), to=""),
        *neck_names(spec.neck_hidden_sizes, spec.reassemble_factors, norm=False),
        Ignore("decoder.neck.layers.0.beside.*"),
        *(
            Rename(f"head.conv{place}.*", f"decoder.{name}.*")
            for place, name in enumerate(("first", "second", "third"), 1)
        ),
        *(() if spec.backbone.apply_layernorm else (Ignore("model.stack.norm.*"),)),
    )


_BACKBONE = {**dinov2.FAMILY.tiny, "model_type": "dinov2", "out_indices": [1, 2], "reshape_hidden_states": False}

FAMILY = Family(
    spec=Spec,
    heads={heads.DEPTH_ESTIMATION: _depth},
    weights=_weights,
    tiny={"backbone_config": _BACKBONE, "patch_size": 12, "reassemble_hidden_size": 32, "neck_hidden_sizes": [6, 8]}
    | {"reassemble_factors": [2, 0.5], "fusion_hidden_size": 10, "head_hidden_size": 5},
    variations=(
        {
            "backbone_config": {**_BACKBONE, "num_hidden_layers": 3, "out_indices": [1, 2, 3], "apply_layernorm": False}
            | {"patch_size": 9, "image_size": 47, "num_channels": 1},
            "patch_size": 9,
            "neck_hidden_sizes": [5, 6, 7],
            "reassemble_factors": [4, 1, 0.5],
            "depth_estimation_type": "metric",
            "max_depth": 20,
        },
    ),
)
