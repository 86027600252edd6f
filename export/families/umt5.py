"""UMT5: mT5 with relative positions of its own in every layer. https://arxiv.org/abs/2304.09151"""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor, nn

from precast.export.blocks.cache import Step
from precast.export.families import mt5
from precast.export.skeletons.decoder import DecoderLayer
from precast.export.skeletons.encoder import PreNormLayer
from precast.export.skeletons.relative import NAMES, heads_of

__all__ = ["FAMILY"]


class _EncoderLayer(PreNormLayer):
    """A layer with a bias of its own."""

    def __init__(self, bias: nn.Module, **parts: nn.Module) -> None:
        super().__init__(**parts)  # type: ignore[arg-type]
        self.bias = bias

    def forward(
        self, x: Tensor, update: Tensor | None, mask: Tensor, bias: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        return super().forward(x, update, mask, self.bias(x))


class _DecoderLayer(DecoderLayer):
    """A layer with a bias of its own."""

    def __init__(self, bias: nn.Module, **parts: nn.Module) -> None:
        super().__init__(**parts)  # type: ignore[arg-type]
        self.bias = bias

    def forward(
        self, x: Tensor, update: Tensor | None, step: Step, bias: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        return super().forward(x, update, step, self.bias(x, step))


@dataclass(frozen=True, kw_only=True)
class Spec(mt5.Spec):
    """mT5's defaults."""

    @property
    def logit_scale(self) -> float | None:
        """As T5's. (Upstream 5 takes every head for tied, and scales those that are not.)"""
        return self.hidden_size**-0.5 if self.tie_word_embeddings else None


FAMILY = replace(
    mt5.FAMILY,
    spec=Spec,
    heads=heads_of(_EncoderLayer, _DecoderLayer),
    weights=lambda spec: NAMES,
)
