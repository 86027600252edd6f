"""Attention within windows of a grid of patches, which may be shifted from layer to layer.
https://arxiv.org/abs/2103.14030

Where a grid ends within a window zeros fill the rest, and are seen like everything else. A shifted grid goes round:
what stands side by side in a window and not in the picture is hidden from each other.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from precast.export.blocks.attention import SelfAttention
from precast.export.blocks.tables import Table
from precast.export.operators import attention

__all__ = ["FreeWindows", "WindowAttention", "Windows"]


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
        return (torch.constant_pad_nd(x, (0, 0, 0, 1)) if self.padded else x).index_select(1, self.order())

    def join(self, x: Tensor) -> Tensor:
        """[B, count * area, H] -> [B, R * C, H]."""
        return x.index_select(1, self.back())


class _Side(NamedTuple):
    """One side of a grid whose size the call says, in tensors, as graphs know no remainder of such a number.

    Args:
        order: of each place in windows, which one of the filled grid it is. back: of each place of the grid, which one
            in windows. region: places in windows that were moved round are of another one. end, whole: how long the
            grid is, and with what fills its last window.
    """

    order: Tensor
    back: Tensor
    region: Tensor
    end: Tensor
    whole: Tensor

    @classmethod
    def of(cls, like: Tensor, count: int, filled: int, size: int, shift: int) -> _Side:
        inside, every = torch.arange(count, device=like.device), torch.arange(filled, device=like.device)
        whole = every[-1:] + 1
        region = (every >= whole - size).to(torch.int64) + (every >= whole - shift).to(torch.int64)
        return cls((every + shift) % whole, (inside + whole - shift) % whole, region, inside[-1:] + 1, whole)


@dataclass(frozen=True)
class FreeWindows:
    """The same of a grid whose size the call says: computed with it, once for all layers of a stage that share it.

    Args:
        mask: what is added to scores within each window, [count, 1, area, area], or None.
    """

    order: Tensor
    back: Tensor
    mask: Tensor | None
    count: int
    area: int

    @classmethod
    def of(cls, like: Tensor, rows: int, columns: int, *, size: int, shift: int, hidden: float = -100.0) -> FreeWindows:
        """Of R x C places; ``like``: what a mask is added to."""
        down, across, area = (rows + size - 1) // size, (columns + size - 1) // size, size * size
        height, width = (
            _Side.of(like, rows, down * size, size, shift),
            _Side.of(like, columns, across * size, size, shift),
        )
        tall, wide = (down, 1, size, 1), (1, across, 1, size)
        row, column = height.order.view(tall), width.order.view(wide)
        # What lies beyond the grid is the row behind its last.
        inside, behind = torch.logical_and(row < height.end, column < width.end), height.end * width.end
        order = torch.where(inside, row * width.end + column, behind).view(down * across * area)
        one, other = height.back[:, None], width.back[None]
        window = one // size * (width.whole // size) + other // size
        back = (window * area + one % size * size + other % size).view(rows * columns)
        mask = None
        if shift:
            regions = (3 * height.region.view(tall) + width.region.view(wide)).view(down * across, area)
            mask = hidden * (regions[:, :, None] != regions[:, None, :])[:, None].to(like.dtype)
        return cls(order, back, mask, down * across, area)

    def split(self, x: Tensor) -> Tensor:
        """[B, R * C, H] -> [B, count * area, H]."""
        return torch.constant_pad_nd(x, (0, 0, 0, 1)).index_select(1, self.order)

    def join(self, x: Tensor) -> Tensor:
        """[B, count * area, H] -> [B, R * C, H]."""
        return x.index_select(1, self.back)


class WindowAttention(SelfAttention):
    """Self-attention within each window, [B, R * C, H] -> [B, R * C, H].

    Windows of one place in the picture are a batch of their own where all are alike. Where they hide different things,
    they are heads instead: what is added to the scores is then the same for every picture, and no input changes it.

    Args:
        windows: None: a call brings them.
        relative: makes what is added to scores within a window, [1, N, S, S].
        cosine: (queries, keys) -> the same two, normalised, or None: scores are scaled by 1 / sqrt(head_dim).
    """

    def __init__(
        self,
        hidden: int,
        *,
        heads: int,
        windows: Windows | None,
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

    def forward(self, x: Tensor, mask: Any, bias: Any = None) -> Tensor:
        """x [B, R * C, H]; ``mask``: the call's `FreeWindows`, or None: those of every call."""
        windows, heads = mask or self.windows, self.heads
        assert windows is not None and self.relative is not None and bias is None, "windows hide what is to be hidden"
        batch, _, width = x.shape
        shape = (batch, windows.area, windows.count * width)
        bias, rows = self.relative(), windows.split(x)
        if windows.mask is None:
            shape = (batch * windows.count, windows.area, width)
            rows = rows.view(shape)
        elif isinstance(windows, FreeWindows):
            # Of a number that only the call knows windows cannot be heads: what each hides goes along with it.
            shape = (batch * windows.count, windows.area, width)
            rows = rows.view(shape)
            bias = (bias + windows.mask)[None].expand(batch, -1, -1, -1, -1)
            bias = bias.clone(memory_format=torch.contiguous_format).view(shape[0], heads, windows.area, windows.area)
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
