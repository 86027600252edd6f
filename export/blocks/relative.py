"""Relative positions: which row of a table stands for each distance between two positions, and score biases from it."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from precast.export.blocks.cache import Step
from precast.export.blocks.tables import Table

__all__ = [
    "RelativeBias",
    "RelativeIndex",
    "SteppedRelativeBias",
    "TableBias",
    "grid_offsets",
    "one_sided_bias",
    "one_sided_buckets",
    "signed_log_bins",
    "two_sided_bias",
    "two_sided_buckets",
]


class RelativeIndex(nn.Module):
    """``bucket(row - column)`` for every pair of S positions, [S, S] int64.

    The buckets are a table computed once, so that running a graph rounds no logarithm at the edge of a bucket.

    Args:
        bucket: signed distances [D] int64 -> buckets [D] int64; constant beyond ``limit`` on either side.
    """

    def __init__(self, limit: int, bucket: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.limit = limit
        self.buckets = Table((2 * limit + 1,), lambda: bucket(torch.arange(-limit, limit + 1)), torch.int64)

    def forward(self, length: int) -> Tensor:
        positions = torch.arange(length, device=self.buckets.values.device)
        distance = positions.unsqueeze(1) - positions.unsqueeze(0)
        rows = distance.clamp(-self.limit, self.limit) + self.limit
        return self.buckets().index_select(0, rows.view(length * length)).view(length, length)


class RelativeBias(nn.Module):
    """A learned score bias for each bucket and head, [1, N, S, S] from ids [B, S]. https://arxiv.org/abs/1910.10683"""

    def __init__(self, index: RelativeIndex, buckets: int, heads: int) -> None:
        super().__init__()
        self.index = index
        self.table = nn.Embedding(buckets, heads)

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.table(self.index(input_ids.shape[1])).permute(2, 0, 1)[None]


class TableBias(nn.Module):
    """A learned score bias for each head and each number in a table of pairs, [1, N, S, S].

    Args:
        index: numbers below ``count``, [S, S].
    """

    def __init__(self, index: Table, count: int, heads: int) -> None:
        super().__init__()
        self.index = index
        self.table = nn.Embedding(count, heads)

    def forward(self) -> Tensor:
        return self.table(self.index()).permute(2, 0, 1)[None]


class SteppedRelativeBias(nn.Module):
    """A learned score bias for each bucket and head of a decoder over a cache, [B, N, S, R] by slot of the cache.

    Args:
        bucket: distances [D] int64 from 0 on -> buckets [D] int64; constant from ``limit`` on.
    """

    def __init__(self, limit: int, bucket: Callable[[Tensor], Tensor], buckets: int, heads: int) -> None:
        super().__init__()
        self.limit = limit
        self.buckets = Table((limit + 1,), lambda: bucket(torch.arange(limit + 1)), torch.int64)
        self.table = nn.Embedding(buckets, heads)

    def forward(self, input_ids: Tensor, step: Step) -> Tensor:
        """input_ids [B, S, ...] for the number of new tokens alone."""
        slots = torch.arange(step.capacity, device=input_ids.device)
        # Slots behind a token are not seen: any distance does.
        distance = (step.slots(input_ids.shape[1])[..., None] - slots).clamp(0, self.limit)
        by_distance = self.table(self.buckets()).t()  # [N, D], a constant of the graph
        return by_distance[:, distance].transpose(0, 1)


def grid_offsets(rows: int, columns: int) -> Tensor:
    """A number for each offset between two places of a grid, row by row, [R * C, R * C]: those of rows count in whole
    rows of offsets, of which there are 2 * C - 1 each. https://arxiv.org/abs/2103.14030"""
    places = torch.cartesian_prod(torch.arange(rows), torch.arange(columns))
    down, right = (places[:, None] - places[None]).unbind(-1)
    return (down + rows - 1) * (2 * columns - 1) + right + columns - 1


def two_sided_bias(buckets: int, furthest: int, heads: int) -> RelativeBias:
    """Of an encoder, whose keys stand on both sides; `two_sided_buckets`."""
    index = RelativeIndex(furthest, lambda distance: two_sided_buckets(distance, buckets, furthest))
    return RelativeBias(index, buckets, heads)


def one_sided_bias(buckets: int, furthest: int, heads: int) -> SteppedRelativeBias:
    """Of a decoder, whose keys stand before a query; `one_sided_buckets`."""
    return SteppedRelativeBias(
        furthest, lambda distance: one_sided_buckets(distance, buckets, furthest), buckets, heads
    )


def two_sided_buckets(distance: Tensor, count: int, furthest: int) -> Tensor:
    """Buckets of distances query - key, for keys on both sides: half of ``count`` for each side, half of those
    exact, the rest on a logarithmic scale up to ``furthest``. https://arxiv.org/abs/1910.10683
    """
    side = count // 2
    return one_sided_buckets(distance.abs(), side, furthest) + side * (distance < 0)


def one_sided_buckets(distance: Tensor, count: int, furthest: int) -> Tensor:
    """Buckets of distances query - key from 0 on, for keys before the query: half of ``count`` exact, the rest on a
    logarithmic scale up to ``furthest``. https://arxiv.org/abs/1910.10683

    In float32 as models were trained with it: the logarithm's rounding decides at the edges.
    """
    exact = count // 2
    scaled = torch.log(distance.clamp(min=1).float() / exact) / math.log(furthest / exact) * (count - exact)
    coarse = (exact + scaled.to(torch.int64)).clamp(max=count - 1)
    return torch.where(distance < exact, distance, coarse)


def signed_log_bins(distance: Tensor, count: int, furthest: int) -> Tensor:
    """Bins of signed distances: those up to ``count // 2`` are exact, further ones logarithmic with their sign;
    ``furthest - 1`` falls into bin ``count - 1``, anything beyond into ``count``. https://arxiv.org/abs/2006.03654

    In float32 as models were trained with it: the logarithm's rounding decides at the edges.
    """
    exact = count // 2
    away = distance.abs()
    span = torch.log(torch.tensor((furthest - 1) / exact))
    coarse = torch.ceil(torch.log(away.clamp(min=exact) / exact) / span * (exact - 1)) + exact
    bins = torch.where(away <= exact, distance, coarse.to(torch.int64) * distance.sign())
    return bins.clamp(-count, count)
