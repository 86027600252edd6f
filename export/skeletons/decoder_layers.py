"""Layers of decoders beside those of `precast.export.skeletons.decoder`; the state travels as in `DecoderLayer`."""

from __future__ import annotations

from torch import Tensor, nn

from precast.export.blocks.cache import Step
from precast.export.blocks.norms import Norm, normed_sum
from precast.export.skeletons.decoder import DecoderLayer

__all__ = ["MixerLayer", "SandwichLayer"]


class SandwichLayer(DecoderLayer):
    """x = x + norm(attention(norm(x))); x = x + norm(mlp(norm(x))). https://arxiv.org/abs/2105.13290, section 3.2"""

    def __init__(
        self,
        *,
        attention: nn.Module,
        attention_norm: Norm,
        attention_post_norm: Norm,
        mlp: nn.Module,
        mlp_norm: Norm,
        mlp_post_norm: Norm,
    ) -> None:
        super().__init__(attention=attention, attention_norm=attention_norm, mlp=mlp, mlp_norm=mlp_norm)
        self.attention_post_norm, self.mlp_post_norm = attention_post_norm, mlp_post_norm

    def forward(
        self, x: Tensor, update: Tensor | None, step: Step, bias: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """As `DecoderLayer`."""
        normed, x = normed_sum(self.attention_norm, x, update)
        update = self.attention_post_norm(self.self_attn(normed, step, bias))
        normed, x = self.mlp_norm.add(update, x)
        return x, self.mlp_post_norm(self.mlp(normed))


class MixerLayer(nn.Module):
    """x = x + mixer(norm(x)): a layer of one part, which remembers what it needs by itself."""

    def __init__(self, *, mixer: nn.Module, norm: Norm) -> None:
        super().__init__()
        self.norm = norm
        self.mixer = mixer

    def forward(
        self, x: Tensor, update: Tensor | None, step: Step, bias: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """As `DecoderLayer`."""
        normed, x = normed_sum(self.norm, x, update)
        return x, self.mixer(normed, step)
