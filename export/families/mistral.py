"""Mistral: Llama with a window that every layer sees through, or none. https://arxiv.org/abs/2310.06825"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from precast.export import heads
from precast.export.blocks.layer_types import check_window
from precast.export.families import Family
from precast.export.families.llama import LlamaSpec, causal_lm, layer, weights
from precast.export.spec import hf

__all__ = ["FAMILY", "MistralSpec"]


@dataclass(frozen=True, kw_only=True)
class MistralSpec(LlamaSpec):
    """Upstream's defaults, a window of 4096 among them: a config without one says null."""

    intermediate_size: int = hf(default=14336)
    num_key_value_heads: int | None = hf(default=8)
    max_position_embeddings: int = hf(default=131072)
    attention_bias: bool = hf(default=False, only=(False,))
    mlp_bias: bool = hf(default=False, only=(False,))
    sliding_window: int | None = hf(default=4096)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_window(self.sliding_window)


def _causal_lm(spec: MistralSpec, absent: frozenset[str]) -> nn.Module:
    positions = spec.rope.module()
    return causal_lm(spec, [layer(spec, positions, window=spec.sliding_window) for _ in range(spec.num_hidden_layers)])


FAMILY = Family(
    spec=MistralSpec,
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
        "sliding_window": 9,
    },
    variations=(
        # No window, heads larger than their share, a tied head.
        {
            "head_dim": 16,
            "num_hidden_layers": 1,
            "num_key_value_heads": 4,
            "sliding_window": None,
            "tie_word_embeddings": True,
            "hidden_act": "gelu",
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
        },
    ),
)
