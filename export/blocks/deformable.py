"""Attention to a few points of several maps, whose places each query chooses. https://arxiv.org/abs/2010.04159"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from precast.export.blocks.attention import head_size

__all__ = ["DeformableAttention", "middles", "side"]


def side(count: int, like: Tensor) -> Tensor:
    """How many places a side has, which only the call knows, as a number [1] of the type of ``like``."""
    return (torch.arange(count, device=like.device)[-1:] + 1).to(like.dtype)


def middles(rows: int, columns: int, like: Tensor) -> Tensor:
    """The middles of a map's places as shares of its sides, across and down: [1, R * C, 2], of the type of ``like``."""
    down, across = (
        ((torch.arange(count, device=like.device).to(like.dtype) + 0.5) / side(count, like)).view(shape)
        for count, shape in ((rows, (rows, 1)), (columns, (1, columns)))
    )
    both = (across.expand(rows, columns), down.expand(rows, columns))
    return torch.stack(both, dim=-1).view(1, rows * columns, 2)


class DeformableAttention(nn.Module):
    """What a query sees is read of ``points`` places of each map, bilinearly: they lie around a point of its own, and
    how far from it, and how much of each counts, is made of the query.

    Args:
        levels: how many maps there are. points: of each of them and each head.
    """

    def __init__(self, hidden: int, heads: int, *, levels: int, points: int) -> None:
        super().__init__()
        self.heads, self.levels, self.points, self.width = heads, levels, points, head_size(hidden, heads)
        self.sampling_offsets = nn.Linear(hidden, heads * levels * points * 2)
        self.attention_weights = nn.Linear(hidden, heads * levels * points)
        self.value_proj, self.output_proj = nn.Linear(hidden, hidden), nn.Linear(hidden, hidden)

    def forward(
        self,
        query: Tensor,
        around: Tensor,
        source: Tensor,
        sizes: Sequence[tuple[int, int]],
        mask: Tensor | None = None,
    ) -> Tensor:
        """Queries [B, Q, H] -> [B, Q, H].

        Args:
            around: points [B or 1, Q, L or 1, 2] as shares of a map's sides, across and down, for all maps or for each;
                or boxes [.., 4] of a centre, a width and a height, whose halves are the measure of distances.
            source: the places of all maps, one map after the other, [B, S, H]. sizes: rows and columns of each map.
            mask: [B, S], of places that there are.
        """
        batch, count, _ = query.shape
        heads, levels, points = self.heads, self.levels, self.points
        value = self.value_proj(source)
        if mask is not None:
            value = value * mask.to(value.dtype)[..., None]
        value = value.transpose(1, 2)
        offsets = self.sampling_offsets(query).view(batch, count, heads, levels, points, 2)
        weights = self.attention_weights(query).view(batch, count, heads, levels * points)
        weights = torch.softmax(weights, dim=-1).view(batch, count, heads, levels, points)
        total: Tensor | None = None
        first = 0
        for level, (rows, columns) in enumerate(sizes):
            near = around[:, :, None, None, level if around.shape[2] > 1 else 0]
            if near.shape[-1] == 2:
                moved = offsets[:, :, :, level] / torch.cat((side(columns, query), side(rows, query)))
            else:
                moved = offsets[:, :, :, level] / points * near[..., 2:] * 0.5
            at = 2 * (near[..., :2] + moved) - 1
            at = at.transpose(1, 2).reshape(batch * heads, count, points, 2)
            places = value[:, :, first : first + rows * columns].reshape(batch * heads, self.width, rows, columns)
            first = first + rows * columns
            read = F.grid_sample(places, at, mode="bilinear", padding_mode="zeros", align_corners=False)
            share = weights[:, :, :, level].transpose(1, 2).reshape(batch * heads, 1, count, points)
            part = (read * share).sum(-1)
            total = part if total is None else total + part
        assert total is not None, "there is a map"
        return self.output_proj(total.view(batch, heads * self.width, count).transpose(1, 2))
