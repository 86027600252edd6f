"""Deformable DETR: DETR over several maps, whose places and objects look at a few points of these.
https://arxiv.org/abs/2010.04159"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn

from precast.export import heads
from precast.export.blocks.convolution import Convolution, GroupNorm
from precast.export.blocks.deformable import DeformableAttention, levels_of
from precast.export.blocks.mlp import MLP
from precast.export.blocks.norms import LayerNorm
from precast.export.blocks.patches import rows_of
from precast.export.blocks.places import LearnedPlaces, PointSines, SinePlaces, mask_at
from precast.export.families import detr
from precast.export.head_sets.boxes import DeepHead
from precast.export.skeletons.deformable import (
    BoxDecoder,
    BoxDetection,
    MapsDecoderLayer,
    MapsEncoderLayer,
    Proposals,
    least_side,
)
from precast.export.skeletons.detector import DetectorFeatures, PlacedAttention, mask_port
from precast.export.spec import hf
from precast.export.weights import Ignore, Rename, Rule, Split, Tie
from precast.runtime.errors import ConfigError
from precast.runtime.ports import Dim, Port, merged

__all__ = ["FAMILY", "Spec"]

_EPSILON = 1e-5
_GROUPS = 32  # of the norms behind projections


@dataclass(frozen=True, kw_only=True)
class Spec(detr.Spec):
    num_queries: int = hf(default=300)
    encoder_ffn_dim: int = hf(default=1024)
    decoder_ffn_dim: int = hf(default=1024)
    num_feature_levels: int = hf(default=4)
    encoder_n_points: int = hf(default=4)
    decoder_n_points: int = hf(default=4)
    two_stage: bool = hf(default=False)
    two_stage_num_proposals: int = hf(default=300)
    with_box_refine: bool = hf(default=False)

    def __post_init__(self) -> None:
        found = len(self.inner.taken)
        if self.num_feature_levels < found:
            raise ConfigError(f"'num_feature_levels' is {self.num_feature_levels}, and the backbone gives {found} maps")
        if self.two_stage and not self.with_box_refine:
            raise ConfigError("'two_stage' is true, and only with 'with_box_refine' is it honoured, as upstream")

    @property
    def usual(self) -> Mapping[str, Any]:
        made, options = super().usual, self.backbone_kwargs or {}
        wanted = [2, 3, 4] if self.num_feature_levels > 1 else [4]
        return {**made, "out_indices": options.get("out_indices", wanted)} if self.use_timm_backbone else made


class _Detector(nn.Module):
    """Pixels [B, C, H, W] and their mask [B, H, W] -> objects [B, Q, H]."""

    def __init__(self, spec: Spec, *, refined: bool) -> None:
        super().__init__()
        size, levels, channels = spec.d_model, spec.num_feature_levels, spec.inner.channels
        self.backbone, self.two_stage = spec.inner.build(), spec.two_stage
        first = spec.inner.strides
        self.strides = (*first, *(first[-1] << number + 1 for number in range(levels - len(first))))
        self.count = spec.two_stage_num_proposals if spec.two_stage else 1
        more = (channels[-1], *(size for _ in range(levels)))[: levels - len(channels)]
        self.projections = nn.ModuleList(
            nn.Sequential(convolution, GroupNorm(size, _GROUPS, _EPSILON))
            for convolution in (
                *(nn.Conv2d(each, size, 1) for each in channels),
                *(Convolution(each, size, 3, stride=2) for each in more),
            )
        )
        sines = spec.position_embedding_type == "sine"
        self.places = SinePlaces(size, shift=0.5) if sines else LearnedPlaces(size, stride=self.strides[0])
        self.levels = nn.Parameter(torch.empty(levels, size))
        heads_of = {"encoder": spec.encoder_attention_heads, "decoder": spec.decoder_attention_heads}

        def looks(side: str, points: int) -> DeformableAttention:
            return DeformableAttention(size, heads_of[side], levels=levels, points=points)

        def norms(count: int) -> list[LayerNorm]:
            return [LayerNorm(size, _EPSILON) for _ in range(count)]

        act = spec.activation_function
        self.encoder = nn.ModuleList(
            MapsEncoderLayer(
                attention=looks("encoder", spec.encoder_n_points), mlp=MLP(size, spec.encoder_ffn_dim, act), norms=norms(2)
            )
            for _ in range(spec.encoder_layers)
        )
        self.reach = 0.5 / spec.encoder_n_points
        self.decoder = BoxDecoder(
            (
                MapsDecoderLayer(
                    attention=PlacedAttention(size, heads_of["decoder"]),
                    cross=looks("decoder", spec.decoder_n_points),
                    mlp=MLP(size, spec.decoder_ffn_dim, act),
                    norms=norms(3),
                )
                for _ in range(spec.decoder_layers)
            ),
            reach=0.5 / spec.decoder_n_points,
            refine=(DeepHead((size, size, size, 4)) for _ in range(spec.decoder_layers - 1 if refined else 0)),
        )
        if spec.two_stage:
            self.proposals = Proposals(size, spec.labels, self.count, eps=_EPSILON, score=lambda scores: scores[..., 0])
            self.sines = PointSines(size // 2)
            self.placed, self.placed_norm = nn.Linear(2 * size, 2 * size), LayerNorm(2 * size, _EPSILON)
        else:
            self.queries, self.objects = (nn.Parameter(torch.empty(spec.num_queries, size)) for _ in range(2))
            self.points = nn.Linear(size, 2)

    def ports(self) -> tuple[Port, ...]:
        """A picture and its mask."""
        [pixels] = self.backbone.ports()
        return pixels, mask_port(pixels)

    def bounds(self) -> dict[str, Dim]:
        # Two places a side of the smallest map: to norm a single one would leave nothing of it.
        return merged((least_side(self.strides, self.count), least_side(self.strides[-1:], 4)))

    def _maps(self, pixels: Tensor) -> list[Tensor]:
        """Those of the backbone, and smaller ones of its last."""
        found = self.backbone(pixels)
        made = [projection(each) for projection, each in zip(self.projections, found, strict=False)]
        last = found[-1]
        for projection in self.projections[len(found) :]:
            last = projection(last)
            made.append(last)
        return made

    def _asked(self, rows: Tensor, maps: Any) -> tuple[Tensor, Tensor, Tensor]:
        """Objects and their positions, [B, Q, H] each, and logits of where they look."""
        if not self.two_stage:
            objects = self.objects.expand(rows.shape[0], -1, -1).clone(memory_format=torch.contiguous_format)
            return objects, self.queries[None], self.points(self.queries[None])
        _, boxes = self.proposals(rows, maps)
        both = self.placed_norm(self.placed(self.sines(torch.sigmoid(boxes))))
        size = rows.shape[-1]
        return both[..., size:], both[..., :size], boxes

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
        places, around = torch.cat(flat, dim=1), maps.around(maps.centres, self.reach)
        for layer in self.encoder:
            rows = layer(rows, places, maps, *around)
        x, queries, boxes = self._asked(rows, maps)
        x, boxes = self.decoder(x, boxes, rows, maps, queries)
        return x, boxes, rows


class _Features(DetectorFeatures):
    def ports(self) -> tuple[Port, ...]:
        if self.model.two_stage:
            raise ConfigError("'two_stage' is true, and proposals are chosen by heads: export task='object-detection'")
        return super().ports()


def _base(spec: Spec, absent: frozenset[str]) -> nn.Module:
    return _Features(_Detector(spec, refined=False))


def _detector(spec: Spec, absent: frozenset[str]) -> nn.Module:
    size = spec.d_model
    model = _Detector(spec, refined=spec.with_box_refine)
    return BoxDetection(model, nn.Linear(size, spec.labels), DeepHead((size, size, size, 4)))


def _weights(spec: Spec) -> tuple[Rule, ...]:
    """Heads are stored once for all layers, or each beside the decoder, within it, or both."""
    last, size = spec.decoder_layers - 1, spec.d_model
    parts = [f"{layer}.{kind}" for layer, kind in product(range(3), ("weight", "bias"))]
    kinds = {"class_embed": ["weight", "bias"], "bbox_embed": [f"layers.{part}" for part in parts]}
    alike = {"class_embed": not spec.two_stage, "bbox_embed": not spec.with_box_refine}
    names = [(kind, f"{number}.{part}") for kind in kinds for number in range(last + 2) for part in kinds[kind]]
    return (
        *detr.names(spec),
        *(Tie(f"model.decoder.{kind}.{name}", f"{kind}.{name}") for kind, name in names if not alike[kind]),
        *(Tie(f"{kind}.{last}.{part}", f"{kind}.0.{part}") for kind in kinds if alike[kind] for part in kinds[kind]),
        *(
            Rename(f"model.decoder.bbox_embed.{number}.*", f"model.decoder.refine.{number}.*")
            for number in range(last if spec.with_box_refine else 0)
        ),
        *(
            Rename(f"model.decoder.{old}.{last + 1}.*", f"model.proposals.{new}.*")
            for old, new in (("class_embed", "classifier"), ("bbox_embed", "boxes"))
            if spec.two_stage
        ),
        Rename(f"class_embed.{last}.*", "classifier.*"),
        Rename(f"bbox_embed.{last}.*", "boxes.*"),
        *(Ignore(f"{where}{kind}.*") for kind in kinds for where in ("", "model.decoder.")),
        Rename("level_embed", "model.levels"),
        Rename("input_proj.{}.*", "model.projections.{}.*"),
        Rename("enc_output.*", "model.proposals.projection.*"),
        Rename("enc_output_norm.*", "model.proposals.norm.*"),
        Rename("pos_trans.*", "model.placed.*"),
        Rename("pos_trans_norm.*", "model.placed_norm.*"),
        Rename("reference_points.*", "model.points.*"),
        Split("model.decoder.queries", ("model.queries", "model.objects"), axis=1, shares=(size, size)),
    )


_SIZES: dict[str, Any] = {"d_model": 32, "encoder_layers": 1, "decoder_layers": 2, "encoder_ffn_dim": 24}
_SIZES |= {"decoder_ffn_dim": 20, "encoder_attention_heads": 4, "decoder_attention_heads": 2, "num_queries": 5}
_SIZES |= {"backbone_config": detr.BACKBONE}

FAMILY = replace(
    detr.FAMILY,
    spec=Spec,
    heads={heads.BASE: _base, heads.OBJECT_DETECTION: _detector},
    weights=_weights,
    inert=detr.INERT | {"focal_alpha", "disable_custom_kernels", "return_intermediate", "tie_word_embeddings"},
    tiny=_SIZES | {"num_feature_levels": 2, "with_box_refine": True, "encoder_n_points": 2},
    variations=(
        _SIZES
        | {"backbone_config": {**detr.BACKBONE, "num_channels": 1}, "num_queries": 3}
        | {"num_feature_levels": 1, "position_embedding_type": "learned", "activation_function": "gelu"}
        | {"with_box_refine": False, "decoder_n_points": 3, "num_labels": 5},
    ),
)
