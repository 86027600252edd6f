"""BERT for generation: BERT without token types, as what reads and as what writes; its decoders have a plain head.
https://arxiv.org/abs/1907.12461"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from precast.export import heads
from precast.export.families import Family
from precast.export.head_sets.encoders import encoder_heads
from precast.export.skeletons.post_norm import ODD, TINY, EncoderSpec, body, names, tied, transform
from precast.export.skeletons.post_norm_decoder import (
    CausalSpec,
    causal_head,
    causal_lm,
    causal_names,
    crossed,
    unfit,
)
from precast.export.spec import hf
from precast.export.weights import Ignore, Rename, Tie

__all__ = ["FAMILY"]


@dataclass(frozen=True, kw_only=True)
class Spec(CausalSpec, EncoderSpec):
    vocab_size: int = hf(default=50358)
    hidden_size: int = hf(default=1024)
    num_hidden_layers: int = hf(default=24)
    num_attention_heads: int = hf(default=16)
    intermediate_size: int = hf(default=4096)
    pad_token_id: int | None = hf(default=0)


_causal_lm = partial(causal_lm, plain=True)

FAMILY = Family(
    model_type="bert-generation",
    spec=Spec,
    heads={
        **encoder_heads(body, transform=transform, pooler=None, only=(heads.BASE,)),
        **causal_head(_causal_lm),
    },
    weights=lambda spec: (
        *names("bert"),
        Rename("lm_head.decoder.*", "decoder.*"),
        *((Tie("decoder.bias", "lm_head.bias"), *tied(spec)) if spec.is_decoder else ()),
        Ignore("lm_head.bias"),
        *causal_names(spec),
    ),
    crossed=crossed(_causal_lm),
    unfit=unfit,
    generation={"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 1},
    tiny=TINY,
    variations=({**ODD, "num_labels": 2},),
)
