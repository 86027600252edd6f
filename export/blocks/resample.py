"""Learned tables over a grid, read at another size of it: resampling as matrix products, in any float type.

What a size is only the call knows: weights of the old places are computed for it, one axis after the other.
https://doi.org/10.1109/TASSP.1981.1163711
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["Bicubic", "Bilinear"]

# Slope of the kernel at its first zero: torch's choice, and Pillow's where it smooths what is made smaller.
_SLOPE, _SMOOTH_SLOPE = -0.75, -0.5


class Bicubic(nn.Module):
    """A table of G x F places [1, G * F, H] -> a map of R x C places [H, R, C].

    Args:
        sides: G and F, or the number that both are.
        antialias: the kernel is stretched where the table is made smaller.
    """

    reach = 2

    def __init__(self, sides: int | tuple[int, int], *, antialias: bool = False) -> None:
        super().__init__()
        self.sides = (sides, sides) if isinstance(sides, int) else sides
        self.antialias = antialias

    def weights(self, like: Tensor, rows: int, columns: int) -> tuple[Tensor, Tensor]:
        """How much new rows have of old ones [R, G], and new columns [F, C]: for several tables of one size."""
        return self._weights(rows, like, 0), self._weights(columns, like, 1)

    def forward(self, table: Tensor, rows: int, columns: int, weights: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """A table [1, G * F, H] as a map [H, R, C]; ``weights``: those of this size, where they are there already."""
        (height, across), width = self.sides, table.shape[-1]
        # Layouts in which no product wants a copy of what the call's sizes are in.
        grid = table.view(height, across, width).transpose(1, 2).clone(memory_format=torch.contiguous_format)
        down = (self._weights(rows, table, 0) if weights is None else weights[0]) @ grid.view(height, width * across)
        down = down.view(rows, width, across)
        return (down @ (self._weights(columns, table, 1) if weights is None else weights[1])).transpose(0, 1)

    def _weights(self, size: int, like: Tensor, axis: int) -> Tensor:
        """How much each of ``size`` new places has of each old one; ``axis``: along which the new ones are."""
        side = self.sides[axis]
        place = torch.arange(size, device=like.device).to(like.dtype)
        count = place[-1:] + 1
        scale = torch.full_like(count, side) / count
        centre = ((place + 0.5) * scale - 0.5).unsqueeze(1 - axis)
        if self.antialias:
            old = torch.arange(side, device=like.device).to(like.dtype).unsqueeze(axis)
            weights = _kernel((centre - old) / scale.clamp(min=1), _SMOOTH_SLOPE)
            return weights / weights.sum(dim=1 - axis, keepdim=True)
        # What lies outside is the place at the edge.
        old = torch.arange(-self.reach, side + self.reach, device=like.device)
        edge = old.clamp(0, side - 1).unsqueeze(1 - axis)
        inside = (edge == torch.arange(side, device=like.device).unsqueeze(axis)).to(like.dtype)
        weights = self.kernel(centre - old.to(like.dtype).unsqueeze(axis))
        return inside @ weights if axis else weights @ inside

    def kernel(self, x: Tensor) -> Tensor:
        """How much a place has of one so far away, none from ``reach`` on."""
        return _kernel(x, _SLOPE)


class Bilinear(Bicubic):
    """The same of the two nearest places a side."""

    reach = 1

    def kernel(self, x: Tensor) -> Tensor:
        return torch.relu(-x.abs() + 1)


def _kernel(x: Tensor, slope: float) -> Tensor:
    """Cubic convolution: 1 at 0, 0 at every other integer, and beyond 2; both of its pieces in one formula."""
    x = -x.abs()
    inner, outer = torch.relu(x + 1), torch.relu(x + 2)
    return -slope * outer * outer * (outer - 1) - inner * inner * (2 * inner - (4 * slope + 3))
