"""Falcon, in its three forms: attention and MLP beside each other behind one norm (7B, 11B) or two (40B, 180B), one or
a few heads of keys and values, rotary positions; or one after the other, with linear biases (RW).
https://arxiv.org/abs/2311.16867, https://arxiv.org/abs/2306.01116"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from precast.export.blocks.activations import Activation, activation
from precast.export.blocks.alibi import RoundedAlibi
from precast.export.families import Family, bloom
from precast.export.head_sets.decoders import (
    QKV,
    TINY,
    DecoderSpec,
    RotarySpec,
    attention,
    causal_heads,
    layer_norm,
    mlp,
    names,
    tied,
)
from precast.export.skeletons.decoder import DecoderLayer, ParallelLayer
from precast.export.spec import hf
from precast.export.weights import Ignore, Rename, Rule, Split
from precast.runtime.errors import ConfigError

__all__ = ["FAMILY", "FalconSpec"]


@dataclass(frozen=True, kw_only=True)
class FalconSpec(RotarySpec):
    """Upstream's keys; its defaults are Falcon 7B's."""

    vocab_size: int = hf(default=65024)
    hidden_size: int = hf(("n_embed", "hidden_size"), default=4544)
    num_hidden_layers: int = hf(default=32)
    num_attention_heads: int = hf(default=71)
    num_kv_heads: int | None = hf(default=None)
    num_ln_in_parallel_attn: int | None = hf(default=None, only=(None, 1, 2))
    layer_norm_eps: float = hf("layer_norm_epsilon", default=1e-5)
    alibi: bool = hf(default=False)
    new_decoder_architecture: bool = hf(default=False)
    multi_query: bool = hf(default=True)
    parallel_attn: bool = hf(default=True)
    bias: bool = hf(default=False)
    max_position_embeddings: int = hf(default=2048)
    intermediate_size: int | None = hf("ffn_hidden_size", default=None)
    hidden_act: Activation = hf("activation", default=activation("gelu"), read=activation)
    tie_word_embeddings: bool = hf(default=True)
    apply_residual_connection_post_layernorm: bool = hf(default=False, only=(False,))

    def __post_init__(self) -> None:
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
        if self.alibi:
            DecoderSpec.__post_init__(self)  # nothing is turned
        else:
            super().__post_init__()

    @property
    def kv_heads(self) -> int:
        """Heads of keys and values."""
        if self.multi_query and not self.new_decoder_architecture:
            return 1
        return self.num_kv_heads or self.num_attention_heads

    @property
    def two_norms(self) -> bool:
        """Attention and MLP have a norm each."""
        return not self.parallel_attn or (self.new_decoder_architecture and self.num_ln_in_parallel_attn != 1)

    def ignored(self) -> tuple[str, ...]:
        """As `Spec`."""
        return () if self.alibi else super().ignored()


def _layers(spec: FalconSpec) -> list[nn.Module]:
    positions = None if spec.alibi else spec.rope.module()

    def made() -> nn.Module:
        kind: Callable[..., nn.Module] = ParallelLayer if spec.parallel_attn else DecoderLayer
        return kind(
            attention=attention(spec, bias=spec.bias, positions=positions),
            attention_norm=layer_norm(spec),
            mlp=mlp(spec, bias=spec.bias),
            mlp_norm=layer_norm(spec) if spec.two_norms else None,
        )

    return [made() for _ in range(spec.num_hidden_layers)]


def _biases(spec: FalconSpec) -> nn.Module | None:
    if not spec.alibi:
        return None
    return RoundedAlibi(spec.num_attention_heads, spec.max_position_embeddings, spec.size**0.5)


def _weights(spec: FalconSpec) -> tuple[Rule, ...]:
    # Each head of keys with the queries it serves, then its key and its value.
    shares = (spec.num_attention_heads // spec.kv_heads, 1, 1)
    return (
        Rename("transformer.*", "*"),
        Ignore("rotary_emb.inv_freq"),
        Ignore("h.{}.self_attention.*.inv_freq"),
        Split("h.{}.self_attention.query_key_value.*", QKV, groups=spec.kv_heads, shares=shares),
        *names("h.{}", attention_norm="ln_attn", mlp_norm="ln_mlp"),
        *bloom.NAMES,
        *tied(spec),
    )


FAMILY = Family(
    spec=FalconSpec,
    heads=causal_heads(_layers, norm=layer_norm, bias=_biases, positions=lambda spec: not spec.alibi),
    weights=_weights,
    final_norm=True,
    inert=frozenset({"hidden_dropout"}),
    tiny={**TINY, "pad_token_id": 0},
    variations=(
        # Falcon 40B: two norms, groups of queries.
        {"new_decoder_architecture": True, "num_kv_heads": 2, "ffn_hidden_size": 48, "tie_word_embeddings": False}
        | {"activation": "gelu_pytorch_tanh", "rope_parameters": {"rope_type": "default", "rope_theta": 500.0}},
        # Falcon RW: linear biases, biases, one after the other.
        {"num_attention_heads": 4, "alibi": True, "multi_query": False, "parallel_attn": False, "bias": True}
        | {"max_position_embeddings": 400},
        # Falcon 11B: groups of queries behind one norm.
        {"num_hidden_layers": 1, "new_decoder_architecture": True, "num_kv_heads": 1, "num_ln_in_parallel_attn": 1},
    ),
)
