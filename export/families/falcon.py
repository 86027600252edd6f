"""Falcon, in its three forms: attention and MLP beside each other behind one norm (7B, 11B) or two (40B, 180B), one or
a few heads of keys and values, rotary positions; or one after the other, with linear biases (RW).
https://arxiv.org/abs/2311.16867, https://arxiv.org/abs/2306.01116"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from precast.export import heads
from precast.export.blocks.activations import Activation, activation
from precast.export.blocks.alibi import RoundedAlibi
from precast.export.blocks.attention import CachedSelfAttention
from precast.export.blocks.mlp import MLP
from precast.export.blocks.norms import LayerNorm
from precast.export.blocks.rope import Rope, rope
from precast.export.blocks.rotary import SteppedRotary
from precast.export.families import Family, TextSpec
from precast.export.generative import CausalLM
from precast.export.skeletons.decoder import Decoder, DecoderLayer, ParallelLayer, TokenEmbeddings
from precast.export.spec import hf
from precast.export.weights import Ignore, Prefixed, Rename, Rule, SplitGroups, Tie
from precast.runtime.errors import ConfigError

__all__ = ["FAMILY", "FalconSpec"]


@dataclass(frozen=True, kw_only=True)
class FalconSpec(TextSpec):
    """Upstream's keys; its defaults are Falcon 7B's."""

    vocab_size: int = hf(default=65024)
    hidden_size: int = hf(("n_embed", "hidden_size"), default=4544)
    num_hidden_layers: int = hf(default=32)
    num_attention_heads: int = hf(default=71)
    num_kv_heads: int | None = hf(default=None)
    num_ln_in_parallel_attn: int | None = hf(default=None, only=(None, 1, 2))
    layer_norm_epsilon: float = hf(default=1e-5)
    alibi: bool = hf(default=False)
    new_decoder_architecture: bool = hf(default=False)
    multi_query: bool = hf(default=True)
    parallel_attn: bool = hf(default=True)
    bias: bool = hf(default=False)
    max_position_embeddings: int = hf(default=2048)
    rope_theta: float | None = hf(default=None)
    rope_scaling: dict[str, Any] | None = hf(default=None)
    rope_parameters: dict[str, Any] | None = hf(default=None)
    partial_rotary_factor: float | None = hf(default=None)
    ffn_hidden_size: int | None = hf(default=None)
    activation: Activation = hf(default=activation("gelu"), read=activation)
    tie_word_embeddings: bool = hf(default=True)
    apply_residual_connection_post_layernorm: bool = hf(default=False, only=(False,))

    def __post_init__(self) -> None:
        if self.hidden_size % self.num_attention_heads:
            raise ConfigError(
                f"'hidden_size' {self.hidden_size} must be a multiple of 'num_attention_heads' "
                f"{self.num_attention_heads}"
            )
        if self.num_attention_heads % self.kv_heads:
            raise ConfigError(
                f"'num_attention_heads' {self.num_attention_heads} must be a multiple of 'num_kv_heads' {self.kv_heads}"
            )
        if self.kv_heads != self.num_attention_heads and not (self.new_decoder_architecture or self.multi_query):
            raise ConfigError(
                f"'num_kv_heads' {self.num_kv_heads} needs 'new_decoder_architecture'; without it and without "
                "'multi_query' every head has its own keys"
            )
        if self.new_decoder_architecture and not self.parallel_attn:
            raise ConfigError("'new_decoder_architecture' has attention and MLP side by side: 'parallel_attn' is false")
        if self.num_ln_in_parallel_attn == 2 and not self.new_decoder_architecture:
            raise ConfigError("'num_ln_in_parallel_attn' 2 needs 'new_decoder_architecture'; only there are two norms")
        if not self.alibi:
            self.rope.check()

    @property
    def kv_heads(self) -> int:
        """Heads of keys and values."""
        if self.multi_query and not self.new_decoder_architecture:
            return 1
        return self.num_kv_heads or self.num_attention_heads

    @property
    def size(self) -> int:
        """Channels of a head."""
        return self.hidden_size // self.num_attention_heads

    @property
    def two_norms(self) -> bool:
        """Attention and MLP have a norm each."""
        return self.new_decoder_architecture and self.num_ln_in_parallel_attn != 1

    @property
    def rope(self) -> Rope:
        """How rotary angles are made."""
        return rope(
            self.size,
            parameters=self.rope_parameters,
            scaling=self.rope_scaling,
            theta=self.rope_theta,
            longest=self.max_position_embeddings,
            part=self.partial_rotary_factor,
        )

    def ignored(self) -> tuple[str, ...]:
        """As `Spec`."""
        return () if self.alibi else self.rope.ignored


def _layer(spec: FalconSpec, positions: SteppedRotary | None) -> nn.Module:
    attention = CachedSelfAttention(
        spec.hidden_size,
        heads=spec.num_attention_heads,
        kv_heads=spec.kv_heads,
        bias=spec.bias,
        positions=positions,
    )
    mlp = MLP(spec.hidden_size, spec.ffn_hidden_size or 4 * spec.hidden_size, spec.activation, bias=spec.bias)
    first = LayerNorm(spec.hidden_size, spec.layer_norm_epsilon)
    second = LayerNorm(spec.hidden_size, spec.layer_norm_epsilon)
    if spec.parallel_attn:
        mlp_norm = second if spec.two_norms else None
        return ParallelLayer(attention=attention, attention_norm=first, mlp=mlp, mlp_norm=mlp_norm)
    return DecoderLayer(attention=attention, attention_norm=first, mlp=mlp, mlp_norm=second)


def _causal_lm(spec: FalconSpec, absent: frozenset[str]) -> nn.Module:
    positions = None if spec.alibi else spec.rope.module()
    bias = None
    if spec.alibi:
        bias = RoundedAlibi(spec.num_attention_heads, spec.max_position_embeddings, spec.size**0.5)
    decoder = Decoder(
        embeddings=TokenEmbeddings(spec.vocab_size, spec.hidden_size),
        layers=[_layer(spec, positions) for _ in range(spec.num_hidden_layers)],
        norm=LayerNorm(spec.hidden_size, spec.layer_norm_epsilon),
        bias=bias,
    )
    head = nn.Linear(spec.hidden_size, spec.vocab_size, bias=False)
    return CausalLM(decoder, head, positions=not spec.alibi)


def _weights(spec: FalconSpec) -> tuple[Rule, ...]:
    tie = (Tie("lm_head.weight", "model.embeddings.words.weight"),) if spec.tie_word_embeddings else ()
    layers, attention = "model.layers.{}.", "model.layers.{}.self_attn."
    return (
        Prefixed("transformer"),
        Ignore("transformer.rotary_emb.inv_freq"),
        Ignore("transformer.h.{}.self_attention.*.inv_freq"),
        Rename("transformer.word_embeddings.*", "model.embeddings.words.*"),
        Rename("transformer.ln_f.*", "model.norm.*"),
        Rename("transformer.h.*", "model.layers.*"),
        # Each head of keys with the queries it serves, then its key and its value.
        SplitGroups(
            layers + "self_attention.query_key_value.*",
            tuple(f"{attention}{part}_proj.*" for part in "qkv"),
            groups=spec.kv_heads,
            shares=(spec.num_attention_heads // spec.kv_heads, 1, 1),
        ),
        Rename(layers + "self_attention.dense.*", attention + "o_proj.*"),
        Rename(layers + "input_layernorm.*", layers + "attention_norm.*"),
        Rename(layers + "post_attention_layernorm.*", layers + "mlp_norm.*"),
        Rename(layers + "ln_attn.*", layers + "attention_norm.*"),
        Rename(layers + "ln_mlp.*", layers + "mlp_norm.*"),
        Rename(layers + "mlp.dense_h_to_4h.*", layers + "mlp.up_proj.*"),
        Rename(layers + "mlp.dense_4h_to_h.*", layers + "mlp.down_proj.*"),
        *tie,
    )


FAMILY = Family(
    spec=FalconSpec,
    heads={heads.CAUSAL_LM: _causal_lm},
    weights=_weights,
    limits=lambda spec: spec.max_position_embeddings,
    final_norm=True,
    inert=frozenset({"hidden_dropout"}),
    tiny={
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 160,
        "vocab_size": 99,
        "pad_token_id": 0,
    },
    variations=(
        # Falcon 40B: two norms, groups of queries.
        {
            "new_decoder_architecture": True,
            "num_kv_heads": 2,
            "ffn_hidden_size": 48,
            "activation": "gelu_pytorch_tanh",
            "tie_word_embeddings": False,
            "rope_parameters": {"rope_type": "default", "rope_theta": 500.0},
        },
        # Falcon RW: linear biases, biases, one after the other.
        {
            "num_attention_heads": 4,
            "alibi": True,
            "multi_query": False,
            "parallel_attn": False,
            "bias": True,
            "max_position_embeddings": 400,
        },
        # Falcon 11B: groups of queries behind one norm.
        {"num_hidden_layers": 1, "new_decoder_architecture": True, "num_kv_heads": 1, "num_ln_in_parallel_attn": 1},
    ),
)
