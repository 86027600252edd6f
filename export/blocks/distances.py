"""How far two states are apart, as part of the scores of self-attention. https://arxiv.org/abs/1803.02155"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from precast.export.blocks.attention import head_size
from precast.export.operators import attention

__all__ = ["DistanceAttention", "Distances"]

Apart = tuple[Tensor, Tensor]


class Distances(nn.Module):
    """Of states [B, S, H], which all layers share: a row for each distance up to ``reach`` [2 * reach, D], and which of
    them each pair of states has, [S, S]."""

    def __init__(self, reach: int, width: int) -> None:
        super().__init__()
        self.reach, self.rows = reach, nn.Parameter(torch.empty(2 * reach, width))

    def forward(self, x: Tensor) -> Apart:
        places = torch.arange(x.shape[1], device=x.device)
        index = (places[:, None] - places[None]).clamp(-self.reach, self.reach - 1) + self.reach
        return self.rows, index


class DistanceAttention(nn.Module):
    """Self-attention in which queries meet rows of distances as they meet keys, [B, S, H] -> [B, S, H]."""

    def __init__(self, size: int, heads: int) -> None:
        super().__init__()
        self.heads, self.scale = heads, head_size(size, heads) ** -0.5
        self.q_proj, self.k_proj, self.v_proj, self.o_proj = (nn.Linear(size, size) for _ in range(4))

    def forward(self, x: Tensor, mask: Tensor, apart: Apart) -> Tensor:
        """``apart``: of `Distances`."""
        rows, index = apart
        batch, length, size = x.shape
        query, heads = self.q_proj(x), self.heads
        # A product in front of the turn: of what is turned it would be traced for one state or for several.
        met = torch.matmul(query.view(batch, length, heads, size // heads), rows.t()).transpose(1, 2)
        bias = met.gather(-1, index.expand(batch, heads, length, length)) * self.scale
        made = attention(query, self.k_proj(x), self.v_proj(x), mask=mask, bias=bias, heads=heads, scale=self.scale)
        return self.o_proj(made)
