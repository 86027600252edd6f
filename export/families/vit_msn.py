"""ViT-MSN: ViT trained to see the same in what is masked, without a pooler. https://arxiv.org/abs/2204.07141"""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import nn

from precast.export import heads
from precast.export.families import vit
from precast.export.image_heads import ImageFeatures
from precast.export.spec import hf

__all__ = ["FAMILY", "Spec", "base"]


@dataclass(frozen=True, kw_only=True)
class Spec(vit.Spec):
    layer_norm_eps: float = hf(default=1e-6)


def base(spec: vit.Spec, absent: frozenset[str]) -> nn.Module:
    """The states alone."""
    return ImageFeatures(vit.body(spec), None)


FAMILY = replace(
    vit.FAMILY,
    spec=Spec,
    heads={heads.BASE: base, heads.IMAGE_CLASSIFICATION: vit.FAMILY.heads[heads.IMAGE_CLASSIFICATION]},
    weights=lambda spec: vit.model_names("vit"),
    optional=(),
)
