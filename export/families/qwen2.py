"""Qwen2 and Qwen2.5: Llama with biases on queries, keys and values; a window on the upper layers of some.
https://arxiv.org/abs/2407.10671, https://arxiv.org/abs/2412.15115"""

from __future__ import annotations

from dataclasses import dataclass, replace

from precast.export.blocks.layer_types import windows
from precast.export.families import llama
from precast.export.head_sets.decoders import causal_heads
from precast.export.spec import hf

__all__ = ["FAMILY", "Qwen2Spec"]


@dataclass(frozen=True, kw_only=True)
class Qwen2Spec(llama.RelativeSpec):
    """Upstream's defaults. The window counts only where ``use_sliding_window`` says so."""

    vocab_size: int = hf(default=151936)
    intermediate_size: int = hf(default=22016)
    num_key_value_heads: int | None = hf(default=32)
    max_position_embeddings: int = hf(default=32768)
    use_sliding_window: bool = hf(default=False)
    sliding_window: int | None = hf(default=4096)
    max_window_layers: int = hf(default=28)
    layer_types: list[str] | None = hf(default=None)

    @property
    def windows(self) -> list[int | None]:
        """What each layer sees."""
        window = self.sliding_window if self.use_sliding_window else None
        return windows(self.num_hidden_layers, window, first=self.max_window_layers, kinds=self.layer_types)


_YARN = {"rope_type": "yarn", "rope_theta": 300.0, "factor": 4.0, "original_max_position_embeddings": 40}

FAMILY = replace(
    llama.FAMILY,
    spec=Qwen2Spec,
    heads=causal_heads(lambda spec: llama.layers(spec, qkv_bias=True), classes=True),
    tiny={**llama.FAMILY.tiny, "tie_word_embeddings": True},
    variations=(
        # A window on the upper layer, YaRN, a head of its own.
        {"use_sliding_window": True, "sliding_window": 7, "max_window_layers": 1}
        | {"num_key_value_heads": 4, "tie_word_embeddings": False, "rope_parameters": _YARN},
        {"use_sliding_window": True, "sliding_window": 5, "layer_types": ["sliding_attention", "full_attention"]}
        | {"num_hidden_layers": 2, "hidden_act": "gelu_pytorch_tanh"},
    ),
)
