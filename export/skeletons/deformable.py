"""Detectors whose objects look at several maps of a backbone, around a point or in a box, and move it from layer to
layer. https://arxiv.org/abs/2010.04159"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from precast.export.backbones import FeatureMaps
from precast.export.blocks.deformable import Levels, levels_of
from precast.export.blocks.norms import LayerNorm
from precast.export.blocks.patches import rows_of
from precast.export.blocks.places import PointSines, mask_at
from precast.export.head_sets.boxes import DeepHead, ObjectDetection
from precast.export.skeletons.detector import DecoderLayer, EncoderLayer, mask_port
from precast.runtime.errors import ConfigError
from precast.runtime.ports import Dim, Port, merged

__all__ = [
    "EDGE",
    "SIDE",
    "WHOLE",
    "BoxDecoder",
    "BoxDetection",
    "LearnedObjects",
    "MapsDecoderLayer",
    "MapsDetector",
    "MapsEncoderLayer",
    "Proposals",
    "ProposedObjects",
    "least_side",
    "moved",
]

# What is that close to a picture's edge is proposed by no place.
EDGE = 0.01
# The sides of a proposal in the first map.
SIDE = 0.05
# A logit of which the share is 1 in every type, whatever is added to it: all of the picture.
WHOLE = 1e4
# The logarithm of a share, and of what is left of it, is no less where a box moves.
_LEAST = math.log(1e-5)


def moved(boxes: Tensor, by: Tensor) -> Tensor:
    """Logits of boxes [..., 4], or of points [..., 2] as the middles of boxes of half the picture, and how far these
    move, [..., 4] -> logits of boxes.

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
        """Objects x [B, Q, H], logits of where they look [B or 1, Q, 2 or 4], and their positions -> objects, and
        logits of where the last layer looked."""
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

    def __init__(self, hidden: int, labels: int, count: int, *, eps: float, score: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.count, self.score = count, score
        self.projection, self.norm = nn.Linear(hidden, hidden), LayerNorm(hidden, eps)
        self.classifier, self.boxes = nn.Linear(hidden, labels), DeepHead((hidden, hidden, hidden, 4))

    def forward(self, rows: Tensor, maps: Levels) -> tuple[Tensor, Tensor]:
        """Rows [B, S, H] of ``maps`` -> states [B, Q, H] of the places and logits of their boxes [B, Q, 4], the
        likeliest first."""
        anchors = maps.anchors(SIDE)
        inside = torch.logical_and(anchors.amin(-1) > EDGE, anchors.amax(-1) < 1 - EDGE)
        if maps.shown is not None:
            inside = torch.logical_and(inside, maps.shown > 0)
        logits = torch.where(inside[..., None], torch.log(anchors / (-anchors + 1)), WHOLE)
        states = self.norm(self.projection(rows * inside[..., None].to(rows.dtype)))
        best = self.score(self.classifier(states)).topk(self.count, dim=1).indices[..., None]
        chosen = states.gather(1, best.expand(-1, -1, states.shape[-1]))
        logits = logits.expand(rows.shape[0], -1, -1).gather(1, best.expand(-1, -1, 4))
        return chosen, self.boxes(chosen) + logits


class LearnedObjects(nn.Module):
    """Objects that are the same for all pictures, and their positions, which say where they look first."""

    count = 1  # of a picture's places that it needs

    def __init__(self, hidden: int, objects: int) -> None:
        super().__init__()
        self.queries, self.objects = (nn.Parameter(torch.empty(objects, hidden)) for _ in range(2))
        self.points = nn.Linear(hidden, 2)

    def forward(self, rows: Tensor, maps: Levels) -> tuple[Tensor, Tensor, Tensor]:
        """-> objects and their positions, [B, Q, H] and [1, Q, H], and logits of where they look, [1, Q, 2]."""
        objects = self.objects.expand(rows.shape[0], -1, -1).clone(memory_format=torch.contiguous_format)
        return objects, self.queries[None], self.points(self.queries[None])


class ProposedObjects(nn.Module):
    """Objects and their positions as the sines of proposed boxes say."""

    def __init__(self, proposals: Proposals, hidden: int, eps: float) -> None:
        super().__init__()
        self.proposals, self.count, self.sines = proposals, proposals.count, PointSines(hidden // 2)
        self.placed, self.placed_norm = nn.Linear(2 * hidden, 2 * hidden), LayerNorm(2 * hidden, eps)

    def forward(self, rows: Tensor, maps: Levels) -> tuple[Tensor, Tensor, Tensor]:
        """Rows [B, S, H] of ``maps`` -> objects and their positions, [B, Q, H] each, and logits of their boxes."""
        _, boxes = self.proposals(rows, maps)
        both, size = self.placed_norm(self.placed(self.sines(torch.sigmoid(boxes)))), rows.shape[-1]
        return both[..., size:], both[..., :size], boxes


class MapsDetector(nn.Module):
    """Pixels [B, C, H, W], mask [B, H, W] of those that are the picture's -> objects [B, Q, H].

    Args:
        strides: of the backbone's maps. projections: of each of these, and further ones of what the last of them, and
            then each one before, has made at half the size.
        places: makes positions [B or 1, R, C, H] of a mask at a map's size.
        start: makes objects, positions and logits of where they look of all rows; it says how many rows it needs.
    """

    def __init__(
        self,
        backbone: FeatureMaps,
        strides: Sequence[int],
        projections: Sequence[nn.Module],
        hidden: int,
        *,
        places: nn.Module,
        encoder: Sequence[nn.Module],
        start: nn.Module,
        decoder: BoxDecoder,
    ) -> None:
        super().__init__()
        self.backbone, self.places, self.start, self.decoder = backbone, places, start, decoder
        self.projections, self.encoder = nn.ModuleList(projections), nn.ModuleList(encoder)
        self.levels = nn.Parameter(torch.empty(len(projections), hidden))
        more = len(projections) - len(strides)
        self.strides = (*strides, *(strides[-1] << number + 1 for number in range(more)))

    def ports(self) -> tuple[Port, ...]:
        """A picture and its mask."""
        [pixels] = self.backbone.ports()
        return pixels, mask_port(pixels)

    def bounds(self) -> dict[str, Dim]:
        # Two places a side of the smallest map: to norm a single one would leave nothing of it.
        return merged((least_side(self.strides, int(self.start.count)), least_side(self.strides[-1:], 4)))  # type: ignore[arg-type]

    def _maps(self, pixels: Tensor) -> list[Tensor]:
        """Those of the backbone, and smaller ones of its last."""
        found = self.backbone(pixels)
        made = [projection(each) for projection, each in zip(self.projections, found, strict=False)]
        last = found[-1]
        for projection in self.projections[len(found) :]:
            last = projection(last)
            made.append(last)
        return made

    def forward(self, pixel_values: Tensor, pixel_mask: Tensor) -> Tensor:
        return self._found(pixel_values, pixel_mask)[0]

    def looked(self, pixel_values: Tensor, pixel_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Objects, and logits of where the last layer looked."""
        return self._found(pixel_values, pixel_mask)[:2]

    def both(self, pixel_values: Tensor, pixel_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Objects, and the states [B, S, H] of the maps' places."""
        found, _, rows = self._found(pixel_values, pixel_mask)
        return found, rows

    def _found(self, pixel_values: Tensor, pixel_mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        grids = self._maps(pixel_values)
        masks = [mask_at(pixel_mask, grid.shape[2], grid.shape[3]) for grid in grids]
        maps, rows = levels_of(grids, masks), torch.cat([rows_of(grid) for grid in grids], dim=1)
        made = [self.places(mask) for mask in masks]
        flat = [each.view(each.shape[0], -1, each.shape[3]) + self.levels[number] for number, each in enumerate(made)]
        places, around = torch.cat(flat, dim=1), maps.around(maps.centres, 1)
        for layer in self.encoder:
            rows = layer(rows, places, maps, *around)
        objects, queries, boxes = self.start(rows, maps)
        return *self.decoder(objects, boxes, rows, maps, queries), rows


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
