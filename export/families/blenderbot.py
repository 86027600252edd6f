"""BlenderBot: a pre-norm encoder-decoder for conversation, with a short encoder, a deep decoder and learned positions.
https://arxiv.org/abs/2004.13637"""

from __future__ import annotations

from dataclasses import dataclass

from precast.export import heads
from precast.export.families import Family
from precast.export.families.bart import (
    INERT,
    LOGITS_BIAS,
    TINY,
    VARIATION,
    BartSpec,
    names,
    pre_norm_lm,
)
from precast.export.spec import hf

__all__ = ["FAMILY"]


@dataclass(frozen=True, kw_only=True)
class Spec(BartSpec):
    """Defaults are BlenderBot 3B's."""

    vocab_size: int = hf(default=8008)
    hidden_size: int = hf(("d_model", "hidden_size"), default=2560)
    encoder_layers: int = hf(default=2)
    encoder_ffn_dim: int = hf(default=10240)
    encoder_attention_heads: int = hf(default=32)
    decoder_layers: int = hf(default=24)
    decoder_ffn_dim: int = hf(default=10240)
    decoder_attention_heads: int = hf(default=32)
    max_position_embeddings: int = hf(default=128)


FAMILY = Family(
    spec=Spec,
    heads={heads.SEQ2SEQ_LM: pre_norm_lm},
    weights=names,
    optional=(LOGITS_BIAS,),
    limits=lambda spec: spec.max_position_embeddings,
    final_norm=True,
    inert=INERT,
    generation={
        "is_encoder_decoder": True,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "decoder_start_token_id": 1,
        "forced_eos_token_id": 2,
        "encoder_no_repeat_ngram_size": 3,
    },
    tiny={**TINY, "scale_embedding": True},
    variations=({**VARIATION, "activation_function": "gelu", "scale_embedding": False},),
)
