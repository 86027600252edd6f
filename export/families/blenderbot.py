"""BlenderBot: a pre-norm encoder-decoder for conversation, with a short encoder, a deep decoder and learned positions.
https://arxiv.org/abs/2004.13637"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn

from precast.export import heads
from precast.export.blocks.embeddings import LearnedPositions, PlacedPositions, TextEmbeddings
from precast.export.families import Family
from precast.export.families.bart import (
    INERT,
    LOGITS_BIAS,
    TINY,
    VARIATION,
    BartSpec,
    lm_head,
    names,
    norm,
    pre_norm_decoder_layer,
    pre_norm_encoder_layer,
)
from precast.export.generative import Seq2SeqLM
from precast.export.skeletons.decoder import Decoder, TokenEmbeddings
from precast.export.skeletons.encoder import PreNormEncoder
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


def _seq2seq_lm(spec: Spec, absent: frozenset[str]) -> nn.Module:
    rows, size = spec.max_position_embeddings, spec.hidden_size
    return Seq2SeqLM(
        PreNormEncoder(
            embeddings=TextEmbeddings(
                spec.vocab_size,
                size,
                scale=spec.scale,
                positions=LearnedPositions(rows, size),
                token_types=0,
                norm=None,
            ),
            layers=[pre_norm_encoder_layer(spec) for _ in range(spec.encoder_layers)],
            norm=norm(spec),
        ),
        Decoder(
            embeddings=TokenEmbeddings(spec.vocab_size, size, scale=spec.scale, positions=PlacedPositions(rows, size)),
            layers=[pre_norm_decoder_layer(spec) for _ in range(spec.decoder_layers)],
            norm=norm(spec),
        ),
        lm_head(spec, absent),
    )


def _fused(spec: Spec, head: heads.Head) -> Mapping[str, Mapping[str, int]]:
    """By part. All norms but the first follow a sum."""
    layers, deep = spec.encoder_layers, spec.decoder_layers
    return {
        "encoder": {"Attention": layers, "AddLayerNorm": 2 * layers, "LayerNorm": 1},
        "decoder": {"CachedAttention": deep, "Attention": deep, "AddLayerNorm": 3 * deep, "LayerNorm": 1},
    }


FAMILY = Family(
    spec=Spec,
    heads={heads.SEQ2SEQ_LM: _seq2seq_lm},
    weights=names,
    optional=(LOGITS_BIAS,),
    limits=lambda spec: spec.max_position_embeddings,
    fused=_fused,
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
