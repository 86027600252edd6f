"""AltCLIP: CLIP with XLM-RoBERTa for its tower of texts, which learned what CLIP's own made of them.
https://arxiv.org/abs/2211.06679"""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor, nn

from precast.export import heads
from precast.export.blocks.embeddings import CountedPositions
from precast.export.blocks.norms import LayerNorm
from precast.export.families import clip, clip_vision_model, roberta
from precast.export.skeletons import post_norm
from precast.export.skeletons.two_towers import ImageEmbeds, TextEmbeds, composed
from precast.export.spec import hf
from precast.export.weights import Rename, Rule, Within

__all__ = ["FAMILY", "Spec", "TextSpec"]

_INERT = clip_vision_model.INERT


@dataclass(frozen=True, kw_only=True)
class TextSpec(roberta.Spec):
    """Defaults are upstream's."""

    vocab_size: int = hf(default=250002)
    hidden_size: int = hf(default=1024)
    num_hidden_layers: int = hf(default=24)
    num_attention_heads: int = hf(default=16)
    intermediate_size: int = hf(default=4096)
    max_position_embeddings: int = hf(default=514)
    layer_norm_eps: float = hf(default=1e-5)
    type_vocab_size: int = hf(default=1)
    project_dim: int = hf(default=768)


@dataclass(frozen=True, kw_only=True)
class Spec(clip.Spec):
    text: TextSpec = hf(  # type: ignore[assignment]
        ("text_config_dict", "text_config"), default={}, spec=TextSpec, inert=_INERT
    )
    projection_dim: int = hf(default=768)


class _Pooler(nn.Module):
    """dense(norm(first token)), [T, S, H] -> [T, D]."""

    def __init__(self, spec: TextSpec) -> None:
        super().__init__()
        self.norm = LayerNorm(spec.hidden_size, spec.layer_norm_eps)
        self.dense = nn.Linear(spec.hidden_size, spec.project_dim)

    def forward(self, states: Tensor, mask: Tensor) -> Tensor:
        return self.dense(self.norm(states[:, 0]))


def _compose(spec: Spec, absent: frozenset[str]) -> nn.Module:
    text, vision, width = spec.text, spec.vision, spec.projection_dim
    assert text.pad_token_id is not None
    positions = CountedPositions(text.max_position_embeddings, text.hidden_size, text.pad_token_id)
    words = post_norm.encoder(text, post_norm.embeddings(text, positions))
    of_text, of_picture = (nn.Linear(size, width, bias=False) for size in (text.project_dim, vision.hidden_size))
    return composed(
        TextEmbeds(words, _Pooler(text), of_text, width),
        ImageEmbeds(clip_vision_model.body(vision), clip_vision_model.pooler(vision), of_picture, width),
    )


def _weights(spec: Spec) -> tuple[Rule, ...]:
    text = (
        Rename("roberta.encoder.layers.*", "roberta.encoder.layer.*"),  # as transformers 5 has them
        *post_norm.names("roberta"),
        Rename("pre_LN.*", "pooler.norm.*"),
        Rename("transformation.*", "pooler.dense.*"),
    )
    return (
        Within("text_model.", text, to="text."),
        Within("vision_model.", clip_vision_model.names(), to="vision."),
        Rename("text_projection.*", "text.projection.*"),
        Rename("visual_projection.*", "vision.projection.*"),
        Rename("logit_scale", "similarity.scale"),
    )


_TEXT = {"max_position_embeddings": 62, "type_vocab_size": 1, "project_dim": 20}

FAMILY = replace(
    clip.FAMILY,
    spec=Spec,
    inert=clip.FAMILY.inert | {"num_layers"},  # which the released one says, and nothing reads
    heads={heads.ZERO_SHOT_IMAGE: _compose},
    weights=_weights,
    tiny={"text_config": {**post_norm.TINY, **_TEXT}, "vision_config": clip_vision_model.TINY, "projection_dim": 24},
    variations=(
        {
            "text_config": {**post_norm.ODD, **_TEXT, "max_position_embeddings": 35, "pad_token_id": 0},
            "vision_config": clip_vision_model.ODD,
            "projection_dim": 9,
        },
    ),
)
