"""BERT: a post-norm encoder with learned positions and token types. https://arxiv.org/abs/1810.04805"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from precast.export import heads
from precast.export.blocks.activations import Activation, activation
from precast.export.blocks.attention import SelfAttention
from precast.export.blocks.embeddings import LearnedPositions, TextEmbeddings
from precast.export.blocks.mlp import MLP
from precast.export.blocks.norms import LayerNorm
from precast.export.families import Family, TextSpec
from precast.export.skeletons.encoder import Encoder, PostNormLayer
from precast.export.spec import hf
from precast.export.weights import Ignore, Rename, Rule, Tie

__all__ = ["BERT_LAYERS", "FAMILY", "BertSpec", "layer"]


@dataclass(frozen=True, kw_only=True)
class BertSpec(TextSpec):
    """Keys that BERT's relatives share; upstream's defaults are BERT-base's."""

    vocab_size: int = hf(default=30522)
    pad_token_id: int | None = hf(default=0)
    hidden_size: int = hf(default=768)
    num_hidden_layers: int = hf(default=12)
    num_attention_heads: int = hf(default=12)
    intermediate_size: int = hf(default=3072)
    hidden_act: Activation = hf(default=activation("gelu"), read=activation)
    max_position_embeddings: int = hf(default=512)
    type_vocab_size: int = hf(default=2)
    layer_norm_eps: float = hf(default=1e-12)
    position_embedding_type: str = hf(default="absolute", only=("absolute",))


def layer(spec: BertSpec) -> PostNormLayer:
    """One encoder layer; ELECTRA and RoBERTa have the same one."""
    return PostNormLayer(
        attention=SelfAttention(spec.hidden_size, heads=spec.num_attention_heads),
        attention_norm=LayerNorm(spec.hidden_size, spec.layer_norm_eps),
        mlp=MLP(spec.hidden_size, spec.intermediate_size, spec.hidden_act),
        mlp_norm=LayerNorm(spec.hidden_size, spec.layer_norm_eps),
    )


def _model(spec: BertSpec) -> Encoder:
    return Encoder(
        embeddings=TextEmbeddings(
            spec.vocab_size,
            spec.hidden_size,
            positions=LearnedPositions(spec.max_position_embeddings, spec.hidden_size),
            token_types=spec.type_vocab_size,
            norm=LayerNorm(spec.hidden_size, spec.layer_norm_eps),
        ),
        layers=[layer(spec) for _ in range(spec.num_hidden_layers)],
    )


def _base(spec: BertSpec, absent: frozenset[str]) -> nn.Module:
    return heads.FeatureExtraction(_model(spec), None if "pooler" in absent else heads.TanhPooler(spec.hidden_size))


def _masked_lm(spec: BertSpec, absent: frozenset[str]) -> nn.Module:
    norm = LayerNorm(spec.hidden_size, spec.layer_norm_eps)
    return heads.MaskedLM(
        _model(spec),
        heads.LMTransform(spec.hidden_size, spec.hidden_size, spec.hidden_act, norm),
        nn.Linear(spec.hidden_size, spec.vocab_size),
    )


def _sequence(spec: BertSpec, absent: frozenset[str]) -> nn.Module:
    classifier = nn.Linear(spec.hidden_size, spec.labels)
    return heads.SequenceClassification(_model(spec), heads.TanhPooler(spec.hidden_size), classifier)


def _token(spec: BertSpec, absent: frozenset[str]) -> nn.Module:
    return heads.TokenClassification(_model(spec), nn.Linear(spec.hidden_size, spec.labels))


def _question(spec: BertSpec, absent: frozenset[str]) -> nn.Module:
    return heads.QuestionAnswering(_model(spec), nn.Linear(spec.hidden_size, 2))


def _choice(spec: BertSpec, absent: frozenset[str]) -> nn.Module:
    return heads.MultipleChoice(_model(spec), heads.TanhPooler(spec.hidden_size), nn.Linear(spec.hidden_size, 1))


def _next_sentence(spec: BertSpec, absent: frozenset[str]) -> nn.Module:
    return heads.NextSentence(_model(spec), heads.TanhPooler(spec.hidden_size), nn.Linear(spec.hidden_size, 2))


# Checkpoint names of a BERT-shaped layer, after the model's own prefix is gone.
BERT_LAYERS: tuple[Rule, ...] = (
    Rename("*.gamma", "*.weight"),  # checkpoints converted from TensorFlow
    Rename("*.beta", "*.bias"),
    Ignore("embeddings.position_ids"),
    Ignore("embeddings.token_type_ids"),
    Rename("embeddings.word_embeddings.*", "model.embeddings.words.*"),
    Rename("embeddings.position_embeddings.*", "model.embeddings.positions.table.*"),
    Rename("embeddings.token_type_embeddings.*", "model.embeddings.token_types.*"),
    Rename("embeddings.LayerNorm.*", "model.embeddings.norm.*"),
    Rename("encoder.layer.{}.attention.self.query.*", "model.layers.{}.self_attn.q_proj.*"),
    Rename("encoder.layer.{}.attention.self.key.*", "model.layers.{}.self_attn.k_proj.*"),
    Rename("encoder.layer.{}.attention.self.value.*", "model.layers.{}.self_attn.v_proj.*"),
    Rename("encoder.layer.{}.attention.output.dense.*", "model.layers.{}.self_attn.o_proj.*"),
    Rename("encoder.layer.{}.attention.output.LayerNorm.*", "model.layers.{}.attention_norm.*"),
    Rename("encoder.layer.{}.intermediate.dense.*", "model.layers.{}.mlp.up_proj.*"),
    Rename("encoder.layer.{}.output.dense.*", "model.layers.{}.mlp.down_proj.*"),
    Rename("encoder.layer.{}.output.LayerNorm.*", "model.layers.{}.mlp_norm.*"),
)


def _weights(spec: BertSpec) -> tuple[Rule, ...]:
    return (
        Rename("bert.*", "*"),
        *BERT_LAYERS,
        Rename("cls.predictions.transform.dense.*", "transform.dense.*"),
        Rename("cls.predictions.transform.LayerNorm.*", "transform.norm.*"),
        Rename("cls.predictions.decoder.*", "decoder.*"),
        Tie("decoder.bias", "cls.predictions.bias"),
        Ignore("cls.predictions.bias"),
        Rename("cls.seq_relationship.*", "seq_relationship.*"),
        *((Tie("decoder.weight", "model.embeddings.words.weight"),) if spec.tie_word_embeddings else ()),
    )


FAMILY = Family(
    spec=BertSpec,
    heads={
        heads.BASE: _base,
        heads.MASKED_LM: _masked_lm,
        heads.SEQUENCE_CLASSIFICATION: _sequence,
        heads.TOKEN_CLASSIFICATION: _token,
        heads.QUESTION_ANSWERING: _question,
        heads.MULTIPLE_CHOICE: _choice,
        heads.NEXT_SENTENCE: _next_sentence,
    },
    weights=_weights,
    optional=("pooler",),
    inputs=lambda spec: ("input_ids", "attention_mask", "token_type_ids"),
    limits=lambda spec: spec.max_position_embeddings,
    token_types=lambda spec: spec.type_vocab_size,
    tiny={
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 48,
        "max_position_embeddings": 160,
        "vocab_size": 99,
    },
    variations=(
        # Odd sizes: 3 heads of 7 channels, one layer, more token types, the other GELU, untied decoder, 3 labels.
        {
            "hidden_size": 21,
            "num_attention_heads": 3,
            "intermediate_size": 37,
            "num_hidden_layers": 1,
            "type_vocab_size": 3,
            "hidden_act": "gelu_new",
            "tie_word_embeddings": False,
            "num_labels": 5,
            "vocab_size": 131,
            "layer_norm_eps": 1e-5,
        },
        {"hidden_act": "relu", "type_vocab_size": 1, "num_labels": 1},
    ),
)
