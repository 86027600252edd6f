"""Qwen2 and Qwen2.5: Llama with biases on queries, keys and values; a window on the upper layers of some.
https://arxiv.org/abs/2407.10671, https://arxiv.org/abs/2412.15115"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from precast.export import heads
from precast.export.blocks.layer_types import FULL, SLIDING, check_layer_types
from precast.export.families import Family
from precast.export.families.llama import LlamaSpec, causal_lm, layer, weights
from precast.export.spec import hf

__all__ = ["FAMILY", "Qwen2Spec"]


@dataclass(frozen=True, kw_only=True)
class Qwen2Spec(LlamaSpec):
    """Upstream's defaults. The window counts only where ``use_sliding_window`` says so."""

    vocab_size: int = hf(default=151936)
    intermediate_size: int = hf(default=22016)
    num_key_value_heads: int | None = hf(default=32)
    max_position_embeddings: int = hf(default=32768)
    attention_bias: bool = hf(default=False, only=(False,))
    mlp_bias: bool = hf(default=False, only=(False,))
    use_sliding_window: bool = hf(default=False)
    sliding_window: int | None = hf(default=4096)
    max_window_layers: int = hf(default=28)
    layer_types: list[str] | None = hf(default=None)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_layer_types(self.kinds, self.num_hidden_layers, self.window)

    @property
    def window(self) -> int | None:
        """Tokens that a token sees in layers with a window."""
        return self.sliding_window if self.use_sliding_window else None

    @property
    def kinds(self) -> list[str]:
        """What each layer sees."""
        if self.layer_types is not None:
            return self.layer_types
        first = self.num_hidden_layers if self.window is None else self.max_window_layers
        return [SLIDING if index >= first else FULL for index in range(self.num_hidden_layers)]


def _causal_lm(spec: Qwen2Spec, absent: frozenset[str]) -> nn.Module:
    positions = spec.rope.module()
    windows = [spec.window if kind == SLIDING else None for kind in spec.kinds]
    return causal_lm(spec, [layer(spec, positions, qkv_bias=True, window=window) for window in windows])


FAMILY = Family(
    spec=Qwen2Spec,
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
        "tie_word_embeddings": True,
    },
    variations=(
        # A window on the upper layer, YaRN, a head of its own.
        {
            "num_key_value_heads": 4,
            "tie_word_embeddings": False,
            "use_sliding_window": True,
            "sliding_window": 7,
            "max_window_layers": 1,
            "rope_parameters": {
                "rope_type": "yarn",
                "rope_theta": 300.0,
                "factor": 4.0,
                "original_max_position_embeddings": 40,
            },
        },
        {
            "num_hidden_layers": 2,
            "use_sliding_window": True,
            "sliding_window": 5,
            "layer_types": ["sliding_attention", "full_attention"],
            "hidden_act": "gelu_pytorch_tanh",
        },
    ),
)
