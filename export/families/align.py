"""ALIGN: BERT for texts, read at the first token, and EfficientNet for pictures. https://arxiv.org/abs/2102.05918"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from precast.export import heads
from precast.export.families import Family, bert, efficientnet
from precast.export.skeletons import post_norm
from precast.export.skeletons.two_towers import ImageEmbeds, TextEmbeds, composed
from precast.export.spec import Spec as Base
from precast.export.spec import hf
from precast.export.weights import Compute, Ignore, Rename, Within
from precast.runtime.errors import ConfigError

__all__ = ["FAMILY", "Spec"]


@dataclass(frozen=True, kw_only=True)
class Spec(Base):
    text: bert.Spec = hf("text_config", default={}, spec=bert.Spec)
    vision: efficientnet.Spec = hf("vision_config", default={}, spec=efficientnet.Spec, inert=efficientnet.INERT)
    projection_dim: int = hf(default=640)

    def __post_init__(self) -> None:
        width = self.vision.width(self.vision.out_channels[-1])
        if width != self.projection_dim:
            raise ConfigError(
                f"'projection_dim' is {self.projection_dim}, and pictures have {width} channels (the last of "
                "'vision_config.out_channels', widened): they are compared, and must be as many"
            )


def _compose(spec: Spec, absent: frozenset[str]) -> nn.Module:
    text, width, seen = spec.text, spec.projection_dim, efficientnet.body(spec.vision)
    seen.last = None
    return composed(
        TextEmbeds(post_norm.body(text), heads.FirstToken(), nn.Linear(text.hidden_size, width), width),
        ImageEmbeds(seen, efficientnet.pooler(spec.vision), nn.Identity(), width),
    )


_TINY = efficientnet.FAMILY.tiny

FAMILY = Family(
    spec=Spec,
    heads={heads.ZERO_SHOT_IMAGE: _compose},
    weights=lambda spec: (
        Within("text_model.", (*post_norm.names("bert"), Ignore("pooler.*")), to="text."),
        Within("vision_model.", efficientnet.names(spec.vision), to="vision."),
        Rename("text_projection.*", "text.projection.*"),
        Compute(("temperature",), "similarity.scale", (), lambda value: -torch.log(value)),
    ),
    inert=frozenset({"temperature_init_value"}),
    tiny={"text_config": post_norm.TINY, "vision_config": _TINY, "projection_dim": 12},
    variations=(
        {
            "text_config": {**post_norm.ODD, "type_vocab_size": 3},
            "vision_config": {**_TINY, **efficientnet.FAMILY.variations[0]},
            "projection_dim": 12,
        },
    ),
)
