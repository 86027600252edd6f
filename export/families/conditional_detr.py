"""Conditional DETR: DETR whose objects look for their boxes' middle, at places told apart from contents.
https://arxiv.org/abs/2108.06152"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from precast.export import heads
from precast.export.blocks.mlp import MLP
from precast.export.blocks.norms import LayerNorm
from precast.export.blocks.places import PointSines
from precast.export.families import detr
from precast.export.head_sets.boxes import DeepHead, ObjectDetection
from precast.export.operators import attention
from precast.export.skeletons.detector import DecoderLayer, Detector
from precast.export.spec import hf
from precast.export.weights import Rename, Rule

__all__ = ["FAMILY", "Spec"]

_EPSILON = 1e-5


@dataclass(frozen=True, kw_only=True)
class Spec(detr.Spec):
    num_queries: int = hf(default=300)


class _Attention(nn.Module):
    """Projections of contents and of positions, each its own; ``placed``: queries have positions."""

    def __init__(self, hidden: int, heads: int, *, placed: bool = True) -> None:
        super().__init__()
        self.heads, self.scale = heads, (hidden // heads) ** -0.5
        self.q_content_proj, self.k_content_proj, self.k_pos_proj = (nn.Linear(hidden, hidden) for _ in range(3))
        self.q_pos_proj = nn.Linear(hidden, hidden) if placed else None
        self.v_proj, self.o_proj = (nn.Linear(hidden, hidden) for _ in range(2))

    def query(self, x: Tensor, queries: Tensor) -> Tensor:
        made: Tensor = self.q_content_proj(x)
        return made if self.q_pos_proj is None else made + self.q_pos_proj(queries)


class _SelfAttention(_Attention):
    """Among objects x [B, Q, H] at learned positions [1, Q, H]."""

    def forward(self, x: Tensor, queries: Tensor) -> Tensor:
        key = self.k_content_proj(x) + self.k_pos_proj(queries)
        context = attention(self.query(x, queries), key, self.v_proj(x), heads=self.heads, scale=self.scale)
        return self.o_proj(context)


class _CrossAttention(_Attention):
    """Of objects over a map: scores of contents, and beside them of ``waves`` [B or 1, Q, H] and of positions."""

    def __init__(self, hidden: int, heads: int, *, placed: bool) -> None:
        super().__init__(hidden, heads, placed=placed)
        self.scale = (2 * hidden // heads) ** -0.5
        self.q_pos_sine_proj = nn.Linear(hidden, hidden)

    def forward(
        self, x: Tensor, queries: Tensor, waves: Tensor, source: Tensor, places: Tensor, mask: Tensor
    ) -> Tensor:
        place, content, value = self.k_pos_proj(places), self.k_content_proj(source), self.v_proj(source)
        if self.q_pos_proj is not None:
            content = content + place
        query = self.query(x, queries)
        query = self._joined(query, self.q_pos_sine_proj(waves).expand(query.shape[0], -1, -1))
        # Values as wide as the keys: the other half is zeros, and left out of what comes of them.
        key, wide = (
            self._joined(content, place.expand(content.shape[0], -1, -1)),
            self._joined(value, torch.zeros_like(value)),
        )
        context = attention(query, key, wide, mask=mask, heads=self.heads, scale=self.scale)
        batch, count, hidden = x.shape
        size = hidden // self.heads
        halves = context.view(batch, count, self.heads, 2 * size)[..., :size]
        return self.o_proj(halves.clone(memory_format=torch.contiguous_format).view(batch, count, hidden))

    def _joined(self, one: Tensor, other: Tensor) -> Tensor:
        """Two states [B, S, H] as one [B, S, 2 * H], head by head."""
        batch, count, hidden = one.shape
        shape = (batch, count, self.heads, hidden // self.heads)
        return torch.cat((one.view(shape), other.view(shape)), dim=-1).view(batch, count, 2 * hidden)


class _Layer(DecoderLayer):
    def forward(  # type: ignore[override]
        self, x: Tensor, queries: Tensor, waves: Tensor, source: Tensor, places: Tensor, mask: Tensor
    ) -> Tensor:
        x, _ = self.self_attn_layer_norm.add(self.self_attn(x, queries), x)
        x, _ = self.encoder_attn_layer_norm.add(self.encoder_attn(x, queries, waves, source, places, mask), x)
        return self.final_layer_norm.add(self.mlp(x), x)[0]


class _Decoder(nn.Module):
    """Layers over learned queries; where each looks is the sines of a point of its own, stretched by what it is."""

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        size, count = spec.d_model, spec.decoder_attention_heads
        self.layers = nn.ModuleList(
            _Layer(
                attention=_SelfAttention(size, count),
                cross=_CrossAttention(size, count, placed=number == 0),
                mlp=MLP(size, spec.decoder_ffn_dim, spec.activation_function),
                norms=[LayerNorm(size, _EPSILON) for _ in range(3)],
            )
            for number in range(spec.decoder_layers)
        )
        self.layernorm = LayerNorm(size, _EPSILON)
        self.queries = nn.Parameter(torch.empty(spec.num_queries, size))
        self.query_scale, self.ref_point_head = DeepHead((size, size, size)), DeepHead((size, size, 2))
        self.sines = PointSines(size // 2)

    def points(self) -> Tensor:
        """Where each object is looked for, [Q, 2], across and down, as shares of the picture's."""
        return torch.sigmoid(self.ref_point_head(self.queries))

    def _waves(self) -> Tensor:
        """Sines and cosines of the points, [Q, H], of how far down first."""
        return self.sines(self.points().flip(-1))

    def forward(self, source: Tensor, places: Tensor, mask: Tensor) -> Tensor:
        # What no picture changes has one row.
        queries, waves = self.queries.unsqueeze(0), self._waves().unsqueeze(0)
        x = torch.zeros_like(queries.expand(source.shape[0], -1, -1))
        for number, layer in enumerate(self.layers):
            own = waves * self.query_scale(x) if number else waves
            x = layer(x, queries, own, source, places, mask)
        return self.layernorm(x)


class _Detection(ObjectDetection):
    """Boxes' middles are told from the objects' points."""

    def forward(self, pixel_values: Tensor, pixel_mask: Tensor | None = None) -> dict[str, Tensor]:
        states = self.model(pixel_values, pixel_mask)
        points = self.model.decoder.points()  # type: ignore[union-attr, operator]
        middles = torch.log(points.clamp(min=_EPSILON) / (-points + 1).clamp(min=_EPSILON))
        moved = self.boxes(states) + torch.cat((middles, torch.zeros_like(middles)), dim=-1)
        return {"logits": self.classifier(states), "pred_boxes": torch.sigmoid(moved)}


def _body(spec: Spec) -> Detector:
    made = detr.body(spec)
    made.decoder = _Decoder(spec)
    return made


def _detector(spec: Spec, absent: frozenset[str]) -> nn.Module:
    size = spec.d_model
    return _Detection(_body(spec), nn.Linear(size, spec.labels), DeepHead((size, size, size, 4)))


def _weights(spec: Spec) -> tuple[Rule, ...]:
    """Those of transformers 4 have the projections of both attentions side by side in the layer."""
    older = (
        Rename(f"decoder.layers.{{}}.{short}_{old}_proj.*", f"decoder.layers.{{}}.{part}.{new}_proj.*")
        for short, part in (("sa", "self_attn"), ("ca", "encoder_attn"))
        for old, new in (
            *(
                (f"{each}{kind}", f"{each}_{new}")
                for each in "qk"
                for kind, new in (("content", "content"), ("pos", "pos"))
            ),
            ("v", "v"),
            ("qpos_sine", "q_pos_sine"),
        )
    )
    return (Rename("model.*", "*"), *older, *detr.names(spec))


FAMILY = replace(
    detr.FAMILY,
    spec=Spec,
    heads={heads.BASE: detr.detector_heads(_body)[heads.BASE], heads.OBJECT_DETECTION: _detector},
    weights=_weights,
    inert=detr.INERT | {"cls_loss_coefficient", "focal_alpha"},
    variations=(),
)
