"""Chinese CLIP: CLIP with BERT for its tower of texts, read at the first token. https://arxiv.org/abs/2211.01335"""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import nn

from precast.export import heads
from precast.export.families import bert, clip, clip_vision_model
from precast.export.skeletons import post_norm
from precast.export.skeletons.two_towers import ImageEmbeds, TextEmbeds, composed
from precast.export.spec import hf
from precast.export.weights import Rename, Within

__all__ = ["FAMILY", "Spec"]

_INERT = clip_vision_model.INERT


@dataclass(frozen=True, kw_only=True)
class Spec(clip.Spec):
    text: bert.Spec = hf(  # type: ignore[assignment]
        ("text_config_dict", "text_config"), default={}, spec=bert.Spec, inert=_INERT
    )


def _compose(spec: Spec, absent: frozenset[str]) -> nn.Module:
    text, vision, width = spec.text, spec.vision, spec.projection_dim
    of_text, of_picture = (nn.Linear(part.hidden_size, width, bias=False) for part in (text, vision))
    return composed(
        TextEmbeds(post_norm.body(text), heads.FirstToken(), of_text, width),
        ImageEmbeds(clip_vision_model.body(vision), clip_vision_model.pooler(vision), of_picture, width),
    )


FAMILY = replace(
    clip.FAMILY,
    spec=Spec,
    heads={heads.ZERO_SHOT_IMAGE: _compose},
    weights=lambda spec: (
        Within("text_model.", post_norm.names("bert"), to="text."),
        Within("vision_model.", clip_vision_model.names(), to="vision."),
        Rename("text_projection.*", "text.projection.*"),
        Rename("visual_projection.*", "vision.projection.*"),
        Rename("logit_scale", "similarity.scale"),
    ),
    tiny={"text_config": post_norm.TINY, "vision_config": clip_vision_model.TINY, "projection_dim": 24},
    variations=(
        {
            "text_config": {**post_norm.ODD, "max_position_embeddings": 33, "type_vocab_size": 1},
            "vision_config": clip_vision_model.ODD,
            "projection_dim": 9,
        },
    ),
)
