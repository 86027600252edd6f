"""DistilBERT: BERT's layers without token types and pooler. https://arxiv.org/abs/1910.01108"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

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

__all__ = ["FAMILY", "DistilBertSpec", "ProjectedClassifier"]

_EPS = 1e-12  # of every norm; no key of config.json changes it


@dataclass(frozen=True, kw_only=True)
class DistilBertSpec(TextSpec):
    """Keys of DistilBERT, some under names of their own; upstream takes either."""

    vocab_size: int = hf(default=30522)
    pad_token_id: int | None = hf(default=0)
    hidden_size: int = hf(("dim", "hidden_size"), default=768)
    num_hidden_layers: int = hf(("n_layers", "num_hidden_layers"), default=6)
    num_attention_heads: int = hf(("n_heads", "num_attention_heads"), default=12)
    intermediate_size: int = hf("hidden_dim", default=3072)
    hidden_act: Activation = hf("activation", default=activation("gelu"), read=activation)
    max_position_embeddings: int = hf(default=512)


class ProjectedClassifier(nn.Linear):
    """A classifier behind a layer of its own, linear(act(dense(x))), [B, H] -> [B, L].

    Its weight is where a plain classifier has it, because checkpoints name both alike.
    """

    def __init__(self, size: int, labels: int, dense: nn.Module, act: Activation) -> None:
        super().__init__(size, labels)
        self.act = act
        self.dense = dense

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(self.act(self.dense(x)))


def _layer(spec: DistilBertSpec) -> PostNormLayer:
    return PostNormLayer(
        attention=SelfAttention(spec.hidden_size, heads=spec.num_attention_heads),
        attention_norm=LayerNorm(spec.hidden_size, _EPS),
        mlp=MLP(spec.hidden_size, spec.intermediate_size, spec.hidden_act),
        mlp_norm=LayerNorm(spec.hidden_size, _EPS),
    )


def _model(spec: DistilBertSpec) -> Encoder:
    return Encoder(
        embeddings=TextEmbeddings(
            spec.vocab_size,
            spec.hidden_size,
            positions=LearnedPositions(spec.max_position_embeddings, spec.hidden_size),
            token_types=0,
            norm=LayerNorm(spec.hidden_size, _EPS),
        ),
        layers=[_layer(spec) for _ in range(spec.num_hidden_layers)],
    )


def _base(spec: DistilBertSpec, absent: frozenset[str]) -> nn.Module:
    return heads.FeatureExtraction(_model(spec))


def _masked_lm(spec: DistilBertSpec, absent: frozenset[str]) -> nn.Module:
    norm = LayerNorm(spec.hidden_size, _EPS)
    return heads.MaskedLM(
        _model(spec),
        heads.LMTransform(spec.hidden_size, spec.hidden_size, spec.hidden_act, norm),
        nn.Linear(spec.hidden_size, spec.vocab_size),
    )


def _sequence(spec: DistilBertSpec, absent: frozenset[str]) -> nn.Module:
    dense = nn.Linear(spec.hidden_size, spec.hidden_size)
    classifier = ProjectedClassifier(spec.hidden_size, spec.labels, dense, torch.relu)
    return heads.SequenceClassification(_model(spec), heads.FirstToken(), classifier)


def _token(spec: DistilBertSpec, absent: frozenset[str]) -> nn.Module:
    return heads.TokenClassification(_model(spec), nn.Linear(spec.hidden_size, spec.labels))


def _question(spec: DistilBertSpec, absent: frozenset[str]) -> nn.Module:
    return heads.QuestionAnswering(_model(spec), nn.Linear(spec.hidden_size, 2))


def _choice(spec: DistilBertSpec, absent: frozenset[str]) -> nn.Module:
    dense = nn.Linear(spec.hidden_size, spec.hidden_size)
    classifier = ProjectedClassifier(spec.hidden_size, 1, dense, torch.relu)
    return heads.MultipleChoice(_model(spec), heads.FirstToken(), classifier)


def _weights(spec: DistilBertSpec) -> tuple[Rule, ...]:
    return (
        Rename("distilbert.*", "*"),
        Rename("*.gamma", "*.weight"),  # checkpoints converted from TensorFlow
        Rename("*.beta", "*.bias"),
        Ignore("embeddings.position_ids"),
        Rename("embeddings.word_embeddings.*", "model.embeddings.words.*"),
        Rename("embeddings.position_embeddings.*", "model.embeddings.positions.table.*"),
        Rename("embeddings.LayerNorm.*", "model.embeddings.norm.*"),
        Rename("transformer.layer.{}.attention.q_lin.*", "model.layers.{}.self_attn.q_proj.*"),
        Rename("transformer.layer.{}.attention.k_lin.*", "model.layers.{}.self_attn.k_proj.*"),
        Rename("transformer.layer.{}.attention.v_lin.*", "model.layers.{}.self_attn.v_proj.*"),
        Rename("transformer.layer.{}.attention.out_lin.*", "model.layers.{}.self_attn.o_proj.*"),
        Rename("transformer.layer.{}.sa_layer_norm.*", "model.layers.{}.attention_norm.*"),
        Rename("transformer.layer.{}.ffn.lin1.*", "model.layers.{}.mlp.up_proj.*"),
        Rename("transformer.layer.{}.ffn.lin2.*", "model.layers.{}.mlp.down_proj.*"),
        Rename("transformer.layer.{}.output_layer_norm.*", "model.layers.{}.mlp_norm.*"),
        Rename("vocab_transform.*", "transform.dense.*"),
        Rename("vocab_layer_norm.*", "transform.norm.*"),
        Rename("vocab_projector.*", "decoder.*"),
        Rename("pre_classifier.*", "classifier.dense.*"),
        *((Tie("decoder.weight", "model.embeddings.words.weight"),) if spec.tie_word_embeddings else ()),
    )


FAMILY = Family(
    spec=DistilBertSpec,
    heads={
        heads.BASE: _base,
        heads.MASKED_LM: _masked_lm,
        heads.SEQUENCE_CLASSIFICATION: _sequence,
        heads.TOKEN_CLASSIFICATION: _token,
        heads.QUESTION_ANSWERING: _question,
        heads.MULTIPLE_CHOICE: _choice,
    },
    weights=_weights,
    limits=lambda spec: spec.max_position_embeddings,
    # How the positions were initialised, and that the decoder is tied; the table itself is always in the checkpoint.
    inert=frozenset({"sinusoidal_pos_embds"}),
    tiny={
        "dim": 32,
        "n_layers": 2,
        "n_heads": 4,
        "hidden_dim": 48,
        "max_position_embeddings": 160,
        "vocab_size": 99,
    },
    variations=(
        # Odd sizes: 3 heads of 7 channels, one layer, the other GELU, untied decoder, 5 labels.
        {
            "dim": 21,
            "n_heads": 3,
            "hidden_dim": 37,
            "n_layers": 1,
            "activation": "gelu_new",
            "tie_word_embeddings": False,
            "num_labels": 5,
            "vocab_size": 131,
        },
        {"activation": "relu", "sinusoidal_pos_embds": True, "num_labels": 1},
    ),
)
