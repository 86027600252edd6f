"""Donut's encoder: a Swin for pages of any size, without a norm behind its last stage. https://arxiv.org/abs/2111.15664"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from precast.export import heads
from precast.export.blocks.patches import rows_of
from precast.export.families import Family, swin
from precast.export.image_heads import ImageClassification, ImageFeatures, MeanState
from precast.export.skeletons.backbone import Backbone
from precast.export.spec import hf
from precast.export.weights import Rename
from precast.runtime.ports import Port

__all__ = ["FAMILY"]


def _side(said: Any) -> int:
    """Of a size that pages of training had: no weight depends on it."""
    return min(said) if isinstance(said, (list, tuple)) else said


@dataclass(frozen=True, kw_only=True)
class Spec(swin.Spec):
    image_size: int = hf(default=224, read=_side)
    use_absolute_embeddings: bool = hf(default=False, only=(False,))


class _Page(nn.Module):
    """Pixels [B, C, H, W] -> the last map's places as rows, [B, R * C, H]."""

    def __init__(self, maps: Backbone) -> None:
        super().__init__()
        self.maps = maps

    def ports(self) -> tuple[Port, ...]:
        return self.maps.ports()

    def forward(self, pixel_values: Tensor) -> Tensor:
        return rows_of(self.maps(pixel_values))


_maps = swin.map_body(swin.layer, swin.merge, lambda spec, stage: (spec.window_size, spec.window_size // 2))


def _body(spec: Spec) -> Any:
    made = _maps(spec)
    # A grid that is one window has no shifted ones, and upstream has none for less.
    made.least = spec.patch_size * 2 ** (len(spec.depths) - 1) * spec.window_size + 1
    return _Page(made)


def _classifier(spec: Spec, absent: frozenset[str]) -> nn.Module:
    return ImageClassification(_body(spec), nn.Linear(spec.widths[-1], spec.labels), MeanState())


FAMILY = Family(
    spec=Spec,
    heads={
        heads.BASE: lambda spec, absent: ImageFeatures(_body(spec), MeanState()),
        heads.IMAGE_CLASSIFICATION: _classifier,
    },
    weights=lambda spec: (*swin.weights("donut"), *swin.map_names(spec), Rename("model.*", "model.maps.*")),
    inert=swin.FAMILY.inert,
    model_type="donut-swin",
    tiny={"embed_dim": 8, "depths": [2, 1], "num_heads": [2, 4], "window_size": 2, "mlp_ratio": 2.0, "patch_size": 4}
    | {"image_size": [32, 24]},
    variations=(
        {"embed_dim": 9, "num_heads": [3, 2], "depths": [1, 1], "window_size": 3, "qkv_bias": False, "num_labels": 5}
        | {"image_size": 33, "num_channels": 1, "hidden_act": "gelu_new", "layer_norm_eps": 1e-3},
    ),
)
