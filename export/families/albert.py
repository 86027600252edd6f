"""ALBERT: BERT's layers, few of them and each used many times, over factorised embeddings.
https://arxiv.org/abs/1909.11942"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from precast.export import heads
from precast.export.blocks.activations import Activation, activation
from precast.export.blocks.embeddings import LearnedPositions, TextEmbeddings
from precast.export.blocks.norms import LayerNorm
from precast.export.families import Family
from precast.export.families.bert import BERT_LAYERS, BertSpec, layer
from precast.export.skeletons.encoder import Encoder
from precast.export.spec import hf
from precast.export.weights import Ignore, Lazy, Rename, Rule, Tie

__all__ = ["FAMILY", "AlbertSpec"]


@dataclass(frozen=True, kw_only=True)
class AlbertSpec(BertSpec):
    """BERT's keys with the defaults of ALBERT-xxlarge, and how layers are shared."""

    vocab_size: int = hf(default=30000)
    embedding_size: int = hf(default=128)
    hidden_size: int = hf(default=4096)
    num_hidden_groups: int = hf(default=1)
    inner_group_num: int = hf(default=1)
    num_attention_heads: int = hf(default=64)
    intermediate_size: int = hf(default=16384)
    hidden_act: Activation = hf(default=activation("gelu_new"), read=activation)

    @property
    def schedule(self) -> tuple[tuple[int, int], ...]:
        """(group, layer of the group) for each layer that is run, in order; groups take equal shares of the depth."""
        per_group = self.num_hidden_layers / self.num_hidden_groups
        return tuple(
            (int(step / per_group), inner)
            for step in range(self.num_hidden_layers)
            for inner in range(self.inner_group_num)
        )


@dataclass(frozen=True)
class _Share(Rule):
    """Give each stored layer to every layer of the schedule that uses it: one tensor, hence one parameter."""

    schedule: tuple[tuple[int, int], ...]

    def apply(self, table: dict[str, Lazy]) -> dict[str, Lazy]:
        root = "encoder.albert_layer_groups."
        shared = {key: lazy for key, lazy in table.items() if not key.startswith(root)}
        for index, (group, inner) in enumerate(self.schedule):
            stored = f"{root}{group}.albert_layers.{inner}."
            for key, lazy in table.items():
                if key.startswith(stored):
                    shared[f"layers.{index}.{key.removeprefix(stored)}"] = lazy
        return shared


def _model(spec: AlbertSpec) -> Encoder:
    return Encoder(
        embeddings=TextEmbeddings(
            spec.vocab_size,
            spec.embedding_size,
            positions=LearnedPositions(spec.max_position_embeddings, spec.embedding_size),
            token_types=spec.type_vocab_size,
            norm=LayerNorm(spec.embedding_size, spec.layer_norm_eps),
        ),
        projection=nn.Linear(spec.embedding_size, spec.hidden_size),
        layers=[layer(spec) for _ in spec.schedule],
    )


def _base(spec: AlbertSpec, absent: frozenset[str]) -> nn.Module:
    return heads.FeatureExtraction(_model(spec), None if "pooler" in absent else heads.TanhPooler(spec.hidden_size))


def _masked_lm(spec: AlbertSpec, absent: frozenset[str]) -> nn.Module:
    norm = LayerNorm(spec.embedding_size, spec.layer_norm_eps)
    return heads.MaskedLM(
        _model(spec),
        heads.LMTransform(spec.hidden_size, spec.embedding_size, spec.hidden_act, norm),
        nn.Linear(spec.embedding_size, spec.vocab_size),
    )


def _sequence(spec: AlbertSpec, absent: frozenset[str]) -> nn.Module:
    classifier = nn.Linear(spec.hidden_size, spec.labels)
    return heads.SequenceClassification(_model(spec), heads.TanhPooler(spec.hidden_size), classifier)


def _token(spec: AlbertSpec, absent: frozenset[str]) -> nn.Module:
    return heads.TokenClassification(_model(spec), nn.Linear(spec.hidden_size, spec.labels))


def _question(spec: AlbertSpec, absent: frozenset[str]) -> nn.Module:
    return heads.QuestionAnswering(_model(spec), nn.Linear(spec.hidden_size, 2))


def _choice(spec: AlbertSpec, absent: frozenset[str]) -> nn.Module:
    return heads.MultipleChoice(_model(spec), heads.TanhPooler(spec.hidden_size), nn.Linear(spec.hidden_size, 1))


def _weights(spec: AlbertSpec) -> tuple[Rule, ...]:
    return (
        Rename("albert.*", "*"),
        Ignore("sop_classifier.*"),  # sentence order: a head of pretraining only
        *BERT_LAYERS,
        Rename("encoder.embedding_hidden_mapping_in.*", "model.projection.*"),
        _Share(spec.schedule),
        Rename("layers.{}.attention.query.*", "model.layers.{}.self_attn.q_proj.*"),
        Rename("layers.{}.attention.key.*", "model.layers.{}.self_attn.k_proj.*"),
        Rename("layers.{}.attention.value.*", "model.layers.{}.self_attn.v_proj.*"),
        Rename("layers.{}.attention.dense.*", "model.layers.{}.self_attn.o_proj.*"),
        Rename("layers.{}.attention.LayerNorm.*", "model.layers.{}.attention_norm.*"),
        Rename("layers.{}.ffn.*", "model.layers.{}.mlp.up_proj.*"),
        Rename("layers.{}.ffn_output.*", "model.layers.{}.mlp.down_proj.*"),
        Rename("layers.{}.full_layer_layer_norm.*", "model.layers.{}.mlp_norm.*"),
        Rename("pooler.*", "pooler.dense.*"),
        Rename("predictions.dense.*", "transform.dense.*"),
        Rename("predictions.LayerNorm.*", "transform.norm.*"),
        Rename("predictions.decoder.*", "decoder.*"),
        Tie("decoder.bias", "predictions.bias"),
        Ignore("predictions.bias"),
        *((Tie("decoder.weight", "model.embeddings.words.weight"),) if spec.tie_word_embeddings else ()),
    )


FAMILY = Family(
    spec=AlbertSpec,
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
    limits=lambda spec: spec.max_position_embeddings,
    token_types=lambda spec: spec.type_vocab_size,
    # Written by the original TensorFlow code; upstream reads none of them.
    tiny={
        "embedding_size": 20,
        "hidden_size": 32,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "intermediate_size": 48,
        "max_position_embeddings": 160,
        "vocab_size": 99,
    },
    variations=(
        # Odd sizes: 3 heads of 7 channels; two groups of two layers over an odd depth, another activation, untied
        # decoder, 5 labels.
        {
            "embedding_size": 13,
            "hidden_size": 21,
            "num_attention_heads": 3,
            "intermediate_size": 37,
            "num_hidden_layers": 3,
            "num_hidden_groups": 2,
            "inner_group_num": 2,
            "type_vocab_size": 3,
            "hidden_act": "relu",
            "tie_word_embeddings": False,
            "num_labels": 5,
            "vocab_size": 131,
            "layer_norm_eps": 1e-5,
        },
        # Embeddings as wide as the layers are projected all the same.
        {"embedding_size": 32, "hidden_act": "gelu", "type_vocab_size": 1, "num_labels": 1},
    ),
)
