"""Stages of attention within windows, over maps of any size, as a backbone that models of several maps stand on.
https://arxiv.org/abs/2103.14030

Places lie channels last, [B, R, C, H], from the stem to the last stage; a map that is read is normalised by a norm of
its own, and as others are, [B, H, R, C]."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from precast.export.blocks.convolution import Convolution
from precast.export.blocks.norms import LayerNorm, normed_sum
from precast.export.blocks.windows import FreeWindows
from precast.export.skeletons.backbone import Backbone
from precast.export.skeletons.encoder import PreNormLayer

__all__ = ["FreeMerge", "FreePatches", "WindowBackbone", "WindowStage"]


class FreePatches(nn.Module):
    """Pixels [B, C, H, W] -> normalised patches [B, R, C', E]; the last ones are filled up with zeros."""

    def __init__(self, channels: int, size: int, patch: int, norm: nn.Module) -> None:
        super().__init__()
        behind = (0, 0, patch - 1, patch - 1)
        self.projection = Convolution(channels, size, patch, stride=patch, padding=behind if patch > 1 else 0)
        self.norm = norm

    def forward(self, pixels: Tensor) -> Tensor:
        return self.norm(self.projection(pixels).permute(0, 2, 3, 1))


class FreeMerge(nn.Module):
    """[B, R, C, H] -> half of it, each place of four neighbours, [B, ceil(R / 2), ceil(C / 2), 2 * H]; of an odd side
    the last one is filled up with zeros. ``norm``: in front of the projection."""

    def __init__(self, width: int, norm: nn.Module) -> None:
        super().__init__()
        self.norm, self.reduction = norm, nn.Linear(4 * width, 2 * width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        batch, rows, columns, width = x.shape
        down, across = (rows + 1) // 2, (columns + 1) // 2
        # Of the four the left ones come first; where there is none, the row behind the last.
        row = torch.arange(2 * down, device=x.device).view(down, 1, 1, 2)
        column = torch.arange(2 * across, device=x.device).view(1, across, 2, 1)
        last_row, last = (torch.arange(side, device=x.device)[-1:] for side in (rows, columns))
        inside = torch.logical_and(row <= last_row, column <= last)
        places = torch.where(inside, row * (last + 1) + column, (last_row + 1) * (last + 1))
        beyond = torch.zeros_like(x[:, :1, 0])
        x = torch.cat((x.view(batch, rows * columns, width), beyond), dim=1)
        x = x.index_select(1, places.view(4 * down * across)).view(batch, down, across, 4 * width)
        return self.reduction(self.norm(x))


class WindowStage(nn.Module):
    """Layers whose windows are ``plain`` and ``shifted`` in turn. ``merge``: in front of the layers, or None."""

    def __init__(
        self, layers: Iterable[PreNormLayer], merge: nn.Module | None, plain: FreeWindows, shifted: FreeWindows
    ) -> None:
        super().__init__()
        self.merge, self.layers, self.windows = merge, nn.ModuleList(layers), nn.ModuleList((plain, shifted))

    def forward(self, x: Tensor) -> Tensor:
        x = x if self.merge is None else self.merge(x)
        batch, rows, columns, width = x.shape
        grids = [windows(x, rows, columns) for _, windows in zip(self.layers, self.windows, strict=False)]
        x, update = x.view(batch, rows * columns, width), None
        for number, layer in enumerate(self.layers):
            x, update = layer(x, update, grids[number % 2])
        return normed_sum(None, x, update)[0].view(batch, rows, columns, width)


class _Read(nn.Module):
    """norm(x) as a map, [B, R, C, H] -> [B, H, R, C]."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x).permute(0, 3, 1, 2)


class WindowBackbone(Backbone):
    """``widths``: of what the stem and each stage make; ``epsilon``: of the norms of maps that are read."""

    def __init__(
        self,
        stem: FreePatches,
        stages: Iterable[WindowStage],
        *,
        channels: int,
        widths: tuple[int, ...],
        epsilon: float,
    ) -> None:
        super().__init__(stem, stages, channels=channels)
        self.widths, self.epsilon = widths, epsilon

    def behind(self, number: int) -> nn.Module:
        return _Read(LayerNorm(self.widths[number], self.epsilon))
