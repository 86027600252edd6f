"""Positions of places in a padded map: the picture's mask at the map's size, and sines of where a place is.
https://arxiv.org/abs/2005.12872, appendix A.4"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from precast.export.blocks.tables import Table
from precast.runtime.ports import Dim

__all__ = ["GridSines", "LearnedPlaces", "PointSines", "SinePlaces", "mask_at", "nearest"]

_EPSILON = 1e-6


def mask_at(mask: Tensor, rows: int, columns: int) -> Tensor:
    """A mask [B, H, W] of pixels at a map's size, [B, R, C]: each place has the nearest pixel's."""
    return nearest(mask, rows, columns, 1)


def nearest(x: Tensor, rows: int, columns: int, axis: int) -> Tensor:
    """Rows from ``axis`` on, and columns behind it, of another number: each has what is nearest before it, found in
    float32 as everybody does."""
    for where, size in ((axis, rows), (axis + 1, columns)):
        place = torch.arange(size, device=x.device).to(torch.float32)
        pixels = torch.arange(x.shape[where], device=x.device).to(torch.float32)
        step = (pixels[-1:] + 1) / (place[-1:] + 1)
        x = x.index_select(where, (place * step).to(torch.int64))
    return x


class SinePlaces(nn.Module):
    """Sines and cosines of how far down a place is, and behind them of how far across: mask [B, R, C] -> [B, R, C, H].

    Args:
        scale: what a whole picture's side is.
        shift: what is taken off the number of a place, which are counted from 1.
        angles: the type they are computed in, where that is not the model's.
    """

    def __init__(
        self,
        size: int,
        *,
        temperature: float = 10000,
        scale: float = 2 * math.pi,
        shift: float = 0.0,
        angles: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.share, self.scale, self.shift, self.angles = size // 2, scale, shift, angles

        def periods() -> Tensor:
            exponent = torch.arange(0, self.share, 2, dtype=angles or torch.float64) / self.share
            return temperature**exponent

        self.periods = Table((self.share // 2,), periods)

    def forward(self, mask: Tensor) -> Tensor:
        periods = self.periods()
        seen = mask.to(periods.dtype if self.angles is None else self.angles)
        return torch.cat([self._sines(seen.cumsum(axis), axis, periods) for axis in (1, 2)], dim=-1)

    def _sines(self, count: Tensor, axis: int, periods: Tensor) -> Tensor:
        """Of places counted along an axis."""
        whole = count[:, -1:] if axis == 1 else count[:, :, -1:]
        if self.shift:
            count = count - self.shift
        angles = (count / (whole + _EPSILON) * self.scale).unsqueeze(-1) / periods.to(count.dtype)
        angles = angles.to(periods.dtype)
        return torch.stack((angles.sin(), angles.cos()), dim=-1).view(*count.shape, self.share)


class GridSines(nn.Module):
    """Sines of how far down a place is, their cosines, and behind these the same of how far across, R and C ->
    [R, C, H]. Places are counted from 0."""

    def __init__(self, size: int, *, temperature: float = 10000) -> None:
        super().__init__()
        count = size // 4
        self.rates = Table((count,), lambda: temperature ** (-torch.arange(count, dtype=torch.float64) / count))

    def forward(self, rows: int, columns: int) -> Tensor:
        rates = self.rates()
        angles = [torch.arange(side, device=rates.device).to(rates.dtype)[:, None] * rates for side in (rows, columns)]
        down, across = (torch.cat((each.sin(), each.cos()), dim=-1) for each in angles)
        return torch.cat((down[:, None].expand(-1, columns, -1), across[None].expand(rows, -1, -1)), dim=-1)


class PointSines(nn.Module):
    """Sines and cosines of each share of a picture's side, [..., N] -> [..., N * size]. Powers are float32 numbers, as
    models were trained with them."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.periods = Table((size // 2,), lambda: 10000 ** (torch.arange(0, size, 2, dtype=torch.float32) / size))

    def forward(self, shares: Tensor) -> Tensor:
        angles = (shares * (2 * math.pi)).unsqueeze(-1) / self.periods()
        return torch.stack((angles.sin(), angles.cos()), dim=-1).view(*shares.shape[:-1], -1)


class LearnedPlaces(nn.Module):
    """Tables of columns and of rows, whatever is padding: mask [B, R, C] -> [1, R, C, H].

    Args:
        stride: of the map, so that pictures may be as many times larger. longest: of a map's sides.
    """

    def __init__(self, size: int, *, stride: int, longest: int = 50) -> None:
        super().__init__()
        self.longest, self.stride = longest, stride
        self.rows, self.columns = nn.Embedding(longest, size // 2), nn.Embedding(longest, size // 2)

    def bounds(self) -> dict[str, Dim]:
        return dict.fromkeys(("height", "width"), Dim(most=self.longest * self.stride))

    def forward(self, mask: Tensor) -> Tensor:
        _, rows, columns = mask.shape
        down = self.rows(torch.arange(rows, device=mask.device))[:, None].expand(-1, columns, -1)
        across = self.columns(torch.arange(columns, device=mask.device))[None].expand(rows, -1, -1)
        return torch.cat((across, down), dim=-1)[None]
