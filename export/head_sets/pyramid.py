"""UPerNet's decoder: the last map is read at several scales, and all maps are added from the smallest to the largest.
https://arxiv.org/abs/1807.10221"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from precast.export.blocks.convolution import ConvNorm, pooled
from precast.export.operators import resized
from precast.export.weights import Rename, Rule

__all__ = ["PyramidDecoder", "pyramid_names"]


class _Pool(nn.Module):
    """The means of ``count`` x ``count`` parts of a map, which share rows and columns where these do not divide."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.count = count

    def forward(self, x: Tensor) -> Tensor:
        if self.count == 1:
            return pooled(x)
        down, across = (self._shares(side, x) for side in x.shape[2:])
        return down @ (x @ across.t())

    def _shares(self, side: int, like: Tensor) -> Tensor:
        """How much of each part each place is, [count, side]: part i is from floor(i * side / count) to
        ceil((i + 1) * side / count)."""
        place = torch.arange(side, device=like.device)
        size, part = place[-1:] + 1, torch.arange(self.count, device=like.device)[:, None]
        behind = ((place + 1) * self.count > part * size).to(like.dtype)
        inside = behind * (place * self.count < (part + 1) * size).to(like.dtype)
        return inside / inside.sum(1, keepdim=True)


class PyramidDecoder(nn.Module):
    """Maps [B, C, H, W] of several sizes, the largest first -> logits [B, L, H', W'] at the size of the first.

    Args:
        channels: of each map. size: channels in between. scales: parts a side of the means of the last map.
    """

    def __init__(self, channels: Sequence[int], size: int, labels: int, scales: Sequence[int]) -> None:
        super().__init__()
        *before, last = channels
        self.pools = nn.ModuleList(_Pool(scale) for scale in scales)
        self.means = nn.ModuleList(ConvNorm(last, size, act=F.relu) for _ in scales)
        self.bottleneck = ConvNorm(last + len(scales) * size, size, 3, act=F.relu)
        self.laterals = nn.ModuleList(ConvNorm(each, size, act=F.relu) for each in before)
        self.outputs = nn.ModuleList(ConvNorm(size, size, 3, act=F.relu) for _ in before)
        self.fusion = ConvNorm(len(channels) * size, size, 3, act=F.relu)
        self.classifier = nn.Conv2d(size, labels, 1)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        *before, last = maps
        means = [resized(mean(pool(last)), last) for pool, mean in zip(self.pools, self.means, strict=True)]
        x = self.bottleneck(torch.cat((last, *means), dim=1))
        made = [x]
        for lateral, output, each in [*zip(self.laterals, self.outputs, before, strict=True)][::-1]:
            inner = lateral(each)
            x = inner + resized(x, inner)
            made.append(output(x))
        largest, *others = made[::-1]
        others = [resized(each, largest) for each in others]
        return self.classifier(self.fusion(torch.cat((largest, *others), dim=1)))


def pyramid_names(new: str) -> tuple[Rule, ...]:
    """Names of a decoder behind ``decode_head``, as those of `PyramidDecoder` behind ``new``."""
    parts = {"psp_bottleneck": "bottleneck", "lateral_convs": "laterals", "fpn_convs": "outputs"}
    parts |= {"fpn_bottleneck": "fusion"}
    return (
        Rename("decode_head.*", f"{new}.*"),
        Rename(f"{new}.psp_modules.blocks.{{}}.conv.*", f"{new}.means.{{}}.*"),
        Rename(f"{new}.psp_modules.{{}}.1.*", f"{new}.means.{{}}.*"),
        *(Rename(f"{new}.{old}.*", f"{new}.{ours}.*") for old, ours in parts.items()),
        Rename(f"{new}.*.conv.*", f"{new}.*.convolution.*"),
        *(Rename(f"{new}.*.{old}.*", f"{new}.*.norm.*") for old in ("bn", "batch_norm", "normalization")),
    )
