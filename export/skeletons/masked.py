"""Segments by masked attention: deformable attention among the three last maps of a backbone, and a decoder whose
queries see no place that the layer before has not given them. https://arxiv.org/abs/2112.01527"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from precast.export.blocks.convolution import GroupNorm
from precast.export.blocks.deformable import DeformableAttention, Levels, levels_of
from precast.export.blocks.mlp import MLP
from precast.export.blocks.norms import LayerNorm
from precast.export.blocks.patches import rows_of
from precast.export.blocks.places import SinePlaces
from precast.export.head_sets.queries import masks_of
from precast.export.operators import resized
from precast.export.skeletons.detector import PlacedAttention

__all__ = ["LEVELS", "DeformableLayer", "DeformablePyramid", "MaskedDecoder", "MaskedLayer", "placed"]

LEVELS = 3  # maps that see each other
_EPSILON = 1e-5
_GROUPS = 32  # norms of maps have
_HIDDEN = -1e4  # is added to scores of what is not seen: of its weight nothing is left in any float type


def _norm(width: int, relu: bool = False) -> GroupNorm:
    return GroupNorm(width, _GROUPS, _EPSILON, F.relu if relu else None)


def placed(places: nn.Module, grid: Tensor) -> Tensor:
    """Positions of a map's places [1, R * C, H]."""
    _, _, rows, columns = grid.shape
    made: Tensor = places(torch.ones_like(grid[:1, 0]))
    return made.view(1, rows * columns, made.shape[-1])


class DeformableLayer(nn.Module):
    """x = norm(x + attention(x + places, x)); x = norm(x + mlp(x))."""

    def __init__(self, size: int, heads: int, points: int, intermediate: int) -> None:
        super().__init__()
        self.self_attn = DeformableAttention(size, heads, levels=LEVELS, points=points)
        self.mlp = MLP(size, intermediate, F.relu)
        self.self_attn_layer_norm, self.final_layer_norm = LayerNorm(size, _EPSILON), LayerNorm(size, _EPSILON)

    def forward(self, x: Tensor, places: Tensor, levels: Levels) -> Tensor:
        around = levels.around(levels.centres, 1)
        x, _ = self.self_attn_layer_norm.add(self.self_attn(x + places, x, levels, *around), x)
        return self.final_layer_norm.add(self.mlp(x), x)[0]


class DeformablePyramid(nn.Module):
    """Maps [B, C, R, C'], the largest first -> what each place of the largest is like, [B, M, R, C'], and the three
    maps that see each other, the smallest first.

    Args:
        channels: of all maps. finer: how many of the first are added behind the layers, the last of them first.
    """

    def __init__(
        self, channels: Sequence[int], size: int, out: int, layers: Iterable[DeformableLayer], finer: int
    ) -> None:
        super().__init__()
        self.projections = nn.ModuleList(
            nn.Sequential(nn.Conv2d(width, size, 1), _norm(size)) for width in channels[: -LEVELS - 1 : -1]
        )
        self.levels, self.places = nn.Parameter(torch.empty(LEVELS, size)), SinePlaces(size)
        self.layers = nn.ModuleList(layers)
        self.laterals = nn.ModuleList(
            nn.Sequential(nn.Conv2d(width, size, 1, bias=False), _norm(size)) for width in channels[:finer]
        )
        self.outputs = nn.ModuleList(
            nn.Sequential(nn.Conv2d(size, size, 3, padding=1, bias=False), _norm(size, relu=True)) for _ in range(finer)
        )
        self.projection = nn.Conv2d(size, out, 1)

    def forward(self, maps: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        grids = [project(grid) for project, grid in zip(self.projections, maps[::-1], strict=False)]
        levels = levels_of(grids)
        x = torch.cat([rows_of(grid) for grid in grids], dim=1)
        places = torch.cat([placed(self.places, grid) + self.levels[n] for n, grid in enumerate(grids)], dim=1)
        for layer in self.layers:
            x = layer(x, places, levels)
        made, first = [], 0
        for rows, columns in levels.sides:
            part = x[:, first : first + rows * columns].transpose(1, 2).clone(memory_format=torch.contiguous_format)
            made.append(part.view(x.shape[0], x.shape[2], rows, columns))
            first = first + rows * columns
        whole = made[-1]
        for number in reversed(range(len(self.laterals))):
            beside = self.laterals[number](maps[number])
            whole = self.outputs[number](beside + resized(whole, beside))
        return self.projection(whole), made


class MaskedLayer(nn.Module):
    """Attention over a map, among the queries, and an mlp; each followed by the norm of its sum, or with ``first`` the
    norm in front of it."""

    def __init__(self, size: int, heads: int, mlp: nn.Module, *, first: bool) -> None:
        super().__init__()
        self.first = first
        self.cross_attn, self.self_attn, self.mlp = PlacedAttention(size, heads), PlacedAttention(size, heads), mlp
        self.cross_attn_layer_norm, self.self_attn_layer_norm, self.final_layer_norm = (
            LayerNorm(size, _EPSILON) for _ in range(3)
        )

    def forward(self, x: Tensor, queries: Tensor, source: Tensor, placed: Tensor, bias: Tensor) -> Tensor:
        """States x [B, Q, H] and their positions; the map as states [B, S, H], and with its positions; what is added to
        scores [B, 1, Q, S]."""
        if self.first:
            normed = self.cross_attn_layer_norm(x)
            seen = self.cross_attn(normed + queries, placed, source, bias=bias)
            normed, x = self.self_attn_layer_norm.add(seen, x)
            among = normed + queries
            normed, x = self.final_layer_norm.add(self.self_attn(among, among, normed), x)
            return x + self.mlp(normed)
        seen = self.cross_attn(x + queries, placed, source, bias=bias)
        x, _ = self.cross_attn_layer_norm.add(seen, x)
        among = x + queries
        x, _ = self.self_attn_layer_norm.add(self.self_attn(among, among, x), x)
        return self.final_layer_norm.add(self.mlp(x), x)[0]


class MaskedDecoder(nn.Module):
    """Layers that look at one of the maps after the other, and each only where the masks so far are.

    Args:
        width: channels of the maps, which are projected where ``projected``. embedder: of a query's state, what its
            places are like. learned: what queries begin with is.
    """

    def __init__(
        self,
        layers: Iterable[MaskedLayer],
        embedder: nn.Module,
        *,
        queries: int,
        size: int,
        width: int,
        projected: bool,
        learned: bool = True,
    ) -> None:
        super().__init__()
        self.layers, self.layernorm, self.embedder = nn.ModuleList(layers), LayerNorm(size, _EPSILON), embedder
        self.queries = nn.Parameter(torch.empty(queries, size))
        self.features = nn.Parameter(torch.empty(queries, size)) if learned else None
        self.levels, self.places = nn.Parameter(torch.empty(LEVELS, size)), SinePlaces(size)
        self.projections = nn.ModuleList(
            nn.Conv2d(width, size, 1) if projected else nn.Identity() for _ in range(LEVELS)
        )

    def forward(self, places: Tensor, maps: Sequence[Tensor], begin: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """What each place is like [B, M, R, C], three maps, and what queries begin with, where that is not learned
        [B, Q, H] -> normed states [B, Q, H], and masks [B, Q, R, C]."""
        sources = [
            rows_of(project(grid)) + self.levels[number]
            for number, (project, grid) in enumerate(zip(self.projections, maps, strict=True))
        ]
        keys = [source + placed(self.places, grid) for source, grid in zip(sources, maps, strict=True)]
        queries = self.queries.expand(places.shape[0], -1, -1)
        assert (begin is None) != (self.features is None), "queries begin with one thing"
        x = self.features.expand(places.shape[0], -1, -1) if begin is None else begin  # type: ignore[union-attr]
        states = self.layernorm(x)
        masks = masks_of(self.embedder(states), places)
        for number, layer in enumerate(self.layers):
            level = number % LEVELS
            bias = self._bias(resized(masks, maps[level]))
            x = layer(x, queries, sources[level], keys[level], bias)
            states = self.layernorm(x)
            masks = masks_of(self.embedder(states), places)
        return states, masks

    @staticmethod
    def _bias(masks: Tensor) -> Tensor:
        """What a query does not see; one that would see nothing sees all."""
        batch, count, rows, columns = masks.shape
        hidden = (masks < 0).to(masks.dtype).view(batch, 1, count, rows * columns)
        return (hidden - hidden.amin(-1, keepdim=True)) * _HIDDEN
