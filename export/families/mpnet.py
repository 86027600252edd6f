"""MPNet: BERT's layers with one relative bias shared by all, and positions counted from the padding id.
https://arxiv.org/abs/2004.09297"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from precast.export import heads
from precast.export.blocks.activations import Activation, activation
from precast.export.blocks.attention import SelfAttention
from precast.export.blocks.embeddings import CountedPositions, TextEmbeddings
from precast.export.blocks.mlp import MLP
from precast.export.blocks.norms import LayerNorm
from precast.export.blocks.relative import RelativeBias, RelativeIndex, two_sided_buckets
from precast.export.families import Family, TextSpec
from precast.export.skeletons.encoder import Encoder, PostNormLayer
from precast.export.spec import hf
from precast.export.weights import Ignore, Rename, Rule, Tie

__all__ = ["FAMILY"]

_PADDING = 1  # positions count from here whatever pad_token_id says, as upstream
_BUCKETS = 32  # upstream reads relative_attention_num_buckets for the size of its table only
_FURTHEST = 128


@dataclass(frozen=True, kw_only=True)
class Spec(TextSpec):
    """Defaults are mpnet-base's."""

    vocab_size: int = hf(default=30527)
    hidden_size: int = hf(default=768)
    num_hidden_layers: int = hf(default=12)
    num_attention_heads: int = hf(default=12)
    intermediate_size: int = hf(default=3072)
    hidden_act: Activation = hf(default=activation("gelu"), read=activation)
    max_position_embeddings: int = hf(default=512)
    layer_norm_eps: float = hf(default=1e-12)
    relative_attention_num_buckets: int = hf(default=_BUCKETS, only=(_BUCKETS,))


def _layer(spec: Spec) -> PostNormLayer:
    return PostNormLayer(
        attention=SelfAttention(spec.hidden_size, heads=spec.num_attention_heads),
        attention_norm=LayerNorm(spec.hidden_size, spec.layer_norm_eps),
        mlp=MLP(spec.hidden_size, spec.intermediate_size, spec.hidden_act),
        mlp_norm=LayerNorm(spec.hidden_size, spec.layer_norm_eps),
    )


def _model(spec: Spec) -> Encoder:
    index = RelativeIndex(_FURTHEST, lambda distance: two_sided_buckets(distance, _BUCKETS, _FURTHEST))
    return Encoder(
        embeddings=TextEmbeddings(
            spec.vocab_size,
            spec.hidden_size,
            positions=CountedPositions(spec.max_position_embeddings, spec.hidden_size, _PADDING),
            token_types=0,
            norm=LayerNorm(spec.hidden_size, spec.layer_norm_eps),
        ),
        layers=[_layer(spec) for _ in range(spec.num_hidden_layers)],
        bias=RelativeBias(index, _BUCKETS, spec.num_attention_heads),
    )


def _base(spec: Spec, absent: frozenset[str]) -> nn.Module:
    return heads.FeatureExtraction(_model(spec), None if "pooler" in absent else heads.TanhPooler(spec.hidden_size))


def _masked_lm(spec: Spec, absent: frozenset[str]) -> nn.Module:
    norm = LayerNorm(spec.hidden_size, spec.layer_norm_eps)
    transform = heads.LMTransform(spec.hidden_size, spec.hidden_size, F.gelu, norm)
    return heads.MaskedLM(_model(spec), transform, nn.Linear(spec.hidden_size, spec.vocab_size))


def _sequence(spec: Spec, absent: frozenset[str]) -> nn.Module:
    classifier = heads.ClassifierHead(spec.hidden_size, spec.labels, torch.tanh)
    return heads.SequenceClassification(_model(spec), heads.FirstToken(), classifier)


def _token(spec: Spec, absent: frozenset[str]) -> nn.Module:
    return heads.TokenClassification(_model(spec), nn.Linear(spec.hidden_size, spec.labels))


def _question(spec: Spec, absent: frozenset[str]) -> nn.Module:
    return heads.QuestionAnswering(_model(spec), nn.Linear(spec.hidden_size, 2))


def _choice(spec: Spec, absent: frozenset[str]) -> nn.Module:
    return heads.MultipleChoice(_model(spec), heads.TanhPooler(spec.hidden_size), nn.Linear(spec.hidden_size, 1))


def _weights(spec: Spec) -> tuple[Rule, ...]:
    return (
        Rename("mpnet.*", "*"),
        Ignore("embeddings.position_ids"),
        Rename("embeddings.word_embeddings.*", "model.embeddings.words.*"),
        Rename("embeddings.position_embeddings.*", "model.embeddings.positions.table.*"),
        Rename("embeddings.LayerNorm.*", "model.embeddings.norm.*"),
        Rename("encoder.relative_attention_bias.*", "model.bias.table.*"),
        Rename("encoder.layer.{}.attention.attn.q.*", "model.layers.{}.self_attn.q_proj.*"),
        Rename("encoder.layer.{}.attention.attn.k.*", "model.layers.{}.self_attn.k_proj.*"),
        Rename("encoder.layer.{}.attention.attn.v.*", "model.layers.{}.self_attn.v_proj.*"),
        Rename("encoder.layer.{}.attention.attn.o.*", "model.layers.{}.self_attn.o_proj.*"),
        Rename("encoder.layer.{}.attention.LayerNorm.*", "model.layers.{}.attention_norm.*"),
        Rename("encoder.layer.{}.intermediate.dense.*", "model.layers.{}.mlp.up_proj.*"),
        Rename("encoder.layer.{}.output.dense.*", "model.layers.{}.mlp.down_proj.*"),
        Rename("encoder.layer.{}.output.LayerNorm.*", "model.layers.{}.mlp_norm.*"),
        Rename("lm_head.dense.*", "transform.dense.*"),
        Rename("lm_head.layer_norm.*", "transform.norm.*"),
        Rename("lm_head.decoder.*", "decoder.*"),
        Tie("decoder.bias", "lm_head.bias"),
        Ignore("lm_head.bias"),
        *((Tie("decoder.weight", "model.embeddings.words.weight"),) if spec.tie_word_embeddings else ()),
    )


FAMILY = Family(
    spec=Spec,
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
    limits=lambda spec: spec.max_position_embeddings - _PADDING - 1,
    tiny={
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 48,
        "max_position_embeddings": 162,
        "vocab_size": 99,
    },
    variations=(
        {
            "hidden_size": 21,
            "num_attention_heads": 3,
            "intermediate_size": 37,
            "num_hidden_layers": 1,
            "hidden_act": "gelu_new",
            "tie_word_embeddings": False,
            "num_labels": 5,
            "vocab_size": 131,
            "layer_norm_eps": 1e-5,
            "pad_token_id": 0,
        },
        {"hidden_act": "relu", "num_labels": 1},
    ),
)
