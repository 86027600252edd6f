"""Post-norm encoders of text as BERT arranges them: sizes, parts, names of weights, configs of tests.
https://arxiv.org/abs/1810.04805"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from precast.export.blocks.activations import Activation, activation
from precast.export.blocks.attention import SelfAttention
from precast.export.blocks.embeddings import LearnedPositions, TextEmbeddings
from precast.export.blocks.mlp import MLP
from precast.export.blocks.norms import LayerNorm
from precast.export.families import TextSpec
from precast.export.heads import LMTransform
from precast.export.skeletons.encoder import Encoder, PostNormLayer
from precast.export.spec import hf
from precast.export.weights import Ignore, Rename, Rule, Tie, Within

__all__ = [
    "EMBEDDING_NAMES",
    "LM_NAMES",
    "ODD",
    "PREDICTION_NAMES",
    "TINY",
    "EncoderSpec",
    "body",
    "embeddings",
    "encoder",
    "layer",
    "layer_names",
    "lm_names",
    "names",
    "norm",
    "tied",
    "transform",
]


@dataclass(frozen=True, kw_only=True)
class EncoderSpec(TextSpec):
    """Sizes of an encoder of BERT's shape, without token types; defaults are BERT-base's."""

    embedding_size: int | None = hf(default=None, only=(None,))
    hidden_size: int = hf(default=768)
    num_hidden_layers: int = hf(default=12)
    num_attention_heads: int = hf(default=12)
    intermediate_size: int = hf(default=3072)
    hidden_act: Activation = hf(default=activation("gelu"), read=activation)
    max_position_embeddings: int = hf(default=512)
    type_vocab_size: int = hf(default=0, only=(0,))
    layer_norm_eps: float = hf(default=1e-12)

    @property
    def words_size(self) -> int:
        """Channels of the embeddings, which are the layers' unless a family factorises them."""
        return self.embedding_size or self.hidden_size


def norm(spec: EncoderSpec, size: int | None = None) -> LayerNorm:
    """Of ``size`` channels; None: the layers'."""
    return LayerNorm(size or spec.hidden_size, spec.layer_norm_eps)


def embeddings(
    spec: EncoderSpec, positions: nn.Module | None = None, *, boxes: nn.Module | None = None
) -> TextEmbeddings:
    """``positions``: in place of a table of all of them; ``boxes``: as in `TextEmbeddings`."""
    size = spec.words_size
    return TextEmbeddings(
        spec.vocab_size,
        size,
        positions=LearnedPositions(spec.max_position_embeddings, size) if positions is None else positions,
        token_types=spec.type_vocab_size,
        norm=norm(spec, size),
        boxes=boxes,
    )


def layer(spec: EncoderSpec, attention: type[SelfAttention] = SelfAttention) -> PostNormLayer:
    """One of BERT's layers; ``attention``: the class of its attention."""
    return PostNormLayer(
        attention=attention(spec.hidden_size, heads=spec.num_attention_heads),
        attention_norm=norm(spec),
        mlp=MLP(spec.hidden_size, spec.intermediate_size, spec.hidden_act),
        mlp_norm=norm(spec),
    )


def encoder(
    spec: EncoderSpec, embeddings: nn.Module, *, projection: nn.Module | None = None, bias: nn.Module | None = None
) -> Encoder:
    """Layers behind ``embeddings``; the other parts as in `Encoder`."""
    if projection is None and spec.words_size != spec.hidden_size:
        projection = nn.Linear(spec.words_size, spec.hidden_size)
    layers = [layer(spec) for _ in range(spec.num_hidden_layers)]
    return Encoder(embeddings=embeddings, projection=projection, layers=layers, bias=bias)


def body(spec: EncoderSpec) -> Encoder:
    """Of a family that has all parts as they are here."""
    return encoder(spec, embeddings(spec))


def transform(spec: EncoderSpec, act: Activation | None = None) -> LMTransform:
    """In front of the decoder of a masked-LM head."""
    return LMTransform(spec.hidden_size, spec.words_size, act or spec.hidden_act, norm(spec, spec.words_size))


# Names behind "embeddings.".
EMBEDDING_NAMES: tuple[Rule, ...] = (
    Ignore("position_ids"),
    Ignore("token_type_ids"),
    Rename("word_embeddings.*", "words.*"),
    Rename("position_embeddings.*", "positions.table.*"),
    Rename("token_type_embeddings.*", "token_types.*"),
    Rename("LayerNorm.*", "norm.*"),
)


def layer_names(
    *,
    q_proj: str = "attention.self.query",
    k_proj: str = "attention.self.key",
    v_proj: str = "attention.self.value",
    o_proj: str = "attention.output.dense",
    attention_norm: str = "attention.output.LayerNorm",
    up_proj: str = "intermediate.dense",
    down_proj: str = "output.dense",
    mlp_norm: str = "output.LayerNorm",
) -> tuple[Rule, ...]:
    """Behind a layer's own prefix."""
    attention = {"q_proj": q_proj, "k_proj": k_proj, "v_proj": v_proj, "o_proj": o_proj}
    return (
        *(Rename(f"{old}.*", f"self_attn.{new}.*") for new, old in attention.items()),
        Rename(f"{attention_norm}.*", "attention_norm.*"),
        Rename(f"{up_proj}.*", "mlp.up_proj.*"),
        Rename(f"{down_proj}.*", "mlp.down_proj.*"),
        Rename(f"{mlp_norm}.*", "mlp_norm.*"),
    )


def names(prefix: str, at: str = "encoder.layer.{}.", **layer: str) -> tuple[Rule, ...]:
    """Of the model behind ``prefix``; ``at``: where it has its layers; ``layer``: as `layer_names`."""
    return (
        Rename(f"{prefix}.*", "*"),
        Rename("*.gamma", "*.weight"),  # checkpoints converted from TensorFlow
        Rename("*.beta", "*.bias"),
        Within("embeddings.", EMBEDDING_NAMES, to="model.embeddings."),
        Within(at, layer_names(**layer), to="model.layers.{}."),
    )


def lm_names(dense: str, norm: str, decoder: str, bias: str | None = None) -> tuple[Rule, ...]:
    """Of a masked-LM head; ``bias``: the name beside its decoder under which the decoder's bias is stored too."""
    return (
        Rename(f"{dense}.*", "transform.dense.*"),
        Rename(f"{norm}.*", "transform.norm.*"),
        Rename(f"{decoder}.*", "decoder.*"),
        *(() if bias is None else (Tie("decoder.bias", bias), Ignore(bias))),
    )


def tied(spec: TextSpec) -> tuple[Rule, ...]:
    """The decoder is the table of words, unless config.json says otherwise."""
    return (Tie("decoder.weight", "model.embeddings.words.weight"),) if spec.tie_word_embeddings else ()


PREDICTION_NAMES = lm_names(
    *("cls.predictions.transform.dense", "cls.predictions.transform.LayerNorm"),
    *("cls.predictions.decoder", "cls.predictions.bias"),
)
"""BERT's."""
LM_NAMES = lm_names("lm_head.dense", "lm_head.layer_norm", "lm_head.decoder", "lm_head.bias")
"""RoBERTa's."""

# config.json of a tiny encoder; and over it odd sizes (3 heads of 7 channels, one layer), the other GELU, an untied
# decoder, 5 labels.
TINY: Mapping[str, Any] = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48,
    "max_position_embeddings": 160, "vocab_size": 99,
}  # fmt: skip
ODD: Mapping[str, Any] = {
    "hidden_size": 21, "num_hidden_layers": 1, "num_attention_heads": 3, "intermediate_size": 37, "vocab_size": 131,
    "hidden_act": "gelu_new", "layer_norm_eps": 1e-5, "tie_word_embeddings": False, "num_labels": 5,
}  # fmt: skip
