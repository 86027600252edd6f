"""CLIP: a tower of text and one of pictures, whose projections meet in one space. https://arxiv.org/abs/2103.00020"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from precast.export import heads
from precast.export.families import Family, LabelSpec, clip_text_model, clip_vision_model
from precast.export.image_heads import MeanState
from precast.export.skeletons.two_towers import ImageEmbeds, TextEmbeds, classified, composed
from precast.export.spec import hf
from precast.export.weights import Rename, Rule, Within

__all__ = ["FAMILY", "Spec"]

_INERT = clip_vision_model.INERT


@dataclass(frozen=True, kw_only=True)
class Spec(LabelSpec):
    """``text_config_dict`` and ``vision_config_dict`` are of older checkpoints, and count for more."""

    text: clip_text_model.Spec = hf(
        ("text_config_dict", "text_config"), default={}, spec=clip_text_model.Spec, inert=_INERT
    )
    vision: clip_vision_model.Spec = hf(
        ("vision_config_dict", "vision_config"), default={}, spec=clip_vision_model.Spec, inert=_INERT
    )
    projection_dim: int = hf(default=512)


def _compose(spec: Spec, absent: frozenset[str]) -> nn.Module:
    text, vision, width = spec.text, spec.vision, spec.projection_dim
    of_text, of_picture = (nn.Linear(part.hidden_size, width, bias=False) for part in (text, vision))
    return composed(
        TextEmbeds(clip_text_model.body(text), clip_text_model.pooler(text), of_text, width),
        ImageEmbeds(clip_vision_model.body(vision), clip_vision_model.pooler(vision), of_picture, width),
    )


def _classifier(spec: Spec, absent: frozenset[str]) -> nn.Module:
    """Of the mean of the patches' states."""
    return classified(clip_vision_model.body(spec.vision), spec.vision.hidden_size, spec.labels, MeanState(1))


def _weights(spec: Spec) -> tuple[Rule, ...]:
    return (
        Within("text_model.", clip_text_model.names(), to="text."),
        Within("vision_model.", clip_vision_model.names(), to="vision."),
        Rename("text_projection.*", "text.projection.*"),
        Rename("visual_projection.*", "vision.projection.*"),
        Rename("logit_scale", "similarity.scale"),
        Rename("classifier.*", "vision.classifier.*"),
    )


FAMILY = Family(
    spec=Spec,
    heads={heads.IMAGE_CLASSIFICATION: _classifier, heads.ZERO_SHOT_IMAGE: _compose},
    weights=_weights,
    inert=frozenset({"initializer_factor", "logit_scale_init_value"}),
    tiny={"text_config": clip_text_model.TINY, "vision_config": clip_vision_model.TINY, "projection_dim": 24},
    variations=({"text_config": clip_text_model.ODD, "vision_config": clip_vision_model.ODD, "projection_dim": 9},),
)
