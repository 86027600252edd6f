"""Attention within windows of a grid of patches, which may be shifted from layer to layer.
https://arxiv.org/abs/2103.14030

Where a grid ends within a window zeros fill the rest, and are seen like everything else. A shifted grid goes round:
what stands side by side in a window and not in the picture is hidden from each other.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from precast.export.blocks.attention import SelfAttention
from precast.export.blocks.tables import Table
from precast.export.operators import attention

__all__ = ["FreeWindowAttention", "Parted", "WindowAttention", "Windows", "parted"]


class Windows(nn.Module):
    """How rows of a grid [R * C] come into windows and back: one table each way, for all layers that share them.

    Args:
        size: rows and columns of a window. shift: rows and columns that the grid is moved up and left.
        hidden: what is added to scores of what does not belong together.
    """

    def __init__(self, rows: int, columns: int, *, size: int, shift: int = 0, hidden: float = -100.0) -> None:
        super().__init__()
        self.rows, self.columns, self.size, self.shift, self.hidden = rows, columns, size, shift, hidden
        self.down, self.across = -(-rows // size), -(-columns // size)
        self.count, self.area = self.down * self.across, size * size
        self.padded = self.count * self.area > rows * columns
        self.order = Table((self.count * self.area,), self._order, torch.int64)
        self.back = Table((rows * columns,), self._back, torch.int64)
        self.mask = Table((self.count, 1, self.area, self.area), self._mask) if shift else None

    def _split(self, places: Tensor) -> Tensor:
        """A padded grid -> its windows, [count, area]."""
        parts = places.view(self.down, self.size, self.across, self.size)
        return parts.transpose(1, 2).reshape(self.count, self.area)

    def _order(self) -> Tensor:
        """The row for each place of a window; one behind the last for what is none. Of shifted windows the first places
        come first, so that windows stand side by side as heads do."""
        rows, columns = self.rows, self.columns
        beyond = (0, self.across * self.size - columns, 0, self.down * self.size - rows)
        places = F.pad(torch.arange(rows * columns).view(rows, columns), beyond, value=rows * columns)
        windows = self._split(places.roll((-self.shift, -self.shift), (0, 1)))
        return (windows.t() if self.shift else windows).flatten()

    def _back(self) -> Tensor:
        """The place for each row."""
        return self._order().argsort(stable=True)[: self.rows * self.columns]

    def _mask(self) -> Tensor:
        """What is added to scores within each window: places that were moved round belong together, and others."""

        def regions(count: int) -> Tensor:
            index = torch.arange(count)
            return (index >= count - self.size).long() + (index >= count - self.shift).long()

        down, across = regions(self.down * self.size), regions(self.across * self.size)
        windows = self._split(3 * down[:, None] + across)
        apart = windows[:, :, None] != windows[:, None, :]
        return self.hidden * apart[:, None].to(torch.float64)

    def split(self, x: Tensor) -> Tensor:
        """[B, R * C, H] -> [B, count * area, H]."""
        return (F.pad(x, (0, 0, 0, 1)) if self.padded else x).index_select(1, self.order())

    def join(self, x: Tensor) -> Tensor:
        """[B, count * area, H] -> [B, R * C, H]."""
        return x.index_select(1, self.back())


class WindowAttention(SelfAttention):
    """Self-attention within each window, [B, R * C, H] -> [B, R * C, H].

    Windows of one place in the picture are a batch of their own where all are alike. Where they hide different things,
    they are heads instead: what is added to the scores is then the same for every picture, and no input changes it.

    Args:
        relative: makes what is added to scores within a window, [1, N, S, S].
        cosine: (queries, keys) -> the same two, normalised, or None: scores are scaled by 1 / sqrt(head_dim).
    """

    def __init__(
        self,
        hidden: int,
        *,
        heads: int,
        windows: Windows,
        relative: nn.Module,
        bias: bool = True,
        key_bias: bool | None = None,
        cosine: nn.Module | None = None,
    ) -> None:
        scale = None if cosine is None else 1.0
        super().__init__(
            hidden, heads=heads, bias=bias, key_bias=key_bias, out_bias=True, relative=relative, scale=scale
        )
        self.windows, self.cosine = windows, cosine

    def forward(self, x: Tensor, mask: Tensor | None, bias: Tensor | None = None) -> Tensor:
        windows, heads = self.windows, self.heads
        assert self.relative is not None and mask is None and bias is None, "windows hide what is to be hidden"
        batch, _, width = x.shape
        shape = (batch, windows.area, windows.count * width)
        bias, rows = self.relative(), windows.split(x)
        if windows.mask is None:
            shape = (batch * windows.count, windows.area, width)
            rows = rows.view(shape)
        else:
            heads = windows.count * heads
            bias = (bias + windows.mask()).clone(memory_format=torch.contiguous_format)
            bias = bias.view(1, heads, windows.area, windows.area)
        query, key, value = self.q_proj(rows), self.k_proj(rows), self.v_proj(rows)
        if self.cosine is not None:
            query, key = self.cosine(query, key)
        context = attention(
            query.view(shape), key.view(shape), value.view(shape), bias=bias, heads=heads, scale=self.scale
        )
        return self.o_proj(windows.join(context.view(batch, -1, width)))


class Parted(NamedTuple):
    """How a grid of any size comes into windows and back: the row for each place of a window, ``order`` [W * A], where
    one behind the last row is none; the place for each row, ``back`` [R * C]; and what is added to scores within each
    window, ``mask`` [W, 1, A, A], or None."""

    count: int
    area: int
    order: Tensor
    back: Tensor
    mask: Tensor | None


def _along(side: int, size: int, shift: int, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of places along a side, filled up to whole windows: where in the grid each was before it was moved, whether that
    is in the grid, and which of three parts, that do not stand side by side in a picture, it is of."""
    place = torch.arange((side + size - 1) // size * size, device=like.device)
    last = place[-1:]
    moved = place + shift
    moved = moved - (last + 1) * (moved > last).to(torch.int64)
    inside = moved <= torch.arange(side, device=like.device)[-1:]
    return moved, inside, (last - place < size).to(torch.int64) + (last - place < shift).to(torch.int64)


def parted(rows: int, columns: int, like: Tensor, *, size: int, shift: int = 0, hidden: float = -100.0) -> Parted:
    """A grid of which only the call knows the size, as `Windows` has one that is known before; numbers are of the type
    of ``like``."""
    down, across = (rows + size - 1) // size, (columns + size - 1) // size
    count, area = down * across, size * size

    def split(places: Tensor) -> Tensor:
        parts = places.view(down, size, across, size).transpose(1, 2)
        return parts.clone(memory_format=torch.contiguous_format)

    (row, row_in, row_part), (column, column_in, column_part) = (
        _along(side, size, shift, like) for side in (rows, columns)
    )
    wide = torch.arange(columns, device=like.device)[-1:] + 1
    none = (torch.arange(rows, device=like.device)[-1:] + 1) * wide
    inside = torch.logical_and(row_in[:, None], column_in)
    places = torch.where(inside, row[:, None] * wide + column, none)
    # Where each place of the moved grid went, at the places that were the grid's rows and columns before.
    went = torch.arange(count * area, device=like.device).view(down, across, size, size).transpose(1, 2)
    went = went.clone(memory_format=torch.contiguous_format).view(down * size, across * size)
    for axis, (side, places_in) in enumerate(((rows, down * size), (columns, across * size))):
        at = torch.arange(side, device=like.device) - shift
        beyond = torch.arange(places_in, device=like.device)[-1:] + 1
        went = went.index_select(axis, at + beyond * (at < 0).to(torch.int64))
    mask = None
    if shift:
        part = split(3 * row_part[:, None] + column_part).view(count, area)
        mask = hidden * (part[:, :, None] != part[:, None, :]).to(like.dtype)
        mask = mask[:, None]
    order = split(places).view(count * area)
    return Parted(count, area, order, went.view(rows * columns), mask)


class FreeWindowAttention(SelfAttention):
    """`WindowAttention` over a grid of any size: windows are a batch of their own, [B, R * C, H] -> [B, R * C, H].

    Args:
        relative: makes what is added to scores within a window, [1, N, A, A].
    """

    def __init__(self, hidden: int, *, heads: int, relative: nn.Module, bias: bool = True) -> None:
        super().__init__(hidden, heads=heads, bias=bias, out_bias=True, relative=relative)

    def forward(self, x: Tensor, windows: Parted) -> Tensor:  # type: ignore[override]
        assert self.relative is not None, "windows have positions"
        batch, _, width = x.shape
        count, area, order, back, mask = windows
        beyond = torch.zeros_like(x[:, :1])
        rows = torch.cat((x, beyond), dim=1).index_select(1, order).view(batch * count, area, width)
        bias = self.relative()
        if mask is not None:
            bias = bias + mask
            bias = bias[None].expand(batch, -1, -1, -1, -1).clone(memory_format=torch.contiguous_format)
            bias = bias.view(batch * count, self.heads, area, area)
        query, key, value = self.q_proj(rows), self.k_proj(rows), self.v_proj(rows)
        context = attention(query, key, value, bias=bias, heads=self.heads, scale=self.scale)
        return self.o_proj(context.view(batch, count * area, width).index_select(1, back))
