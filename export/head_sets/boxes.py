"""Heads of detectors: for each object that a picture may hold its classes, and the box it is in.
https://arxiv.org/abs/2005.12872"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from precast.export.signatures import Component
from precast.runtime.catalogue import CATALOGUE
from precast.runtime.ports import Out, Port

__all__ = ["DeepHead", "ObjectDetection"]


class DeepHead(nn.Module):
    """Linear layers with ReLU between them, [..., sizes[0]] -> [..., sizes[-1]]."""

    def __init__(self, sizes: Sequence[int]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(*pair) for pair in pairwise(sizes))

    def forward(self, x: Tensor) -> Tensor:
        for number, layer in enumerate(self.layers):
            x = layer(torch.relu(x) if number else x)
        return x


class ObjectDetection(Component):
    """{"logits": [B, Q, L], "pred_boxes": [B, Q, 4]}: of each of Q objects, classes and a box's centre, width and
    height as shares of the picture's.

    Args:
        model: pixels, and their mask where it is one of its ports -> states of the objects [B, Q, H].
    """

    task = "object-detection"

    def __init__(self, model: nn.Module, classifier: nn.Module, boxes: nn.Module) -> None:
        super().__init__()
        self.model, self.classifier, self.boxes = model, classifier, boxes

    def ports(self) -> tuple[Port, ...]:
        """What its body takes."""
        made: tuple[Port, ...] = self.model.ports()  # type: ignore[operator]
        return made

    def outs(self) -> tuple[Out, ...]:
        return CATALOGUE[self.task].outs

    def forward(self, pixel_values: Tensor, pixel_mask: Tensor | None = None) -> dict[str, Tensor]:
        masked = () if pixel_mask is None else (pixel_mask,)
        return self.answers(self.model(pixel_values, *masked))

    def answers(self, states: Tensor) -> dict[str, Tensor]:
        """What the states of objects are."""
        return {"logits": self.classifier(states), "pred_boxes": torch.sigmoid(self.boxes(states))}
