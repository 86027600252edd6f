"""mT5: T5 v1.1 for a hundred languages; its logits are never scaled. https://arxiv.org/abs/2010.11934"""

from __future__ import annotations

from dataclasses import dataclass, replace

from precast.export.families import t5
from precast.export.skeletons.relative import RelativeSpec
from precast.export.spec import hf

__all__ = ["FAMILY", "Spec"]


@dataclass(frozen=True, kw_only=True)
class Spec(RelativeSpec):
    """Defaults are mT5-small's."""

    vocab_size: int = hf(default=250112)
    intermediate_size: int = hf("d_ff", default=1024)
    num_hidden_layers: int = hf(("num_layers", "num_hidden_layers"), default=8)
    num_attention_heads: int = hf(("num_heads", "num_attention_heads"), default=6)
    feed_forward_proj: str = hf(default="gated-gelu")

    @property
    def logit_scale(self) -> float | None:
        """None, whatever is said of ties: they come from the stored weights."""
        return None


FAMILY = replace(
    t5.FAMILY,
    spec=Spec,
    generation={**t5.FAMILY.generation, "decoder_start_token_id": 0},
    variations=(
        {**t5.FAMILY.variations[0], "feed_forward_proj": "relu"},
        {**t5.FAMILY.variations[1], "tie_word_embeddings": True},
    ),
)
