"""PEGASUS: a pre-norm encoder-decoder for summaries, with sinusoidal positions. https://arxiv.org/abs/1912.08777"""

from __future__ import annotations

from torch import nn

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
from precast.export.families.marian import POSITIONS, sinusoids

__all__ = ["FAMILY"]


def _seq2seq_lm(spec: BartSpec, absent: frozenset[str]) -> nn.Module:
    rows, size = spec.max_position_embeddings, spec.hidden_size
    ours, theirs = (sinusoids(rows, size) if name in absent else None for name in POSITIONS)
    return pre_norm_lm(spec, absent, tables=(ours, theirs))


FAMILY = Family(
    spec=BartSpec,
    heads={heads.SEQ2SEQ_LM: _seq2seq_lm},
    weights=names,
    optional=(LOGITS_BIAS, *POSITIONS),
    limits=lambda spec: spec.max_position_embeddings,
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
