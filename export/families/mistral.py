"""Mistral: Llama with a window that every layer sees through, or none. https://arxiv.org/abs/2310.06825"""

from __future__ import annotations

from dataclasses import dataclass, replace

from precast.export.blocks.layer_types import windows
from precast.export.families import llama
from precast.export.spec import hf

__all__ = ["FAMILY", "MistralSpec"]


@dataclass(frozen=True, kw_only=True)
class MistralSpec(llama.RelativeSpec):
    """Upstream's defaults, a window of 4096 among them: a config without one says null."""

    intermediate_size: int = hf(default=14336)
    num_key_value_heads: int | None = hf(default=8)
    max_position_embeddings: int = hf(default=131072)
    sliding_window: int | None = hf(default=4096)

    @property
    def windows(self) -> list[int | None]:
        """What each layer sees."""
        return windows(self.num_hidden_layers, self.sliding_window)


FAMILY = replace(
    llama.FAMILY,
    spec=MistralSpec,
    tiny={**llama.FAMILY.tiny, "sliding_window": 9},
    variations=(
        # No window, heads larger than their share, a tied head.
        {"head_dim": 16, "num_hidden_layers": 1, "num_key_value_heads": 4, "sliding_window": None}
        | {"tie_word_embeddings": True, "hidden_act": "gelu"}
        | {"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}},
    ),
)
