"""mBART: BART with its norms in front, one more behind the last layer, and a language's token where texts begin.
https://arxiv.org/abs/2001.08210; also mBART-50 (https://arxiv.org/abs/2008.00401), BARThez
(https://arxiv.org/abs/2010.12321) and BARTpho (https://arxiv.org/abs/2109.09701)."""

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
    offset_positions,
    pre_norm_lm,
)

__all__ = ["FAMILY"]


def _seq2seq_lm(spec: BartSpec, absent: frozenset[str]) -> nn.Module:
    return pre_norm_lm(spec, absent, normed=True)


FAMILY = Family(
    spec=BartSpec,
    heads={heads.SEQ2SEQ_LM: _seq2seq_lm},
    weights=lambda spec: (*names(spec), *offset_positions()),
    optional=(LOGITS_BIAS,),
    limits=lambda spec: spec.max_position_embeddings,
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
