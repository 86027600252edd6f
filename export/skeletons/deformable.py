"""Detectors whose objects look at several maps of a backbone, around a point or in a box, and move it from layer to
layer. https://arxiv.org/abs/2010.04159"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from precast.export.blocks.deformable import Levels
from precast.export.blocks.norms import LayerNorm
from precast.export.head_sets.boxes import DeepHead, ObjectDetection
from precast.export.skeletons.detector import DecoderLayer, EncoderLayer
from precast.runtime.errors import ConfigError
from precast.runtime.ports import Dim

__all__ = ["BoxDecoder", "BoxDetection", "MapsDecoderLayer", "MapsEncoderLayer", "Proposals", "least_side"]

# What is that close to a picture's edge is proposed by no place.
_EDGE = 0.01
# The sides of a proposal in the first map.
_SIDE = 0.05
# A logit of which the share is 1 in every type, whatever is added to it: all of the picture.
_WHOLE = 1e4
# The logarithm of a share, and of what is left of it, is no less where a box moves.
_LEAST = math.log(1e-5)


def moved(boxes: Tensor, by: Tensor) -> Tensor:
    """Logits of boxes [..., 4], or of points [..., 2] as the middles of boxes of half the picture, and how far they move,
    [..., 4] -> logits of boxes.

    What is added to are logits of shares, kept above 1e-5 and below as much less than 1. They are told of the logits
    that shares came of: near 1 a share in float32 has lost its digits."""
    kept = (-F.softplus(-boxes)).clamp(min=_LEAST) - (-F.softplus(boxes)).clamp(min=_LEAST)
    if boxes.shape[-1] == 2:
        kept = torch.cat((kept, torch.zeros_like(kept)), dim=-1)
    return by + kept


class MapsEncoderLayer(EncoderLayer):
    """Attention of every place of several maps over these."""

    def forward(  # type: ignore[override]
        self, x: Tensor, places: Tensor, maps: Levels, middles: Tensor, reach: Tensor
    ) -> Tensor:
        """Rows x [B, S, H] of ``maps`` and their positions; see `Levels.around` for the others."""
        x, _ = self.self_attn_layer_norm.add(self.self_attn(x + places, x, maps, middles, reach), x)
        return self.final_layer_norm.add(self.mlp(x), x)[0]


class MapsDecoderLayer(DecoderLayer):
    """Attention among the objects, and over several maps."""

    def forward(  # type: ignore[override]
        self, x: Tensor, queries: Tensor, source: Tensor, maps: Levels, middles: Tensor, reach: Tensor
    ) -> Tensor:
        """Objects x [B, Q, H] and their positions, rows ``source`` [B, S, H] of ``maps``."""
        placed = x + queries
        x, _ = self.self_attn_layer_norm.add(self.self_attn(placed, placed, x), x)
        x, _ = self.encoder_attn_layer_norm.add(self.encoder_attn(x + queries, source, maps, middles, reach), x)
        return self.final_layer_norm.add(self.mlp(x), x)[0]


class BoxDecoder(nn.Module):
    """Layers of objects, each of which looks around a point or in a box.

    Args:
        reach: of an offset of 1, as a share of a box's side.
        refine: of each layer but the last what makes of an object how its box moves; none: it stays.
        placed: makes positions of boxes; None: they are given.
    """

    def __init__(
        self, layers: Iterable[nn.Module], *, reach: float, refine: Iterable[nn.Module], placed: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.layers, self.refine, self.placed = nn.ModuleList(layers), nn.ModuleList(refine), placed
        self.reach = reach

    def forward(
        self, x: Tensor, boxes: Tensor, source: Tensor, maps: Levels, queries: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Objects x [B, Q, H], logits of where they look [B or 1, Q, 2 or 4], and their positions -> objects, and logits
        of where the last layer looked."""
        looked: Tensor | None = None
        for number, layer in enumerate(self.layers):
            if looked is None:
                looked = torch.sigmoid(boxes)
                around = maps.around(looked, self.reach)
                queries = queries if self.placed is None else self.placed(looked)
            x = layer(x, queries, source, maps, *around)
            if number < len(self.refine):
                boxes, looked = moved(boxes, self.refine[number](x)), None
        return x, boxes


class Proposals(nn.Module):
    """The places of maps that are most likely to show an object, and the boxes these propose.

    Args:
        count: of the places. score: makes one number of a place's classes, [B, S, L] -> [B, S].
    """

    def __init__(
        self, hidden: int, labels: int, count: int, *, eps: float, score: Callable[[Tensor], Tensor]
    ) -> None:
        super().__init__()
        self.count, self.score = count, score
        self.projection, self.norm = nn.Linear(hidden, hidden), LayerNorm(hidden, eps)
        self.classifier, self.boxes = nn.Linear(hidden, labels), DeepHead((hidden, hidden, hidden, 4))

    def forward(self, rows: Tensor, maps: Levels) -> tuple[Tensor, Tensor]:
        """Rows [B, S, H] of ``maps`` -> states [B, Q, H] of the places and logits of their boxes [B, Q, 4], the
        likeliest first."""
        anchors = maps.anchors(_SIDE)
        inside = torch.logical_and(anchors.amin(-1) > _EDGE, anchors.amax(-1) < 1 - _EDGE)
        if maps.shown is not None:
            inside = torch.logical_and(inside, maps.shown > 0)
        logits = torch.where(inside[..., None], torch.log(anchors / (-anchors + 1)), _WHOLE)
        states = self.norm(self.projection(rows * inside[..., None].to(rows.dtype)))
        best = self.score(self.classifier(states)).topk(self.count, dim=1).indices[..., None]
        chosen = states.gather(1, best.expand(-1, -1, states.shape[-1]))
        logits = logits.expand(rows.shape[0], -1, -1).gather(1, best.expand(-1, -1, 4))
        return chosen, self.boxes(chosen) + logits


class BoxDetection(ObjectDetection):
    """Boxes are told from where the last layer looked, which the model gives beside the objects."""

    def forward(self, pixel_values: Tensor, pixel_mask: Tensor | None = None) -> dict[str, Tensor]:
        masked = () if pixel_mask is None else (pixel_mask,)
        states, boxes = self.model.looked(pixel_values, *masked)  # type: ignore[operator]
        return {"logits": self.classifier(states), "pred_boxes": torch.sigmoid(moved(boxes, self.boxes(states)))}


def least_side(strides: Iterable[int], count: int, *, multiple: int = 1) -> dict[str, Dim]:
    """Bounds of pictures whose maps of these strides have ``count`` places at least."""
    strides, side = tuple(strides), multiple
    if count > 1 << 20:
        raise ConfigError(f"{count} objects of a picture are too many: {1 << 20} are what it may have here")
    while sum((-(-side // stride)) ** 2 for stride in strides) < count:
        side += multiple
    return dict.fromkeys(("height", "width"), Dim(least=side, multiple=multiple))
