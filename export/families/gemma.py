"""Gemma: Llama with heads larger than their share, a tanh-approximated gate, scaled embeddings and norms stored as an
offset from one. https://arxiv.org/abs/2403.08295"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from precast.export import heads
from precast.export.blocks.activations import Activation, activation
from precast.export.families import Family
from precast.export.families.llama import LLAMA_NAMES, LlamaSpec, causal_lm, layer
from precast.export.spec import hf
from precast.export.weights import Fold, Rule, Tie

__all__ = ["FAMILY", "GemmaSpec"]


def _activation(name: str) -> Activation:
    """The first configs say ``gelu`` and were trained with its approximation."""
    return activation("gelu_pytorch_tanh" if name == "gelu" else name)


@dataclass(frozen=True, kw_only=True)
class GemmaSpec(LlamaSpec):
    """Upstream's defaults are Gemma 7B's."""

    vocab_size: int = hf(default=256000)
    hidden_size: int = hf(default=3072)
    intermediate_size: int = hf(default=24576)
    num_hidden_layers: int = hf(default=28)
    num_attention_heads: int = hf(default=16)
    num_key_value_heads: int | None = hf(default=16)
    head_dim: int | None = hf(default=256)
    hidden_act: Activation = hf(default=_activation("gelu"), read=_activation)
    # Transformers 4 read this key first; upstream's checkpoints state nothing else in it.
    hidden_activation: str | None = hf(default=None, only=(None, "gelu_pytorch_tanh"))
    max_position_embeddings: int = hf(default=8192)
    tie_word_embeddings: bool = hf(default=True)
    mlp_bias: bool = hf(default=False, only=(False,))
    use_bidirectional_attention: bool | None = hf(default=None, only=(None, False))


def _causal_lm(spec: GemmaSpec, absent: frozenset[str]) -> nn.Module:
    positions = spec.rope.module()
    layers = [layer(spec, positions) for _ in range(spec.num_hidden_layers)]
    return causal_lm(spec, layers, embedding_scale=spec.hidden_size**0.5)


def _weights(spec: GemmaSpec) -> tuple[Rule, ...]:
    tie = (Tie("lm_head.weight", "model.embeddings.words.weight"),) if spec.tie_word_embeddings else ()
    return (*LLAMA_NAMES, Fold("*norm.weight", add=1.0), *tie)


FAMILY = Family(
    spec=GemmaSpec,
    heads={heads.CAUSAL_LM: _causal_lm},
    weights=_weights,
    limits=lambda spec: spec.max_position_embeddings,
    final_norm=True,
    tiny={
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 1,
        "head_dim": 16,
        "intermediate_size": 48,
        "max_position_embeddings": 160,
        "vocab_size": 99,
        "pad_token_id": 0,
    },
    variations=(
        {
            "hidden_size": 18,
            "num_hidden_layers": 1,
            "num_attention_heads": 3,
            "num_key_value_heads": 3,
            "head_dim": 8,
            "attention_bias": True,
            "tie_word_embeddings": False,
            "hidden_act": "gelu",
            "rope_parameters": {"rope_type": "linear", "rope_theta": 500.0, "factor": 2.0},
        },
    ),
)
