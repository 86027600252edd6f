"""Where words stand on their page: boxes x0, y0, x1, y1 in parts of its width and height, looked up in tables.
https://arxiv.org/abs/1912.13318"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from precast.runtime.ports import Port

__all__ = ["PAGE", "BoxTables", "JoinedBoxes", "SummedBoxes"]

PAGE = 1000
"""Parts that a page is wide, and as many that it is high."""


class BoxTables(nn.Module):
    """Rows of tables for the sides of a box, its height and its width, bbox [B, S, 4] -> six of [B, S, E].

    Args:
        count: rows of each table. extent: channels of those of height and width, where these are others.
    """

    def __init__(self, count: int, size: int, extent: int | None = None) -> None:
        super().__init__()
        self.x, self.y = nn.Embedding(count, size), nn.Embedding(count, size)
        self.height, self.width = nn.Embedding(count, extent or size), nn.Embedding(count, extent or size)

    def port(self) -> Port:
        """Boxes of tokens; one that is left out is a point in the corner."""
        below = min(PAGE + 1, self.x.num_embeddings)
        return Port("bbox", "int64", ("batch", "sequence", 4), "boxes", default=0, below=below)

    def rows(self, bbox: Tensor) -> tuple[Tensor, ...]:
        """Left, top, right, bottom, height, width."""
        left, top, right, bottom = bbox.unbind(-1)
        sides = self.x(left), self.y(top), self.x(right), self.y(bottom)
        return *sides, self.height(bottom - top), self.width(right - left)


class SummedBoxes(BoxTables):
    """Their sum, [B, S, E]."""

    def forward(self, bbox: Tensor) -> Tensor:
        first, *others = self.rows(bbox)
        return sum(others, first)


class JoinedBoxes(BoxTables):
    """One behind the other, [B, S, 4 * size + 2 * extent]."""

    def forward(self, bbox: Tensor) -> Tensor:
        return torch.cat(self.rows(bbox), dim=-1)
