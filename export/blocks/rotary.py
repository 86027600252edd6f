"""Rotary position embedding as a part of attention. https://arxiv.org/abs/2104.09864"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from precast.export.blocks.tables import Table
from precast.export.operators import rotary

__all__ = ["RotaryPositions"]


class RotaryPositions(nn.Module):
    """Turns queries and keys [B, S, N*D] at positions 0, 1, 2 ... One module may serve all layers of one base.

    The angles are products of float32 numbers, as models were trained with them: at position 8191 the rounding of a
    frequency moves an angle by up to 5e-4, so angles of higher precision would be another model's. Their cosines and
    sines are taken in float64.

    Args:
        count: positions there are.
        size: channels of a head, all of which are turned.
        base: of the frequencies base ** (-2i / size).
        factor: positions are divided by it (linear scaling).
    """

    def __init__(self, count: int, size: int, base: float, factor: float = 1.0) -> None:
        super().__init__()
        self.count, self.size, self.base, self.factor = count, size, base, factor
        shape = (count, size // 2)
        self.cos = Table(shape, lambda: torch.cos(self._angles()))
        self.sin = Table(shape, lambda: torch.sin(self._angles()))

    def _angles(self) -> Tensor:
        frequencies = 1.0 / (self.base ** (torch.arange(0, self.size, 2, dtype=torch.float32) / self.size))
        frequencies = frequencies / self.factor
        return (torch.arange(self.count, dtype=torch.float32)[:, None] * frequencies).to(torch.float64)

    def forward(self, states: Tensor, heads: int) -> Tensor:
        batch, length, _ = states.shape
        positions = torch.arange(length, device=states.device)[None].expand(batch, length)
        return rotary(states, positions, self.cos(), self.sin(), heads=heads)
