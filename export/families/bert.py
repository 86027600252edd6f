"""BERT: a post-norm encoder with learned positions and token types. https://arxiv.org/abs/1810.04805"""

from __future__ import annotations

from dataclasses import dataclass

from precast.export.families import Family
from precast.export.head_sets.encoders import encoder_heads, pooled
from precast.export.skeletons.post_norm import ODD, PREDICTION_NAMES, TINY, EncoderSpec, body, names, tied, transform
from precast.export.skeletons.post_norm_decoder import CausalSpec, causal_head, causal_names, crossed, unfit
from precast.export.spec import hf
from precast.export.weights import Rename

__all__ = ["FAMILY", "Spec"]


@dataclass(frozen=True, kw_only=True)
class Spec(EncoderSpec):
    """Keys of BERT and of relatives with token types."""

    vocab_size: int = hf(default=30522)
    pad_token_id: int | None = hf(default=0)
    type_vocab_size: int = hf(default=2)
    position_embedding_type: str = hf(default="absolute", only=("absolute",))


@dataclass(frozen=True, kw_only=True)
class _Spec(CausalSpec, Spec):
    """And whether it is a decoder."""


FAMILY = Family(
    spec=_Spec,
    heads={**encoder_heads(body, transform=transform, pair=pooled), **causal_head()},
    weights=lambda spec: (
        *names("bert"),
        *PREDICTION_NAMES,
        Rename("cls.seq_relationship.*", "seq_relationship.*"),
        *tied(spec),
        *causal_names(spec),
    ),
    crossed=crossed(),
    unfit=unfit,
    optional=("pooler",),
    tiny=TINY,
    variations=({**ODD, "type_vocab_size": 3}, {"hidden_act": "relu", "type_vocab_size": 1, "num_labels": 1}),
)
