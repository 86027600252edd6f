"""PEGASUS: a pre-norm encoder-decoder for summaries, with sinusoidal positions. https://arxiv.org/abs/1912.08777"""

from __future__ import annotations

from collections.abc import Mapping

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
from precast.export.families.marian import POSITIONS, sinusoids
from precast.export.generative import Seq2SeqLM
from precast.export.skeletons.decoder import Decoder, TokenEmbeddings
from precast.export.skeletons.encoder import PreNormEncoder

__all__ = ["FAMILY"]


def _seq2seq_lm(spec: BartSpec, absent: frozenset[str]) -> nn.Module:
    rows, size = spec.max_position_embeddings, spec.hidden_size
    ours, theirs = (sinusoids(rows, size) if name in absent else None for name in POSITIONS)
    return Seq2SeqLM(
        PreNormEncoder(
            embeddings=TextEmbeddings(
                spec.vocab_size,
                size,
                scale=spec.scale,
                positions=LearnedPositions(rows, size, ours),
                token_types=0,
                norm=None,
            ),
            layers=[pre_norm_encoder_layer(spec) for _ in range(spec.encoder_layers)],
            norm=norm(spec),
        ),
        Decoder(
            embeddings=TokenEmbeddings(
                spec.vocab_size, size, scale=spec.scale, positions=PlacedPositions(rows, size, theirs)
            ),
            layers=[pre_norm_decoder_layer(spec) for _ in range(spec.decoder_layers)],
            norm=norm(spec),
        ),
        lm_head(spec, absent),
    )


def _fused(spec: BartSpec, head: heads.Head) -> Mapping[str, Mapping[str, int]]:
    """By part. All norms but the first follow a sum."""
    layers, deep = spec.encoder_layers, spec.decoder_layers
    return {
        "encoder": {"Attention": layers, "AddLayerNorm": 2 * layers, "LayerNorm": 1},
        "decoder": {"CachedAttention": deep, "Attention": deep, "AddLayerNorm": 3 * deep, "LayerNorm": 1},
    }


FAMILY = Family(
    spec=BartSpec,
    heads={heads.SEQ2SEQ_LM: _seq2seq_lm},
    weights=names,
    optional=(LOGITS_BIAS, *POSITIONS),
    limits=lambda spec: spec.max_position_embeddings,
    fused=_fused,
    final_norm=True,
    inert=INERT,
    generation={
        "is_encoder_decoder": True,
        "pad_token_id": 0,
        "eos_token_id": 1,
        "decoder_start_token_id": 0,
        "forced_eos_token_id": 1,
    },
    tiny={**TINY, "scale_embedding": True, "activation_function": "relu", "pad_token_id": 0, "eos_token_id": 1},
    variations=({**VARIATION, "activation_function": "gelu", "scale_embedding": False},),
)
