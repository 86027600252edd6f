"""Attention within windows of a grid of patches, which may be shifted from layer to layer.
https://arxiv.org/abs/2103.14030

Where a grid ends within a window zeros fill the rest, and are seen like everything else. A shifted grid goes round:
what stands side by side in a window and not in the picture is hidden from each other.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from precast.export.blocks.attention import SelfAttention
from precast.export.blocks.tables import Table
from precast.export.operators import attention

__all__ = ["FreeWindowAttention", "FreeWindows", "Grid", "WindowAttention", "Windows"]


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


class Grid(NamedTuple):
    """How rows of a picture [R * C] come into windows and back, and of which kind each window is."""

    order: Tensor
    back: Tensor
    kinds: Tensor | None


class FreeWindows(nn.Module):
    """Windows over a picture whose sides the call alone knows: as `Windows` over a fixed one.

    Of shifted windows those of the last row and column hold what goes round, so that four kinds hide different things.

    Args:
        whole: sides are whole windows. Otherwise they are filled up: of what is no place of the picture the order is
            the row behind the last.
    """

    def __init__(self, size: int, shift: int, *, whole: bool = False, hidden: float = -100.0) -> None:
        super().__init__()
        self.size, self.shift, self.area, self.whole, self.hidden = size, shift, size * size, whole, hidden
        self.masks = Table((4, 1, self.area, self.area), self._masks) if shift else None

    def _masks(self) -> Tensor:
        """[kinds, 1, S, S], a kind being twice whether a window is in the last row and whether in the last column."""
        behind = torch.arange(self.size) >= self.size - self.shift
        rows, columns = behind[:, None].expand(-1, self.size).flatten(), behind.repeat(self.size)
        regions = torch.stack([2 * (rows & (kind > 1)) + (columns & (kind % 2 > 0)) for kind in range(4)])
        return self.hidden * (regions[:, None, :, None] != regions[:, None, None, :]).to(torch.float64)

    def forward(self, like: Tensor, rows: int, columns: int) -> Grid:
        """Of a batch as large as that of ``like``."""
        size, area, shift = self.size, self.area, self.shift
        height, width = rows, columns
        if not self.whole:
            height, width = ((side + size - 1) // size * size for side in (rows, columns))
        across, count = width // size, (height // size) * (width // size)
        # One number a place, in whose arithmetic torch meets no side that might be 1.
        place = torch.arange(height * width, device=like.device)
        (window, inside), (row, column) = _apart(place, area), _apart(place, width)
        (down, right), (below, beside) = _apart(window, across), _apart(inside, size)
        from_row = _round(down * size + below + shift, height)
        order = from_row * columns
        from_column = _round(right * size + beside + shift, width)
        order = order + from_column
        if not self.whole:
            order = torch.where(torch.logical_and(from_row < rows, from_column < columns), order, rows * columns)
            row, column = _apart(torch.arange(rows * columns, device=like.device), columns)
        row, column = _round(row + height - shift, height), _round(column + width - shift, width)
        (down, below), (right, beside) = _apart(row, size), _apart(column, size)
        back = (down * across + right) * area + below * size + beside
        if not shift:
            return Grid(order, back, None)
        window = _round(torch.arange(like.shape[0] * count, device=like.device), count)
        last_row, last_column = window >= count - across, _round(window, across) == across - 1
        return Grid(order, back, 2 * last_row.to(torch.int64) + last_column.to(torch.int64))


def _apart(number: Tensor, by: int) -> tuple[Tensor, Tensor]:
    """Quotient and remainder, from 0 on; by a size that the call alone may know, which torch.onnx takes no remainder
    of."""
    whole = number // by
    return whole, number - whole * by


def _round(number: Tensor, by: int) -> Tensor:
    return _apart(number, by)[1]


class FreeWindowAttention(SelfAttention):
    """`WindowAttention` over a picture of any size: windows are a batch of their own, [B, R * C, H] -> [B, R * C, H].

    Args:
        relative: makes what is added to scores within a window, [1, N, A, A].
        cosine: (queries, keys) -> the same two, normalised, or None: scores are scaled by 1 / sqrt(head_dim).
    """

    def __init__(
        self,
        hidden: int,
        *,
        heads: int,
        windows: FreeWindows,
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

    def forward(self, x: Tensor, mask: Any, bias: Tensor | None = None) -> Tensor:
        """``mask``: the `Grid` of the picture."""
        grid: Grid = mask
        assert self.relative is not None
        batch, _, width = x.shape
        if not self.windows.whole:
            x = torch.cat((x, torch.zeros_like(x[:, :1])), dim=1)
        rows = x.index_select(1, grid.order)
        rows = rows.view(batch * (rows.shape[1] // self.windows.area), self.windows.area, width)
        query, key = self.q_proj(rows), self.k_proj(rows)
        if self.cosine is not None:
            query, key = self.cosine(query, key)
        added = self.relative()
        if grid.kinds is not None:
            assert self.windows.masks is not None
            added = (added + self.windows.masks()).index_select(0, grid.kinds)
        context = attention(query, key, self.v_proj(rows), bias=added, heads=self.heads, scale=self.scale)
        return self.o_proj(context.view(batch, -1, width).index_select(1, grid.back))
