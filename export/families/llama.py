"""Llama: a pre-norm decoder with RMS norms, rotary positions and gated MLPs. https://arxiv.org/abs/2302.13971,
https://arxiv.org/abs/2307.09288, https://arxiv.org/abs/2407.21783"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from precast.export.blocks.activations import Activation, activation
from precast.export.blocks.layer_types import windows
from precast.export.families import Family
from precast.export.head_sets.decoders import TINY, RotarySpec, causal_heads, layer, names, tied
from precast.export.spec import hf
from precast.export.weights import Ignore, Prefixed, Rule
from precast.runtime.errors import ConfigError

__all__ = ["FAMILY", "LlamaSpec", "RelativeSpec", "layers", "weights"]


@dataclass(frozen=True, kw_only=True)
class RelativeSpec(RotarySpec):
    """Keys that Llama and its relatives share; most of these have no biases."""

    vocab_size: int = hf(default=32000)
    hidden_size: int = hf(default=4096)
    intermediate_size: int = hf(default=11008)
    num_hidden_layers: int = hf(default=32)
    num_attention_heads: int = hf(default=32)
    num_key_value_heads: int | None = hf(default=None)
    head_dim: int | None = hf(default=None)
    hidden_act: Activation = hf(default=activation("silu"), read=activation)
    max_position_embeddings: int = hf(default=2048)
    rms_norm_eps: float = hf(default=1e-6)
    tie_word_embeddings: bool = hf(default=False)
    attention_bias: bool = hf(default=False, only=(False,))
    mlp_bias: bool = hf(default=False, only=(False,))
    pretraining_tp: int = hf(default=1)

    def __post_init__(self) -> None:
        if self.num_attention_heads % self.kv_heads:
            raise ConfigError(
                f"'num_attention_heads' {self.num_attention_heads} must be a multiple of 'num_key_value_heads' "
                f"{self.kv_heads}: each of those serves a group of equal size"
            )
        super().__post_init__()
        _ = self.windows  # raises where layers have none that they could have

    @property
    def kv_heads(self) -> int:
        """Heads of keys and values."""
        return self.num_key_value_heads or self.num_attention_heads

    @property
    def size(self) -> int:
        """Channels of a head."""
        return self.head_dim or self.hidden_size // self.num_attention_heads

    @property
    def windows(self) -> list[int | None]:
        """How many tokens each layer sees; None: all, as in every layer of Llama itself."""
        return windows(self.num_hidden_layers)


@dataclass(frozen=True, kw_only=True)
class LlamaSpec(RelativeSpec):
    """Upstream's defaults are Llama 7B's, and its relatives' where they do not say theirs."""

    attention_bias: bool = hf(default=False)
    mlp_bias: bool = hf(default=False)


def layers(spec: RelativeSpec, *, qkv_bias: bool = False, **parts: Any) -> list[nn.Module]:
    """Of Llama and its relatives; ``parts`` are further ones of `layer`."""
    positions, bias = spec.rope.module(), spec.attention_bias
    return [
        layer(spec, bias=bias or qkv_bias, out_bias=bias, positions=positions, window=window, **parts)
        for window in spec.windows
    ]


_NORMS = {"attention_norm": "input_layernorm", "mlp_norm": "post_attention_layernorm"}


def weights(spec: RelativeSpec, *others: Rule, norms: Mapping[str, str] = _NORMS) -> tuple[Rule, ...]:
    """Checkpoint names, and the head tied where the config says so; ``others`` are a relative's."""
    return (
        Prefixed("model"),
        Ignore("model.layers.{}.self_attn.rotary_emb.inv_freq"),
        Ignore("model.rotary_emb.inv_freq"),
        *names("model.layers.{}", embeddings="model.embed_tokens", **norms),
        *others,
        *tied(spec),
    )


_SCALED = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 32}

FAMILY = Family(
    spec=LlamaSpec,
    heads=causal_heads(layers, classes=True),
    weights=weights,
    final_norm=True,
    tiny={**TINY, "num_key_value_heads": 2, "intermediate_size": 48, "pad_token_id": 0},
    variations=(
        # Odd sizes: 3 heads of 6 channels, every bias, tied head, Llama 3's scaling.
        {"hidden_size": 18, "num_attention_heads": 3, "num_key_value_heads": 3, "num_hidden_layers": 1}
        | {"intermediate_size": 37, "vocab_size": 131, "rms_norm_eps": 1e-3}
        | {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True}
        | {"rope_parameters": {"rope_type": "llama3", "rope_theta": 50000.0, **_SCALED}},
        {"head_dim": 16, "num_key_value_heads": 1, "hidden_act": "gelu_pytorch_tanh"}
        | {"rope_parameters": {"rope_type": "linear", "rope_theta": 700.0, "factor": 4.0}},
    ),
)
