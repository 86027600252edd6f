"""T5: a pre-norm encoder-decoder with RMS norms, no biases, and relative positions in place of absolute ones.
https://arxiv.org/abs/1910.10683; v1.1, FLAN (https://arxiv.org/abs/2210.11416), UL2 (https://arxiv.org/abs/2205.05131),
ByT5 (https://arxiv.org/abs/2105.13626) and MADLAD-400 (https://arxiv.org/abs/2309.04662) differ in their configs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from torch import nn

from precast.export import heads
from precast.export.blocks.activations import Activation, activation
from precast.export.blocks.attention import CachedSelfAttention, CrossAttention, SelfAttention
from precast.export.blocks.embeddings import TextEmbeddings
from precast.export.blocks.mlp import MLP, GatedMLP
from precast.export.blocks.norms import RMSNorm
from precast.export.blocks.relative import (
    RelativeBias,
    RelativeIndex,
    SteppedRelativeBias,
    one_sided_buckets,
    two_sided_buckets,
)
from precast.export.families import Family, TextSpec
from precast.export.generative import Seq2SeqLM
from precast.export.skeletons.decoder import Decoder, DecoderLayer, TokenEmbeddings
from precast.export.skeletons.encoder import PreNormEncoder, PreNormLayer
from precast.export.spec import hf
from precast.export.weights import Ignore, Rename, Rule, Tie
from precast.runtime.errors import ConfigError

__all__ = [
    "FAMILY",
    "INERT",
    "T5_NAMES",
    "T5Spec",
    "decoder_bias",
    "decoder_parts",
    "encoder_bias",
    "encoder_parts",
    "seq2seq_lm",
]


@dataclass(frozen=True, kw_only=True)
class T5Spec(TextSpec):
    """Defaults are T5-small's."""

    is_encoder_decoder: bool = hf(default=True, only=(True,))
    vocab_size: int = hf(default=32128)
    hidden_size: int = hf(("d_model", "hidden_size"), default=512)
    head_dim: int = hf(("d_kv", "head_dim"), default=64)
    intermediate_size: int = hf("d_ff", default=2048)
    num_hidden_layers: int = hf(("num_layers", "num_hidden_layers"), default=6)
    num_decoder_layers: int | None = hf(default=None)
    num_attention_heads: int = hf(("num_heads", "num_attention_heads"), default=8)
    buckets: int = hf("relative_attention_num_buckets", default=32)
    furthest: int = hf("relative_attention_max_distance", default=128)
    layer_norm_epsilon: float = hf(default=1e-6)
    feed_forward_proj: str = hf(default="relu")
    # What upstream derives from it and writes as well; read back, these count.
    dense_act_fn: str | None = hf(default=None)
    is_gated_act: bool | None = hf(default=None)
    # T5 1.0 has one matrix for embeddings and logits, which come out sqrt(d_model) times too large.
    scale_decoder_outputs: bool | None = hf(default=None)

    def __post_init__(self) -> None:
        words = self.feed_forward_proj.split("-")
        if len(words) > 2 or (len(words) == 2 and words[0] != "gated"):
            raise ConfigError(
                f"'feed_forward_proj' is an activation, or 'gated-' and an activation; received "
                f"{self.feed_forward_proj!r}. Known: relu, gated-gelu, gated-silu ..."
            )
        if self.buckets < 4 or self.buckets % 4 or self.furthest <= self.buckets // 2:
            raise ConfigError(
                f"'relative_attention_num_buckets' is a multiple of 4, half of it below "
                f"'relative_attention_max_distance'; received {self.buckets} and {self.furthest}"
            )
        try:
            activation(self._act_name)
        except ValueError as error:
            raise ConfigError(f"'feed_forward_proj' is {self.feed_forward_proj!r}: {error}") from error

    @property
    def _act_name(self) -> str:
        # The name says gelu, and the models were trained with its tanh approximation.
        named = "gelu_new" if self.feed_forward_proj == "gated-gelu" else self.feed_forward_proj.split("-")[-1]
        return self.dense_act_fn or named

    @property
    def act(self) -> Activation:
        """Of the feed-forward blocks."""
        return activation(self._act_name)

    @property
    def gated(self) -> bool:
        """Whether the feed-forward blocks have gates."""
        return self.feed_forward_proj.startswith("gated-") if self.is_gated_act is None else self.is_gated_act

    @property
    def decoder_layers(self) -> int:
        """Layers of the decoder; as many as the encoder's where nothing else is said."""
        return self.num_hidden_layers if self.num_decoder_layers is None else self.num_decoder_layers

    @property
    def logit_scale(self) -> float | None:
        """Factor of the states that logits are computed from."""
        tied = self.tie_word_embeddings if self.scale_decoder_outputs is None else self.scale_decoder_outputs
        return self.hidden_size**-0.5 if tied else None


def _mlp(spec: T5Spec) -> nn.Module:
    block = GatedMLP if spec.gated else MLP
    return block(spec.hidden_size, spec.intermediate_size, spec.act, bias=False)


def _norm(spec: T5Spec) -> RMSNorm:
    return RMSNorm(spec.hidden_size, spec.layer_norm_epsilon)


def encoder_parts(spec: T5Spec) -> dict[str, Any]:
    """Of one layer of the encoder; scores are not scaled."""
    return {
        "attention": SelfAttention(
            spec.hidden_size, heads=spec.num_attention_heads, head_dim=spec.head_dim, bias=False, scale=1.0
        ),
        "attention_norm": _norm(spec),
        "mlp": _mlp(spec),
        "mlp_norm": _norm(spec),
    }


def decoder_parts(spec: T5Spec) -> dict[str, Any]:
    """Of one layer of the decoder."""
    return {
        "attention": CachedSelfAttention(
            spec.hidden_size, heads=spec.num_attention_heads, head_dim=spec.head_dim, bias=False, scale=1.0
        ),
        "attention_norm": _norm(spec),
        "cross": CrossAttention(
            spec.hidden_size, heads=spec.num_attention_heads, head_dim=spec.head_dim, bias=False, scale=1.0
        ),
        "cross_norm": _norm(spec),
        "mlp": _mlp(spec),
        "mlp_norm": _norm(spec),
    }


def encoder_bias(spec: T5Spec) -> RelativeBias:
    """Relative positions of the encoder: keys on both sides."""
    index = RelativeIndex(spec.furthest, lambda distance: two_sided_buckets(distance, spec.buckets, spec.furthest))
    return RelativeBias(index, spec.buckets, spec.num_attention_heads)


def decoder_bias(spec: T5Spec) -> SteppedRelativeBias:
    """Relative positions of the decoder: keys before a query."""
    return SteppedRelativeBias(
        spec.furthest,
        lambda distance: one_sided_buckets(distance, spec.buckets, spec.furthest),
        spec.buckets,
        spec.num_attention_heads,
    )


def seq2seq_lm(
    spec: T5Spec,
    encoder_layers: Iterable[nn.Module],
    decoder_layers: Iterable[nn.Module],
    *,
    scale: float | None,
    encoder_bias: nn.Module | None = None,
    decoder_bias: nn.Module | None = None,
) -> Seq2SeqLM:
    """The layers between embeddings, final norms and head."""
    return Seq2SeqLM(
        PreNormEncoder(
            embeddings=TextEmbeddings(spec.vocab_size, spec.hidden_size, positions=None, token_types=0, norm=None),
            layers=encoder_layers,
            norm=_norm(spec),
            bias=encoder_bias,
        ),
        Decoder(
            embeddings=TokenEmbeddings(spec.vocab_size, spec.hidden_size),
            layers=decoder_layers,
            norm=_norm(spec),
            bias=decoder_bias,
        ),
        nn.Linear(spec.hidden_size, spec.vocab_size, bias=False),
        positions=False,
        scale=scale,
    )


def _seq2seq_lm(spec: T5Spec, absent: frozenset[str]) -> nn.Module:
    return seq2seq_lm(
        spec,
        [PreNormLayer(**encoder_parts(spec)) for _ in range(spec.num_hidden_layers)],
        [DecoderLayer(**decoder_parts(spec)) for _ in range(spec.decoder_layers)],
        scale=spec.logit_scale,
        encoder_bias=encoder_bias(spec),
        decoder_bias=decoder_bias(spec),
    )


_ENCODER, _DECODER = "encoder.block.{}.layer", "decoder.block.{}.layer"
_PROJECTIONS = {"q": "q_proj", "k": "k_proj", "v": "v_proj", "o": "o_proj"}
_FEED_FORWARD = {"wi": "up_proj", "wi_0": "gate_proj", "wi_1": "up_proj", "wo": "down_proj"}

# Checkpoint names; relative biases are the families' own.
T5_NAMES: tuple[Rule, ...] = (
    Rename("transformer.*", "*"),
    Ignore("decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"),
    *(
        Rename(f"{_ENCODER}.0.SelfAttention.{old}.weight", f"encoder.layers.{{}}.self_attn.{new}.weight")
        for old, new in _PROJECTIONS.items()
    ),
    *(
        Rename(f"{_DECODER}.0.SelfAttention.{old}.weight", f"model.layers.{{}}.self_attn.{new}.weight")
        for old, new in _PROJECTIONS.items()
    ),
    *(
        Rename(f"{_DECODER}.1.EncDecAttention.{old}.weight", f"model.layers.{{}}.cross_attn.{new}.weight")
        for old, new in _PROJECTIONS.items()
    ),
    *(
        Rename(f"{_ENCODER}.1.DenseReluDense.{old}.weight", f"encoder.layers.{{}}.mlp.{new}.weight")
        for old, new in _FEED_FORWARD.items()
    ),
    *(
        Rename(f"{_DECODER}.2.DenseReluDense.{old}.weight", f"model.layers.{{}}.mlp.{new}.weight")
        for old, new in _FEED_FORWARD.items()
    ),
    Rename(f"{_ENCODER}.0.layer_norm.weight", "encoder.layers.{}.attention_norm.weight"),
    Rename(f"{_ENCODER}.1.layer_norm.weight", "encoder.layers.{}.mlp_norm.weight"),
    Rename(f"{_DECODER}.0.layer_norm.weight", "model.layers.{}.attention_norm.weight"),
    Rename(f"{_DECODER}.1.layer_norm.weight", "model.layers.{}.cross_norm.weight"),
    Rename(f"{_DECODER}.2.layer_norm.weight", "model.layers.{}.mlp_norm.weight"),
    Rename("encoder.final_layer_norm.weight", "encoder.norm.weight"),
    Rename("decoder.final_layer_norm.weight", "model.norm.weight"),
    Rename("encoder.embed_tokens.weight", "encoder.embeddings.words.weight"),
    Rename("decoder.embed_tokens.weight", "model.embeddings.words.weight"),
    # Under any of these names, or all of them; a head of its own is stored, and then differs.
    Tie("encoder.embeddings.words.weight", "shared.weight"),
    Tie("model.embeddings.words.weight", "shared.weight"),
    Tie("lm_head.weight", "shared.weight"),
    Tie("encoder.embeddings.words.weight", "shared.weight"),
    Tie("model.embeddings.words.weight", "shared.weight"),
    Ignore("shared.weight"),
)


def _weights(spec: T5Spec) -> tuple[Rule, ...]:
    bias = "layer.0.SelfAttention.relative_attention_bias.weight"
    return (
        Rename(f"encoder.block.0.{bias}", "encoder.bias.table.weight"),
        Rename(f"decoder.block.0.{bias}", "model.bias.table.weight"),
        *T5_NAMES,
    )


# Training, and lengths that relative positions do not need.
INERT = frozenset({"dropout_rate", "initializer_factor", "n_positions"})

FAMILY = Family(
    spec=T5Spec,
    heads={heads.SEQ2SEQ_LM: _seq2seq_lm},
    weights=_weights,
    final_norm=True,
    inert=INERT,
    generation={"is_encoder_decoder": True, "pad_token_id": 0, "eos_token_id": 1},
    tiny={
        "d_model": 32,
        "d_kv": 8,
        "d_ff": 48,
        "num_layers": 2,
        "num_heads": 4,
        "vocab_size": 99,
        "decoder_start_token_id": 0,
    },
    variations=(
        # v1.1: gates, logits that are not scaled, heads that do not add up to the width, fewer layers here than there
        # (upstream's cache has no room for more).
        {
            "d_model": 26,
            "d_kv": 6,
            "num_heads": 3,
            "d_ff": 37,
            "num_layers": 3,
            "num_decoder_layers": 2,
            "feed_forward_proj": "gated-gelu",
            "tie_word_embeddings": False,
            "relative_attention_num_buckets": 12,
            "relative_attention_max_distance": 20,
            "layer_norm_epsilon": 1e-3,
            "vocab_size": 131,
        },
        {"feed_forward_proj": "gated-silu", "num_heads": 2, "d_kv": 16, "num_decoder_layers": 1},
    ),
)
