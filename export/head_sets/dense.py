"""Heads that say something of every place of a picture: a decoder over what the stages of a backbone make."""

from __future__ import annotations

from torch import Tensor, nn

from precast.export.signatures import Component
from precast.export.skeletons.backbone import Backbone
from precast.runtime.catalogue import CATALOGUE
from precast.runtime.ports import Out, Port

__all__ = ["DensePrediction", "DepthEstimation", "SemanticSegmentation"]


class DensePrediction(Component):
    """One output, which ``decoder`` makes of the maps [B, C, H', W'] of all stages."""

    task: str

    def __init__(self, model: Backbone, decoder: nn.Module) -> None:
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
