"""Multi-scale deformable attention: each query reads a few points of several maps, bilinearly, which it chooses itself.
https://arxiv.org/abs/2010.04159, section 4.1"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["DeformableAttention", "Levels", "levels_of"]


class Levels(NamedTuple):
    """Maps of the same pictures, the largest first, whose places follow one another as rows [B, S, H].

    Args:
        sides: rows and columns of each of the L maps. sizes: columns and rows of each, as numbers [L, 2].
        centres: how far across and down the middle of each place is, as shares of the picture, [B or 1, S, 2].
        shares: how much of each map's sides the picture has, [B or 1, L, 2]; the rest is padding.
        shown: 1 for places that are the picture's, 0 for padding, [B, S]; None: there is no padding.
    """

    sides: tuple[tuple[int, int], ...]
    sizes: Tensor
    centres: Tensor
    shares: Tensor
    shown: Tensor | None

    def around(self, boxes: Tensor, reach: float) -> tuple[Tensor, Tensor]:
        """Where in each map is looked, [B, Q, L, 2], and how far an offset of 1 reaches, [B or 1, Q or 1, L, 2]: around
        points [B, Q, 2] of the picture to the next place, and from the middle of boxes [B, Q, 4] as far as ``reach`` of
        their sides."""
        middles = boxes[..., None, :2] * self.shares[:, None]
        if boxes.shape[-1] == 2:
            return middles, 1 / self.sizes[None, None]
        return middles, boxes[..., None, 2:] * self.shares[:, None] * reach

    def anchors(self, side: float) -> Tensor:
        """A box [B or 1, S, 4] around each place: in the first map of that side, in each next one twice as large."""
        boxes, start = [], 0
        for number, (rows, columns) in enumerate(self.sides):
            centres = self.centres[:, start : start + rows * columns]
            boxes.append(torch.cat((centres, torch.full_like(centres, side * 2.0**number)), dim=-1))
            start = start + rows * columns
        return torch.cat(boxes, dim=1)


def levels_of(maps: Sequence[Tensor], masks: Sequence[Tensor] | None = None) -> Levels:
    """Of maps [B, H, R, C], and masks [B, R, C] of what is the picture's, where some of it is padding."""
    sizes, centres, shares = [], [], []
    for number, each in enumerate(maps):
        rows, columns = each.shape[2:]
        across, down = (torch.arange(side, device=each.device).to(each.dtype) + 0.5 for side in (columns, rows))
        size = torch.cat((across[-1:], down[-1:]))[None] + 0.5
        seen = size
        if masks is not None:
            mask = masks[number]
            seen = torch.stack((mask[:, 0].sum(-1), mask[:, :, 0].sum(-1)), dim=-1).to(each.dtype)
        grid = torch.stack((across.expand(rows, -1), down[:, None].expand(-1, columns)), dim=-1)
        sizes.append(size)
        centres.append(grid.view(1, rows * columns, 2) / seen[:, None])
        shares.append(seen / size)
    shown = None if masks is None else torch.cat([mask.view(mask.shape[0], -1) for mask in masks], dim=1)
    sides = tuple((each.shape[2], each.shape[3]) for each in maps)
    return Levels(sides, torch.cat(sizes), torch.cat(centres, dim=1), torch.stack(shares, dim=1), shown)


class DeformableAttention(nn.Module):
    """For each query and head the weighted sum of what ``points`` points of each of ``levels`` maps hold."""

    def __init__(self, hidden: int, heads: int, *, levels: int, points: int) -> None:
        super().__init__()
        self.heads, self.levels, self.points = heads, levels, points
        self.sampling_offsets = nn.Linear(hidden, heads * levels * points * 2)
        self.attention_weights = nn.Linear(hidden, heads * levels * points)
        self.value_proj, self.o_proj = nn.Linear(hidden, hidden), nn.Linear(hidden, hidden)

    def forward(self, query: Tensor, source: Tensor, maps: Levels, middles: Tensor, reach: Tensor) -> Tensor:
        """query [B, Q, H] at points of ``source`` [B, S, H], the rows of ``maps``, that are offsets times ``reach`` from
        ``middles`` (see `Levels.around`) -> [B, Q, H]."""
        batch, count, hidden = query.shape
        heads, levels, points = self.heads, self.levels, self.points
        value = self.value_proj(source)
        if maps.shown is not None:
            value = value * maps.shown[..., None].to(value.dtype)
        value = value.transpose(1, 2).clone(memory_format=torch.contiguous_format)
        # From -1 to 1 over a map; one level after the other, so that each is a piece of memory.
        offsets = self.sampling_offsets(query).view(batch, count, heads, levels, points, 2)
        places = (middles * 2 - 1)[:, :, None, :, None] + offsets * (reach * 2)[:, :, None, :, None]
        places = places.permute(3, 0, 2, 1, 4, 5).clone(memory_format=torch.contiguous_format)
        places = places.view(levels, batch * heads, count, points, 2)
        weights = F.softmax(self.attention_weights(query).view(batch, count, heads, levels * points), dim=-1)
        weights = weights.view(batch, count, heads, levels, points).permute(3, 0, 2, 1, 4)
        weights = weights.clone(memory_format=torch.contiguous_format).view(levels, batch * heads, 1, count, points)
        start, total = 0, None
        for number, (rows, columns) in enumerate(maps.sides):
            grid = value[:, :, start : start + rows * columns].view(batch * heads, hidden // heads, rows, columns)
            found = (F.grid_sample(grid, places[number], align_corners=False) * weights[number]).sum(-1)
            total = found if total is None else total + found
            start = start + rows * columns
        assert total is not None
        return self.o_proj(total.view(batch, hidden, count).transpose(1, 2))
