"""ELECTRA: BERT's layers over factorised embeddings, trained as a discriminator beside a small generator.
https://arxiv.org/abs/2003.10555"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from precast.export import heads
from precast.export.blocks.activations import Activation, activation
from precast.export.blocks.embeddings import LearnedPositions, TextEmbeddings
from precast.export.blocks.norms import LayerNorm
from precast.export.families import Family
from precast.export.families.bert import BERT_LAYERS, BertSpec, layer
from precast.export.families.distilbert import ProjectedClassifier
from precast.export.skeletons.encoder import Encoder
from precast.export.spec import hf
from precast.export.weights import Ignore, Rename, Rule, Tie

__all__ = ["FAMILY", "ElectraSpec"]

_GELU = activation("gelu")  # of the heads, whatever hidden_act says


def _summary_activation(name: str | None) -> Activation | None:
    return activation(name) if name else None


@dataclass(frozen=True, kw_only=True)
class ElectraSpec(BertSpec):
    """BERT's keys with the defaults of ELECTRA-small; ``summary_*`` is how multiple choice reads a text."""

    embedding_size: int = hf(default=128)
    hidden_size: int = hf(default=256)
    num_attention_heads: int = hf(default=4)
    intermediate_size: int = hf(default=1024)
    summary_type: str = hf(default="first", only=("first",))
    summary_use_proj: bool = hf(default=True)
    summary_proj_to_labels: bool = hf(default=False, only=(False,))
    summary_activation: Activation | None = hf(default=_GELU, read=_summary_activation)


def _model(spec: ElectraSpec) -> Encoder:
    factorised = spec.embedding_size != spec.hidden_size
    return Encoder(
        embeddings=TextEmbeddings(
            spec.vocab_size,
            spec.embedding_size,
            positions=LearnedPositions(spec.max_position_embeddings, spec.embedding_size),
            token_types=spec.type_vocab_size,
            norm=LayerNorm(spec.embedding_size, spec.layer_norm_eps),
        ),
        projection=nn.Linear(spec.embedding_size, spec.hidden_size) if factorised else None,
        layers=[layer(spec) for _ in range(spec.num_hidden_layers)],
    )


def _base(spec: ElectraSpec, absent: frozenset[str]) -> nn.Module:
    return heads.FeatureExtraction(_model(spec))


def _masked_lm(spec: ElectraSpec, absent: frozenset[str]) -> nn.Module:
    norm = LayerNorm(spec.embedding_size, spec.layer_norm_eps)
    return heads.MaskedLM(
        _model(spec),
        heads.LMTransform(spec.hidden_size, spec.embedding_size, _GELU, norm),
        nn.Linear(spec.embedding_size, spec.vocab_size),
    )


def _sequence(spec: ElectraSpec, absent: frozenset[str]) -> nn.Module:
    classifier = heads.ClassifierHead(spec.hidden_size, spec.labels, _GELU)
    return heads.SequenceClassification(_model(spec), heads.FirstToken(), classifier)


def _token(spec: ElectraSpec, absent: frozenset[str]) -> nn.Module:
    return heads.TokenClassification(_model(spec), nn.Linear(spec.hidden_size, spec.labels))


def _question(spec: ElectraSpec, absent: frozenset[str]) -> nn.Module:
    return heads.QuestionAnswering(_model(spec), nn.Linear(spec.hidden_size, 2))


def _choice(spec: ElectraSpec, absent: frozenset[str]) -> nn.Module:
    dense = nn.Linear(spec.hidden_size, spec.hidden_size) if spec.summary_use_proj else nn.Identity()
    classifier = ProjectedClassifier(spec.hidden_size, 1, dense, spec.summary_activation or nn.Identity())
    return heads.MultipleChoice(_model(spec), heads.FirstToken(), classifier)


def _weights(spec: ElectraSpec) -> tuple[Rule, ...]:
    return (
        Rename("electra.*", "*"),
        Ignore("discriminator_predictions.*"),  # says which tokens were replaced: a head of pretraining only
        *BERT_LAYERS,
        Rename("embeddings_project.*", "model.projection.*"),
        Rename("generator_predictions.dense.*", "transform.dense.*"),
        Rename("generator_predictions.LayerNorm.*", "transform.norm.*"),
        Rename("generator_lm_head.*", "decoder.*"),
        Rename("sequence_summary.summary.*", "classifier.dense.*"),
        *((Tie("decoder.weight", "model.embeddings.words.weight"),) if spec.tie_word_embeddings else ()),
    )


FAMILY = Family(
    spec=ElectraSpec,
    heads={
        heads.BASE: _base,
        heads.MASKED_LM: _masked_lm,
        heads.SEQUENCE_CLASSIFICATION: _sequence,
        heads.TOKEN_CLASSIFICATION: _token,
        heads.QUESTION_ANSWERING: _question,
        heads.MULTIPLE_CHOICE: _choice,
    },
    weights=_weights,
    inputs=lambda spec: ("input_ids", "attention_mask", "token_type_ids"),
    limits=lambda spec: spec.max_position_embeddings,
    token_types=lambda spec: spec.type_vocab_size,
    refused={
        "ForPreTraining": "a discriminator: it tells replaced tokens from real ones and predicts no words. "
        "Its encoder can be exported with task 'feature-extraction'; for 'fill-mask' take the generator that was "
        "trained beside it (ElectraForMaskedLM)"
    },
    # Dropout of the summary.
    inert=frozenset({"summary_first_dropout", "summary_last_dropout"}),
    tiny={
        "embedding_size": 20,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 48,
        "max_position_embeddings": 160,
        "vocab_size": 99,
    },
    variations=(
        # Odd sizes: 3 heads of 7 channels, no projection, one layer, an activation the heads must not follow, untied
        # decoder, 5 labels, a summary without projection.
        {
            "embedding_size": 21,
            "hidden_size": 21,
            "num_attention_heads": 3,
            "intermediate_size": 37,
            "num_hidden_layers": 1,
            "type_vocab_size": 3,
            "hidden_act": "relu",
            "tie_word_embeddings": False,
            "num_labels": 5,
            "vocab_size": 131,
            "layer_norm_eps": 1e-5,
            "summary_use_proj": False,
            "summary_activation": "tanh",
        },
        {"hidden_act": "gelu_new", "type_vocab_size": 1, "num_labels": 1, "summary_activation": ""},
    ),
)
