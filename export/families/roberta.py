"""RoBERTa: BERT's layers with positions counted from the padding token, and its own heads.
https://arxiv.org/abs/1907.11692; also XLM-RoBERTa (https://arxiv.org/abs/1911.02116) and CamemBERT
(https://arxiv.org/abs/1911.03894), whose checkpoints use the same names and the same ``roberta.`` prefix."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch.nn.functional import gelu

from precast.export.blocks.embeddings import CountedPositions
from precast.export.blocks.sines import PlacedFromPadding
from precast.export.families import bert
from precast.export.generative import CausalLM
from precast.export.head_sets.encoders import encoder_heads, first_token
from precast.export.skeletons.encoder import Encoder
from precast.export.skeletons.post_norm import LM_NAMES, ODD, TINY, embeddings, encoder, names, tied, transform
from precast.export.skeletons.post_norm_decoder import CausalSpec, causal_head, causal_lm, causal_names, crossed
from precast.export.spec import hf

__all__ = ["FAMILY", "Spec", "heads", "padding"]

# A GELU in front of the decoder, whatever hidden_act says.
heads = partial(encoder_heads, transform=partial(transform, act=gelu), text=first_token(torch.tanh))


def padding(value: Any) -> Any:
    """An id that positions are counted from: -1 names no token, so that every position counts from 0; upstream cannot
    count without an id."""
    if value is None or (isinstance(value, int) and value < -1):
        raise ValueError("positions are counted from the padding token, so its id must be given (RoBERTa's own is 1)")
    return value


@dataclass(frozen=True, kw_only=True)
class Spec(bert.Spec):
    """BERT's keys; the size of the vocabulary has a default of its own in each alias, so it must be given."""

    vocab_size: int = hf()
    pad_token_id: int | None = hf(default=1, read=padding)


def _model(spec: Spec) -> Encoder:
    assert spec.pad_token_id is not None
    positions = CountedPositions(spec.max_position_embeddings, spec.hidden_size, spec.pad_token_id)
    return encoder(spec, embeddings(spec, positions))


def _causal_lm(spec: Spec, source: int | None = None) -> CausalLM:
    assert spec.pad_token_id is not None
    positions = PlacedFromPadding(spec.max_position_embeddings, spec.hidden_size, spec.pad_token_id)
    return causal_lm(spec, source, positions=positions, act=gelu)


@dataclass(frozen=True, kw_only=True)
class _Spec(CausalSpec, Spec):
    """And whether it is a decoder."""


FAMILY = replace(
    bert.FAMILY,
    spec=_Spec,
    heads={**heads(_model), **causal_head(_causal_lm)},
    weights=lambda spec: (*names("roberta"), *LM_NAMES, *tied(spec), *causal_names(spec)),
    crossed=crossed(_causal_lm),
    tiny={**TINY, "max_position_embeddings": 162, "type_vocab_size": 1},
    variations=(
        # Another padding token, an activation that the masked-LM head must not follow.
        {**ODD, "max_position_embeddings": 133, "type_vocab_size": 2, "pad_token_id": 4, "hidden_act": "relu"},
        {"pad_token_id": 0, "hidden_act": "gelu_new", "num_labels": 1},
    ),
)
