"""BROS: BERT whose scores know from where to where they look: queries read sines of the distances between the corners
of two boxes. https://arxiv.org/abs/2108.04539"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from precast.export import heads
from precast.export.blocks.attention import SelfAttention
from precast.export.blocks.embeddings import mask_port
from precast.export.blocks.tables import Table
from precast.export.families import bert
from precast.export.head_sets.encoders import encoder_heads
from precast.export.operators import attention
from precast.export.skeletons.post_norm import TINY, embeddings, layer, names, transform
from precast.export.spec import hf
from precast.export.weights import Compute, Ignore
from precast.runtime.errors import ConfigError
from precast.runtime.ports import Port

__all__ = ["FAMILY", "Spec"]

_CORNERS = (0, 1, 2, 1, 2, 3, 0, 3)  # sides of a box that its corners have, from the left one at the top clockwise


@dataclass(frozen=True, kw_only=True)
class Spec(bert.Spec):
    """BERT's keys, and what a page is wide where sines are taken of it."""

    dim_bbox: int = hf(default=8, only=(8,))
    bbox_scale: float = hf(default=100.0)

    def __post_init__(self) -> None:
        if self.hidden_size % (8 * len(_CORNERS)):
            raise ConfigError(f"'hidden_size' must be a multiple of 64, as boxes are; received {self.hidden_size}.")

    @property
    def waves(self) -> int:
        """Sines of each side, and as many cosines."""
        return self.hidden_size // 4 // len(_CORNERS) // 2


class Places(NamedTuple):
    """Sines and cosines of where each token stands, [B, S, W], and how a head's query reads those of distances."""

    sines: Tensor
    cosines: Tensor
    read: Tensor  # [D, 2 * W]


class PlacedAttention(SelfAttention):
    """Attention whose scores are query * (key + read(waves of the distance)).

    Waves of a distance are products of waves of both ends, so that no vector of a pair is ever made: sin(a - b) is
    sin(a) cos(b) - cos(a) sin(b).
    """

    def forward(self, x: Tensor, mask: Tensor | None, places: Places) -> Tensor:  # type: ignore[override]
        query = self.q_proj(x)
        asked = query.unflatten(-1, (self.heads, -1)) @ places.read  # [B, S, N, 2 * W]
        sine, cosine = asked.transpose(1, 2).chunk(2, dim=-1)
        s, c = places.sines[:, None], places.cosines[:, None]
        turned = torch.cat((sine * c + cosine * s, cosine * c - sine * s), dim=-1)  # of the query's own place
        keys = torch.cat((s, c), dim=-1).transpose(-1, -2)
        bias = (turned @ keys) * self.scale
        key, value = self.k_proj(x), self.v_proj(x)
        context = attention(query, key, value, mask=mask, bias=bias, heads=self.heads, scale=self.scale)
        return self.o_proj(context)


class Placed(nn.Module):
    """ids [B, S], mask [B, S], bbox [B, S, 4] in parts of one -> hidden states [B, S, H]."""

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        self.scale = spec.bbox_scale
        self.embeddings = embeddings(spec)
        self.frequencies = Table((spec.waves,), partial(_frequencies, spec.waves))
        self.read = nn.Linear(8 * spec.waves, spec.hidden_size // spec.num_attention_heads, bias=False)
        self.layers = nn.ModuleList(layer(spec, PlacedAttention) for _ in range(spec.num_hidden_layers))

    def ports(self) -> tuple[Port, ...]:
        """Ids, mask, token types and boxes, which nothing stands for."""
        words, *types = self.embeddings.ports()
        boxes = Port("bbox", "float32", (*words.shape, 4), "boxes", below=2)
        return words, mask_port(words), *types, boxes

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None, bbox: Tensor) -> Tensor:
        x = self.embeddings(input_ids, token_type_ids)
        angles = ((bbox * self.scale)[..., None] * self.frequencies()).flatten(2)
        places = Places(angles.sin(), angles.cos(), self.read.weight)
        for each in self.layers:
            x = each(x, attention_mask, places)
        return x


def _frequencies(count: int) -> Tensor:
    """In float32, as models were trained with them."""
    return (1 / 10000 ** (torch.arange(0.0, 2 * count, 2.0) / (2 * count))).to(torch.float64)


def _read(weight: Tensor) -> Tensor:
    """[D, 8 * 2 * W] of the sides of four corners, each with sines and cosines -> [D, 2 * 4 * W] of four sides, all
    sines first: sides that two corners have are one."""
    corners = weight.unflatten(1, (len(_CORNERS), 2, -1))
    sides = torch.zeros_like(corners[:, :4]).index_add(1, torch.tensor(_CORNERS), corners)
    return sides.transpose(1, 2).flatten(1)


def _projection(spec: Spec) -> Compute:
    name = "bbox_embeddings.bbox_projection.weight"
    return Compute((name,), "model.read.weight", (spec.hidden_size // spec.num_attention_heads, 8 * spec.waves), _read)


FAMILY = replace(
    bert.FAMILY,
    spec=Spec,
    heads=encoder_heads(Placed, transform=transform, only=(heads.BASE, heads.TOKEN_CLASSIFICATION)),
    weights=lambda spec: (*names("bros"), Ignore("bbox_embeddings.bbox_sinusoid_emb.*.inv_freq"), _projection(spec)),
    # Sizes that follow from others; and of heads of relations.
    inert=frozenset({"dim_bbox_sinusoid_emb_2d", "dim_bbox_sinusoid_emb_1d", "dim_bbox_projection", "n_relations"}),
    tiny={**TINY, "hidden_size": 64},
    variations=(
        {"hidden_size": 128, "num_attention_heads": 2, "num_hidden_layers": 1, "bbox_scale": 10.0, "hidden_act": "relu"}
        | {"type_vocab_size": 1, "vocab_size": 131, "num_labels": 5, "layer_norm_eps": 1e-5},
    ),
)
