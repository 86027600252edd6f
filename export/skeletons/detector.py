"""Detectors: a transformer over a backbone's last map, whose decoder asks for one object a query.
https://arxiv.org/abs/2005.12872"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from precast.export.backbones import FeatureMaps
from precast.export.blocks.norms import LayerNorm
from precast.export.blocks.patches import rows_of
from precast.export.blocks.places import mask_at
from precast.export.operators import attention
from precast.export.signatures import Component
from precast.runtime.catalogue import CATALOGUE
from precast.runtime.ports import Out, Port

__all__ = [
    "Decoder",
    "DecoderLayer",
    "Detector",
    "DetectorFeatures",
    "EncoderLayer",
    "PlacedAttention",
    "PreNormDecoderLayer",
    "PreNormEncoderLayer",
    "mask_port",
]


def mask_port(pixels: Port) -> Port:
    """The mask beside pixels, which shows all of them where it is left out."""
    return Port("pixel_mask", "int64", (pixels.shape[0], *pixels.shape[2:]), "pixel_mask", default=1)


class PlacedAttention(nn.Module):
    """Attention whose queries, keys and values are made of states of their own: where things are shows in queries and
    keys alone."""

    def __init__(self, hidden: int, heads: int) -> None:
        super().__init__()
        self.heads, self.scale = heads, (hidden // heads) ** -0.5
        self.q_proj, self.k_proj, self.v_proj, self.o_proj = (nn.Linear(hidden, hidden) for _ in range(4))

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None, bias: Tensor | None = None
    ) -> Tensor:
        """query [B, S, H], key and value [B, T, H], mask [B, T] of visible keys, bias [B, 1, S, T] that is added to
        scores -> [B, S, H]."""
        query, key, value = self.q_proj(query), self.k_proj(key), self.v_proj(value)
        return self.o_proj(attention(query, key, value, mask=mask, bias=bias, heads=self.heads, scale=self.scale))


class EncoderLayer(nn.Module):
    """x = norm(x + attention(x + places, x)); x = norm(x + mlp(x))."""

    def __init__(self, *, attention: nn.Module, mlp: nn.Module, norms: Iterable[LayerNorm]) -> None:
        super().__init__()
        self.self_attn, self.mlp = attention, mlp
        self.self_attn_layer_norm, self.final_layer_norm = norms

    def forward(self, x: Tensor, places: Tensor, mask: Tensor | None) -> Tensor:
        placed = x + places
        x, _ = self.self_attn_layer_norm.add(self.self_attn(placed, placed, x, mask), x)
        return self.final_layer_norm.add(self.mlp(x), x)[0]


class PreNormEncoderLayer(EncoderLayer):
    """The same with each norm in front of what it is for."""

    def forward(self, x: Tensor, places: Tensor, mask: Tensor | None) -> Tensor:
        normed = self.self_attn_layer_norm(x)
        placed = normed + places
        normed, x = self.final_layer_norm.add(self.self_attn(placed, placed, normed, mask), x)
        return x + self.mlp(normed)


class DecoderLayer(nn.Module):
    """Attention among the objects, over the map, and an mlp, each followed by the norm of its sum."""

    def __init__(self, *, attention: nn.Module, cross: nn.Module, mlp: nn.Module, norms: Iterable[LayerNorm]) -> None:
        super().__init__()
        self.self_attn, self.encoder_attn, self.mlp = attention, cross, mlp
        self.self_attn_layer_norm, self.encoder_attn_layer_norm, self.final_layer_norm = norms

    def forward(self, x: Tensor, queries: Tensor, source: Tensor, placed_source: Tensor, mask: Tensor | None) -> Tensor:
        """Objects x [B, Q, H] and their positions; the map as states [B, S, H], and with its positions."""
        placed = x + queries
        x, _ = self.self_attn_layer_norm.add(self.self_attn(placed, placed, x), x)
        x, _ = self.encoder_attn_layer_norm.add(self.encoder_attn(x + queries, placed_source, source, mask), x)
        return self.final_layer_norm.add(self.mlp(x), x)[0]


class PreNormDecoderLayer(DecoderLayer):
    """The same with each norm in front of what it is for."""

    def forward(self, x: Tensor, queries: Tensor, source: Tensor, placed_source: Tensor, mask: Tensor | None) -> Tensor:
        normed = self.self_attn_layer_norm(x)
        placed = normed + queries
        normed, x = self.encoder_attn_layer_norm.add(self.self_attn(placed, placed, normed), x)
        normed, x = self.final_layer_norm.add(self.encoder_attn(normed + queries, placed_source, source, mask), x)
        return x + self.mlp(normed)


class Decoder(nn.Module):
    """Layers over queries that are all alike but for their learned positions, and a norm."""

    def __init__(self, layers: Iterable[nn.Module], norm: LayerNorm, *, queries: int, hidden: int) -> None:
        super().__init__()
        self.layers, self.layernorm = nn.ModuleList(layers), norm
        self.queries = nn.Parameter(torch.empty(queries, hidden))

    def forward(self, source: Tensor, places: Tensor, mask: Tensor | None) -> Tensor:
        """A map's states [B, S, H], their positions, and a mask [B, S] or None -> objects [B, Q, H]."""
        queries = self.queries.expand(source.shape[0], -1, -1)
        x, placed = torch.zeros_like(queries), source + places
        for layer in self.layers:
            x = layer(x, queries, source, placed, mask)
        return self.layernorm(x)


class Detector(nn.Module):
    """Pixels [B, C, H, W], mask [B, H, W] of those that are the picture's -> objects [B, Q, H].

    Args:
        places: makes positions [B or 1, R, C, H] of a mask at the map's size.
        norm: after the encoder's last layer, or None.
    """

    def __init__(
        self,
        backbone: FeatureMaps,
        channels: int,
        hidden: int,
        *,
        places: nn.Module,
        encoder: Iterable[nn.Module],
        norm: LayerNorm | None = None,
        decoder: nn.Module,
    ) -> None:
        super().__init__()
        self.backbone, self.places, self.decoder = backbone, places, decoder
        self.projection = nn.Conv2d(channels, hidden, 1)
        self.encoder, self.norm = nn.ModuleList(encoder), norm

    def ports(self) -> tuple[Port, ...]:
        """A picture and its mask."""
        [pixels] = self.backbone.ports()
        return pixels, mask_port(pixels)

    def forward(self, pixel_values: Tensor, pixel_mask: Tensor) -> Tensor:
        return self.both(pixel_values, pixel_mask)[0]

    def both(self, pixel_values: Tensor, pixel_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Objects [B, Q, H], and the states of the map's places [B, R * C, H]."""
        return self.looked(self.backbone(pixel_values), pixel_mask)[:2]

    def looked(self, maps: Sequence[Tensor], pixel_mask: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The same of maps, and the last one as it went in [B, H, R, C], and which of its places show the picture."""
        grid = self.projection(maps[-1])
        batch, _, rows, columns = grid.shape
        mask = mask_at(pixel_mask, rows, columns)
        x, shown = rows_of(grid), mask.view(batch, rows * columns)
        places = self.places(mask)
        places = places.view(places.shape[0], rows * columns, -1)
        for layer in self.encoder:
            x = layer(x, places, shown)
        if self.norm is not None:
            x = self.norm(x)
        return self.decoder(x, places, shown), x, grid, shown


class DetectorFeatures(Component):
    """{"last_hidden_state": [B, Q, H] of the objects, "encoder_last_hidden_state": [B, S, H] of the map's places}."""

    task = "feature-extraction"

    def __init__(self, model: Detector) -> None:
        super().__init__()
        self.model = model

    def ports(self) -> tuple[Port, ...]:
        return self.model.ports()

    def outs(self) -> tuple[Out, ...]:
        states = CATALOGUE[self.task].outs[0]
        return (
            states._replace(shape=("batch", "queries", "size")),
            states._replace(name="encoder_last_hidden_state", shape=("batch", "places", "size")),
        )

    def forward(self, pixel_values: Tensor, pixel_mask: Tensor) -> dict[str, Tensor]:
        objects, places = self.model.both(pixel_values, pixel_mask)
        return {"last_hidden_state": objects, "encoder_last_hidden_state": places}
