"""Two towers of any families, one of pictures and one of texts, each read by its own pooler.
https://arxiv.org/abs/2111.07991"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import nn

from precast.export import heads
from precast.export.families import Family, bert, clip, clip_vision_model, find_family, roberta, vit
from precast.export.image_heads import ImageFeatures
from precast.export.skeletons.two_towers import ImageEmbeds, TextEmbeds, composed
from precast.export.spec import Spec as Base
from precast.export.spec import hf
from precast.export.weights import Ignore, Rename, Rule, Within
from precast.runtime.errors import ConfigError

__all__ = ["FAMILY", "Spec"]

_WORDS = "tie_word_embeddings"  # what every config says, whether its model has words or not


@dataclass(frozen=True)
class _Tower:
    """One of the two: its family, what config.json says of it, and how that is read."""

    family: Family
    said: Mapping[str, Any]
    spec: Any

    @classmethod
    def of(cls, said: Mapping[str, Any], name: str, kind: type[Any]) -> _Tower:
        """Of the object ``name``; raises UnsupportedModelError or ConfigError where it has no such model."""
        if said.get("model_type") == "clip" and name in said:  # the whole of a CLIP, whose tower is meant
            said = {"model_type": f"clip_{name.replace('config', 'model')}", **said[name]}
        family = find_family(said.get("model_type"))
        if _WORDS not in family.spec.__dataclass_fields__:
            said = {key: value for key, value in said.items() if key != _WORDS}
        made = cls(family, said, family.read(said))
        with torch.device("meta"):
            base: Any = made.build() if heads.BASE in family.heads else None
        if not isinstance(base, kind) or base.pooler is None:
            raise ConfigError(f"{name}'s model_type {said.get('model_type')!r} has no pooler of its states here")
        return made

    def build(self) -> Any:
        """Its base model, of which the parts are taken."""
        return self.family.heads[heads.BASE](self.spec, frozenset())

    def names(self, prefix: str, to: str) -> tuple[Rule, ...]:
        """Rules for its weights behind ``prefix``, without what only its other heads have."""
        with torch.device("meta"):
            models = {head: make(self.spec, frozenset()) for head, make in self.family.heads.items()}
        every = {head: {name for name, _ in model.named_parameters()} for head, model in models.items()}
        others = set().union(*every.values()) - every[heads.BASE]
        return Within(prefix, self.family.weights(self.spec), to=to), *(Ignore(f"{to}{name}") for name in others)


@dataclass(frozen=True, kw_only=True)
class Spec(Base):
    text_config: dict[str, Any] = hf()
    vision_config: dict[str, Any] = hf()
    projection_dim: int = hf(default=512)

    def __post_init__(self) -> None:
        assert self.text and self.vision

    @cached_property
    def text(self) -> _Tower:
        return _Tower.of(self.text_config, "text_config", heads.FeatureExtraction)

    @cached_property
    def vision(self) -> _Tower:
        return _Tower.of(self.vision_config, "vision_config", ImageFeatures)

    def ignored(self) -> tuple[str, ...]:
        """As `Base`."""
        both = (("text_config", self.text), ("vision_config", self.vision))
        return tuple(f"{name}.{key}" for name, part in both for key in part.family.ignored(part.said, part.spec))


def _compose(spec: Spec, absent: frozenset[str]) -> nn.Module:
    text, vision, width = spec.text.build(), spec.vision.build(), spec.projection_dim
    of_text, of_picture = (nn.Linear(part.spec.hidden_size, width, bias=False) for part in (spec.text, spec.vision))
    return composed(
        TextEmbeds(text.model, text.pooler, of_text, width), ImageEmbeds(vision.model, vision.pooler, of_picture, width)
    )


FAMILY = Family(
    spec=Spec,
    heads={heads.ZERO_SHOT_IMAGE: _compose},
    weights=lambda spec: (
        *spec.text.names("text_model.", "text."),
        *spec.vision.names("vision_model.", "vision."),
        Rename("text_projection.*", "text.projection.*"),
        Rename("visual_projection.*", "vision.projection.*"),
        Rename("logit_scale", "similarity.scale"),
    ),
    inert=clip.FAMILY.inert,
    model_type="vision-text-dual-encoder",
    tiny={
        "text_config": {**bert.FAMILY.tiny, "model_type": "bert"},
        "vision_config": {**vit.FAMILY.tiny, "model_type": "vit"},
        "projection_dim": 24,
    },
    variations=(
        {
            "text_config": {**roberta.FAMILY.tiny, "model_type": "roberta", "num_hidden_layers": 1},
            "vision_config": {**clip_vision_model.ODD, "model_type": "clip_vision_model"},
            "projection_dim": 9,
        },
    ),
)
