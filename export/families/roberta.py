"""RoBERTa: BERT's layers with positions counted from the padding token, and its own heads.
https://arxiv.org/abs/1907.11692; also XLM-RoBERTa (https://arxiv.org/abs/1911.02116) and CamemBERT
(https://arxiv.org/abs/1911.03894), whose checkpoints use the same names and the same ``roberta.`` prefix."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from precast.export import heads
from precast.export.blocks.activations import activation
from precast.export.blocks.embeddings import CountedPositions, TextEmbeddings
from precast.export.blocks.norms import LayerNorm
from precast.export.families import Family
from precast.export.families.bert import BERT_LAYERS, BertSpec, layer
from precast.export.skeletons.encoder import Encoder
from precast.export.spec import hf
from precast.export.weights import Ignore, Rename, Rule, Tie

__all__ = ["FAMILY", "RobertaSpec"]


def _padding(value: Any) -> Any:
    """-1 names no token, so that every position counts from 0; upstream cannot count without an id."""
    if value is None or (isinstance(value, int) and value < -1):
        raise ValueError("positions are counted from the padding token, so its id must be given (RoBERTa's own is 1)")
    return value


@dataclass(frozen=True, kw_only=True)
class RobertaSpec(BertSpec):
    """BERT's keys; the size of the vocabulary has a default of its own in each alias, so it must be given."""

    vocab_size: int = hf()
    pad_token_id: int | None = hf(default=1, read=_padding)

    @property
    def padding_id(self) -> int:
        """The id that positions are counted from."""
        assert self.pad_token_id is not None
        return self.pad_token_id

    @property
    def longest(self) -> int:
        """Tokens a text may have: rows of the position table up to the padding token's own are never counted."""
        return self.max_position_embeddings - self.padding_id - 1


def _model(spec: RobertaSpec) -> Encoder:
    return Encoder(
        embeddings=TextEmbeddings(
            spec.vocab_size,
            spec.hidden_size,
            positions=CountedPositions(spec.max_position_embeddings, spec.hidden_size, spec.padding_id),
            token_types=spec.type_vocab_size,
            norm=LayerNorm(spec.hidden_size, spec.layer_norm_eps),
        ),
        layers=[layer(spec) for _ in range(spec.num_hidden_layers)],
    )


def _base(spec: RobertaSpec, absent: frozenset[str]) -> nn.Module:
    return heads.FeatureExtraction(_model(spec), None if "pooler" in absent else heads.TanhPooler(spec.hidden_size))


def _masked_lm(spec: RobertaSpec, absent: frozenset[str]) -> nn.Module:
    norm = LayerNorm(spec.hidden_size, spec.layer_norm_eps)
    return heads.MaskedLM(
        _model(spec),
        heads.LMTransform(spec.hidden_size, spec.hidden_size, activation("gelu"), norm),  # whatever hidden_act says
        nn.Linear(spec.hidden_size, spec.vocab_size),
    )


def _sequence(spec: RobertaSpec, absent: frozenset[str]) -> nn.Module:
    classifier = heads.ClassifierHead(spec.hidden_size, spec.labels, torch.tanh)
    return heads.SequenceClassification(_model(spec), heads.FirstToken(), classifier)


def _token(spec: RobertaSpec, absent: frozenset[str]) -> nn.Module:
    return heads.TokenClassification(_model(spec), nn.Linear(spec.hidden_size, spec.labels))


def _question(spec: RobertaSpec, absent: frozenset[str]) -> nn.Module:
    return heads.QuestionAnswering(_model(spec), nn.Linear(spec.hidden_size, 2))


def _choice(spec: RobertaSpec, absent: frozenset[str]) -> nn.Module:
    return heads.MultipleChoice(_model(spec), heads.TanhPooler(spec.hidden_size), nn.Linear(spec.hidden_size, 1))


def _weights(spec: RobertaSpec) -> tuple[Rule, ...]:
    return (
        Rename("roberta.*", "*"),
        *BERT_LAYERS,
        Rename("lm_head.dense.*", "transform.dense.*"),
        Rename("lm_head.layer_norm.*", "transform.norm.*"),
        Rename("lm_head.decoder.*", "decoder.*"),
        Tie("decoder.bias", "lm_head.bias"),
        Ignore("lm_head.bias"),
        *((Tie("decoder.weight", "model.embeddings.words.weight"),) if spec.tie_word_embeddings else ()),
    )


FAMILY = Family(
    spec=RobertaSpec,
    heads={
        heads.BASE: _base,
        heads.MASKED_LM: _masked_lm,
        heads.SEQUENCE_CLASSIFICATION: _sequence,
        heads.TOKEN_CLASSIFICATION: _token,
        heads.QUESTION_ANSWERING: _question,
        heads.MULTIPLE_CHOICE: _choice,
    },
    weights=_weights,
    optional=("pooler",),
    inputs=lambda spec: ("input_ids", "attention_mask", "token_type_ids"),
    limits=lambda spec: spec.longest,
    token_types=lambda spec: spec.type_vocab_size,
    tiny={
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 48,
        "max_position_embeddings": 162,
        "type_vocab_size": 1,
        "vocab_size": 99,
    },
    variations=(
        # Odd sizes: 3 heads of 7 channels, one layer; token types, another padding token, an activation that the
        # masked-LM head must not follow, untied decoder, 5 labels.
        {
            "hidden_size": 21,
            "num_attention_heads": 3,
            "intermediate_size": 37,
            "num_hidden_layers": 1,
            "max_position_embeddings": 133,
            "type_vocab_size": 2,
            "pad_token_id": 4,
            "hidden_act": "relu",
            "tie_word_embeddings": False,
            "num_labels": 5,
            "vocab_size": 131,
            "layer_norm_eps": 1e-5,
        },
        {"pad_token_id": 0, "hidden_act": "gelu_new", "num_labels": 1},
    ),
)
