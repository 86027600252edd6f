"""OWLv2: OWL-ViT that also says how likely each patch is any object at all. https://arxiv.org/abs/2306.09683"""

from __future__ import annotations

from dataclasses import dataclass, replace

from precast.export import heads
from precast.export.families import clip_vision_model, owlvit
from precast.export.spec import hf

__all__ = ["FAMILY", "Spec"]


@dataclass(frozen=True, kw_only=True)
class _VisionSpec(owlvit.VisionSpec):
    patch_size: int = hf(default=16)


@dataclass(frozen=True, kw_only=True)
class Spec(owlvit.Spec):
    vision: _VisionSpec = hf("vision_config", default={}, spec=_VisionSpec, inert=clip_vision_model.INERT)


FAMILY = replace(
    owlvit.FAMILY,
    spec=Spec,
    heads={heads.ZERO_SHOT_OBJECTS: owlvit.compose(objectness=True)},
    weights=owlvit.weights("owlv2"),
)
