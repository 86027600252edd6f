"""I-JEPA: ViT without a class token, classified by the mean of its patches. https://arxiv.org/abs/2301.08243"""

from __future__ import annotations

from dataclasses import replace

from torch import nn

from precast.export import heads
from precast.export.families import vit
from precast.export.image_heads import ImageClassification, ImageFeatures, MeanState

__all__ = ["FAMILY"]


def _base(spec: vit.Spec, absent: frozenset[str]) -> nn.Module:
    return ImageFeatures(vit.body(spec, tokens=()), None)


def _classifier(spec: vit.Spec, absent: frozenset[str]) -> nn.Module:
    return ImageClassification(vit.body(spec, tokens=()), nn.Linear(spec.hidden_size, spec.labels), MeanState())


FAMILY = replace(
    vit.FAMILY,
    spec=vit.Spec,
    heads={heads.BASE: _base, heads.IMAGE_CLASSIFICATION: _classifier},
    weights=lambda spec: vit.model_names("ijepa"),
    optional=(),
    inert=frozenset[str](),
)
