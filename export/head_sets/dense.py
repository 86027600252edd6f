"""Heads that say something of every place of a picture: a decoder over what the stages of a backbone make."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from precast.export.backbones import FeatureMaps
from precast.export.blocks.convolution import ConvNorm, pooled
from precast.export.head_sets.fusion import PatchMaps
from precast.export.signatures import Component
from precast.export.skeletons.backbone import Backbone
from precast.runtime.catalogue import CATALOGUE
from precast.runtime.ports import Out, Port

__all__ = ["AtrousPyramid", "DensePrediction", "DepthEstimation", "SemanticSegmentation"]


class DensePrediction(Component):
    """One output, which ``decoder`` makes of the maps [B, C, H', W'] of all stages, or of
    some layers."""

    task: str

    def __init__(self, model: Backbone | FeatureMaps | PatchMaps, decoder: nn.Module) -> None:
        super().__init__()
        self.model, self.decoder = model, decoder

    def ports(self) -> tuple[Port, ...]:
        return self.model.ports()

    def outs(self) -> tuple[Out, ...]:
        return CATALOGUE[self.task].outs

    def forward(self, pixel_values: Tensor) -> dict[str, Tensor]:
        return {self.outs()[0].name: self.decoder(self.model.maps(pixel_values))}


class SemanticSegmentation(DensePrediction):
    """{"logits": [B, L, H', W']}."""

    task = "semantic-segmentation"


class DepthEstimation(DensePrediction):
    """{"predicted_depth": [B, H', W']}."""

    task = "depth-estimation"


class AtrousPyramid(nn.Module):
    """The last of several maps [B, C, H, W], read at each place, with gaps of several sizes, and as a whole -> logits
    [B, L, H, W]. https://arxiv.org/abs/1706.05587

    Args:
        rates: the gaps. whole_first: in the order of channels what the whole says stands in front of the others.
    """

    def __init__(self, channels: int, size: int, labels: int, rates: Sequence[int] = (), whole_first: bool = False):
        super().__init__()
        self.whole_first = whole_first
        gaps = (ConvNorm(channels, size, 3, dilation=rate, act=F.relu) for rate in rates)
        self.near = nn.ModuleList([ConvNorm(channels, size, act=F.relu), *gaps])
        self.whole = ConvNorm(channels, size, act=F.relu)
        self.project = ConvNorm((2 + len(rates)) * size, size, act=F.relu)
        self.classifier = nn.Conv2d(size, labels, 1)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        x = maps[-1]
        near = [each(x) for each in self.near]
        whole = self.whole(pooled(x)).expand(-1, -1, *x.shape[2:])
        return self.classifier(self.project(torch.cat([whole, *near] if self.whole_first else [*near, whole], dim=1)))
