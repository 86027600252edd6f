"""mBART: BART with its norms in front, one more behind the last layer, and a language's token where texts begin.
https://arxiv.org/abs/2001.08210; also mBART-50 (https://arxiv.org/abs/2008.00401), BARThez
(https://arxiv.org/abs/2010.12321) and BARTpho (https://arxiv.org/abs/2109.09701)."""

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
    offset_positions,
    pre_norm_decoder_layer,
    pre_norm_encoder_layer,
)
from precast.export.generative import Seq2SeqLM
from precast.export.skeletons.decoder import Decoder, TokenEmbeddings
from precast.export.skeletons.encoder import PreNormEncoder

__all__ = ["FAMILY"]


def _seq2seq_lm(spec: BartSpec, absent: frozenset[str]) -> nn.Module:
    rows, size = spec.max_position_embeddings, spec.hidden_size
    return Seq2SeqLM(
        PreNormEncoder(
            embeddings=TextEmbeddings(
                spec.vocab_size,
                size,
                scale=spec.scale,
                positions=LearnedPositions(rows, size),
                token_types=0,
                norm=norm(spec),
            ),
            layers=[pre_norm_encoder_layer(spec) for _ in range(spec.encoder_layers)],
            norm=norm(spec),
        ),
        Decoder(
            embeddings=TokenEmbeddings(
                spec.vocab_size, size, scale=spec.scale, positions=PlacedPositions(rows, size), norm=norm(spec)
            ),
            layers=[pre_norm_decoder_layer(spec) for _ in range(spec.decoder_layers)],
            norm=norm(spec),
        ),
        lm_head(spec, absent),
    )


def _fused(spec: BartSpec, head: heads.Head) -> Mapping[str, Mapping[str, int]]:
    """By part. The first layer's first norm follows the embeddings' norm, every other one a sum."""
    layers, deep = spec.encoder_layers, spec.decoder_layers
    return {
        "encoder": {"Attention": layers, "AddLayerNorm": 2 * layers + 1, "LayerNorm": 1},
        "decoder": {"CachedAttention": deep, "Attention": deep, "AddLayerNorm": 3 * deep + 1, "LayerNorm": 1},
    }


FAMILY = Family(
    spec=BartSpec,
    heads={heads.SEQ2SEQ_LM: _seq2seq_lm},
    weights=lambda spec: (*names(spec), *offset_positions()),
    optional=(LOGITS_BIAS,),
    limits=lambda spec: spec.max_position_embeddings,
    fused=_fused,
    final_norm=True,
    inert=INERT,
    generation={
        "is_encoder_decoder": True,
        "pad_token_id": 1,
        "bos_token_id": 0,
        "eos_token_id": 2,
        "forced_eos_token_id": 2,
    },
    tiny=TINY,
    variations=(VARIATION, {"tie_word_embeddings": False}),
)
