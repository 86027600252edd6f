"""SigLIP: two towers whose likenesses are each a probability of its own. https://arxiv.org/abs/2303.15343"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from precast.export import heads
from precast.export.blocks.activations import Activation, activation
from precast.export.families import Family, LabelSpec, clip_text_model, clip_vision_model, siglip_vision_model
from precast.export.image_heads import MeanState
from precast.export.skeletons.two_towers import ImageEmbeds, LastToken, Similarity, TextEmbeds, classified, composed
from precast.export.spec import hf
from precast.export.weights import Rename, Rule, Within
from precast.runtime.errors import ConfigError

__all__ = ["FAMILY", "Spec", "TextSpec"]

_INERT = clip_vision_model.INERT
_TOKENS = 64  # that every text had in training, and has in upstream's pipeline whatever the model


@dataclass(frozen=True, kw_only=True)
class TextSpec(clip_text_model.Spec):
    """Defaults are those of SigLIP-base."""

    vocab_size: int = hf(default=32000)
    hidden_size: int = hf(default=768)
    num_attention_heads: int = hf(default=12)
    intermediate_size: int = hf(default=3072)
    hidden_act: Activation = hf(default=activation("gelu_pytorch_tanh"), read=activation)
    layer_norm_eps: float = hf(default=1e-6)
    max_position_embeddings: int = hf(default=64)
    projection_size: int | None = hf(default=None)


@dataclass(frozen=True, kw_only=True)
class Spec(LabelSpec):
    text: TextSpec = hf("text_config", default={}, spec=TextSpec, inert=_INERT)
    vision: siglip_vision_model.Spec = hf("vision_config", default={}, spec=siglip_vision_model.Spec, inert=_INERT)

    @property
    def width(self) -> int:
        """Channels of the space of both."""
        return self.text.projection_size or self.text.hidden_size

    def __post_init__(self) -> None:
        if self.width != self.vision.hidden_size:
            raise ConfigError(
                f"texts have {self.width} channels ('text_config.projection_size'), and pictures "
                f"{self.vision.hidden_size} ('vision_config.hidden_size'): they are compared, and must be as many"
            )


def _compose(spec: Spec, absent: frozenset[str]) -> nn.Module:
    text, vision = spec.text, spec.vision
    pooler = siglip_vision_model.pooler(vision)
    if pooler is None:
        raise ConfigError("'vision_config.vision_use_head' is false, and pictures have nothing to be compared by")
    return composed(
        TextEmbeds(
            clip_text_model.body(text, causal=False), LastToken(), nn.Linear(text.hidden_size, spec.width), spec.width
        ),
        ImageEmbeds(siglip_vision_model.body(vision), pooler, nn.Identity(), spec.width),
        Similarity(spec.width, shape=(1,), shifted=True, candidates={"scores": "sigmoid", "tokens": _TOKENS}),
    )


def _classifier(spec: Spec, absent: frozenset[str]) -> nn.Module:
    """Of the mean of the patches' states."""
    return classified(siglip_vision_model.body(spec.vision), spec.vision.hidden_size, spec.labels, MeanState())


def _weights(spec: Spec) -> tuple[Rule, ...]:
    return (
        Within("text_model.", (*clip_text_model.names(), Rename("head.*", "projection.*")), to="text."),
        Within("vision_model.", siglip_vision_model.names(), to="vision."),
        Rename("logit_scale", "similarity.scale"),
        Rename("logit_bias", "similarity.shift"),
        Rename("classifier.*", "vision.classifier.*"),
    )


FAMILY = Family(
    spec=Spec,
    heads={heads.IMAGE_CLASSIFICATION: _classifier, heads.ZERO_SHOT_IMAGE: _compose},
    weights=_weights,
    inert=frozenset({"initializer_factor"}),
    tiny={"text_config": {**clip_text_model.TINY, "max_position_embeddings": 64}}
    | {"vision_config": siglip_vision_model.TINY},
    variations=(
        {
            "text_config": {**clip_text_model.ODD, "hidden_size": 15, "projection_size": 21, "hidden_act": "relu"},
            "vision_config": siglip_vision_model.ODD,
        },
    ),
)
