"""Llama: a pre-norm decoder with RMS norms, rotary positions and gated MLPs. https://arxiv.org/abs/2302.13971,
https://arxiv.org/abs/2307.09288, https://arxiv.org/abs/2407.21783"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from precast.export import heads
from precast.export.blocks.activations import Activation, activation
from precast.export.blocks.attention import CachedSelfAttention
from precast.export.blocks.mlp import GatedMLP
from precast.export.blocks.norms import RMSNorm
from precast.export.blocks.rope import Rope, rope
from precast.export.blocks.rotary import SteppedRotary
from precast.export.families import Family, TextSpec
from precast.export.generative import CausalLM
from precast.export.skeletons.decoder import Decoder, DecoderLayer, TokenEmbeddings
from precast.export.spec import hf
from precast.export.weights import Ignore, Prefixed, Rename, Rule, Tie
from precast.runtime.errors import ConfigError

__all__ = ["FAMILY", "LLAMA_NAMES", "LlamaSpec", "causal_lm", "layer", "weights"]


@dataclass(frozen=True, kw_only=True)
class LlamaSpec(TextSpec):
    """Keys that Llama's relatives share; upstream's defaults are Llama 7B's."""

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
    attention_bias: bool = hf(default=False)
    mlp_bias: bool = hf(default=False)
    rope_theta: float | None = hf(default=None)
    rope_scaling: dict[str, Any] | None = hf(default=None)
    rope_parameters: dict[str, Any] | None = hf(default=None)
    partial_rotary_factor: float | None = hf(default=None)
    pretraining_tp: int = hf(default=1)

    def __post_init__(self) -> None:
        if self.num_attention_heads % self.kv_heads:
            raise ConfigError(
                f"'num_attention_heads' {self.num_attention_heads} must be a multiple of 'num_key_value_heads' "
                f"{self.kv_heads}: each of those serves a group of equal size"
            )
        self.rope.check()

    @property
    def kv_heads(self) -> int:
        """Heads of keys and values."""
        return self.num_key_value_heads or self.num_attention_heads

    @property
    def size(self) -> int:
        """Channels of a head."""
        return self.head_dim or self.hidden_size // self.num_attention_heads

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
        return self.rope.ignored


def layer(
    spec: LlamaSpec, positions: SteppedRotary, *, qkv_bias: bool = False, window: int | None = None
) -> DecoderLayer:
    """One layer; Qwen2 and Mistral have the same one."""
    return DecoderLayer(
        attention=CachedSelfAttention(
            spec.hidden_size,
            heads=spec.num_attention_heads,
            kv_heads=spec.kv_heads,
            head_dim=spec.size,
            bias=spec.attention_bias or qkv_bias,
            out_bias=spec.attention_bias,
            positions=positions,
            window=window,
        ),
        attention_norm=RMSNorm(spec.hidden_size, spec.rms_norm_eps),
        mlp=GatedMLP(spec.hidden_size, spec.intermediate_size, spec.hidden_act, bias=spec.mlp_bias),
        mlp_norm=RMSNorm(spec.hidden_size, spec.rms_norm_eps),
    )


def causal_lm(
    spec: LlamaSpec, layers: Sequence[nn.Module], *, embedding_scale: float | None = None, softcap: float | None = None
) -> CausalLM:
    """The layers between embeddings and head; ``softcap`` is that of the logits."""
    return CausalLM(
        Decoder(
            embeddings=TokenEmbeddings(spec.vocab_size, spec.hidden_size, scale=embedding_scale),
            layers=layers,
            norm=RMSNorm(spec.hidden_size, spec.rms_norm_eps),
        ),
        nn.Linear(spec.hidden_size, spec.vocab_size, bias=False),
        softcap=softcap,
    )


def _causal_lm(spec: LlamaSpec, absent: frozenset[str]) -> nn.Module:
    positions = spec.rope.module()
    return causal_lm(spec, [layer(spec, positions) for _ in range(spec.num_hidden_layers)])


# Checkpoint names of a Llama-shaped decoder.
LLAMA_NAMES: tuple[Rule, ...] = (
    Prefixed("model"),
    Ignore("model.layers.{}.self_attn.rotary_emb.inv_freq"),
    Ignore("model.rotary_emb.inv_freq"),
    Rename("model.embed_tokens.*", "model.embeddings.words.*"),
    Rename("model.layers.{}.input_layernorm.*", "model.layers.{}.attention_norm.*"),
    Rename("model.layers.{}.post_attention_layernorm.*", "model.layers.{}.mlp_norm.*"),
)


def weights(spec: LlamaSpec) -> tuple[Rule, ...]:
    """Checkpoint names, and the head tied where the config says so."""
    tie = (Tie("lm_head.weight", "model.embeddings.words.weight"),) if spec.tie_word_embeddings else ()
    return (*LLAMA_NAMES, *tie)


FAMILY = Family(
    spec=LlamaSpec,
    heads={heads.CAUSAL_LM: _causal_lm},
    weights=weights,
    limits=lambda spec: spec.max_position_embeddings,
    final_norm=True,
    tiny={
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 48,
        "max_position_embeddings": 160,
        "vocab_size": 99,
        "pad_token_id": 0,
    },
    variations=(
        # Odd sizes: 3 heads of 6 channels, every bias, tied head, Llama 3's scaling.
        {
            "hidden_size": 18,
            "num_attention_heads": 3,
            "num_key_value_heads": 3,
            "intermediate_size": 37,
            "num_hidden_layers": 1,
            "attention_bias": True,
            "mlp_bias": True,
            "tie_word_embeddings": True,
            "vocab_size": 131,
            "rms_norm_eps": 1e-3,
            "rope_parameters": {
                "rope_type": "llama3",
                "rope_theta": 50000.0,
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 32,
            },
        },
        {
            "head_dim": 16,
            "num_key_value_heads": 1,
            "hidden_act": "gelu_pytorch_tanh",
            "rope_parameters": {"rope_type": "linear", "rope_theta": 700.0, "factor": 4.0},
        },
    ),
)
