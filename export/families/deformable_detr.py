"""Deformable DETR: DETR over several maps, whose places and objects look at a few points of these.
https://arxiv.org/abs/2010.04159"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

from torch import nn

from precast.export import heads
from precast.export.blocks.convolution import Convolution, GroupNorm
from precast.export.blocks.deformable import DeformableAttention
from precast.export.blocks.mlp import MLP
from precast.export.blocks.norms import LayerNorm
from precast.export.blocks.places import LearnedPlaces, SinePlaces
from precast.export.families import detr
from precast.export.head_sets.boxes import DeepHead
from precast.export.skeletons.deformable import (
    BoxDecoder,
    BoxDetection,
    LearnedObjects,
    MapsDecoderLayer,
    MapsDetector,
    MapsEncoderLayer,
    Proposals,
    ProposedObjects,
)
from precast.export.skeletons.detector import DetectorFeatures, PlacedAttention
from precast.export.spec import hf
from precast.export.weights import Ignore, Rename, Rule, Split, Tie
from precast.runtime.errors import ConfigError
from precast.runtime.ports import Port

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


def body(spec: Spec, *, refined: bool) -> MapsDetector:
    """``refined``: layers move the boxes they look at."""
    size, levels, act, channels = spec.d_model, spec.num_feature_levels, spec.activation_function, spec.inner.channels
    places = SinePlaces(size, shift=0.5)
    if spec.position_embedding_type != "sine":
        places = LearnedPlaces(size, stride=spec.inner.strides[0])  # type: ignore[assignment]
    more = (channels[-1], *(size for _ in range(levels)))[: levels - len(channels)]

    def norms(count: int) -> list[LayerNorm]:
        return [LayerNorm(size, _EPSILON) for _ in range(count)]

    start: nn.Module = LearnedObjects(size, spec.num_queries)
    if spec.two_stage:
        count, first = spec.two_stage_num_proposals, lambda scores: scores[..., 0]
        start = ProposedObjects(Proposals(size, spec.labels, count, eps=_EPSILON, score=first), size, _EPSILON)
    return MapsDetector(
        spec.inner.build(),
        spec.inner.strides,
        [
            nn.Sequential(convolution, GroupNorm(size, _GROUPS, _EPSILON))
            for convolution in (
                *(nn.Conv2d(each, size, 1) for each in channels),
                *(Convolution(each, size, 3, stride=2) for each in more),
            )
        ],
        size,
        places=places,
        encoder=[
            MapsEncoderLayer(
                attention=DeformableAttention(
                    size, spec.encoder_attention_heads, levels=levels, points=spec.encoder_n_points
                ),
                mlp=MLP(size, spec.encoder_ffn_dim, act),
                norms=norms(2),
            )
            for _ in range(spec.encoder_layers)
        ],
        start=start,
        decoder=BoxDecoder(
            (
                MapsDecoderLayer(
                    attention=PlacedAttention(size, spec.decoder_attention_heads),
                    cross=DeformableAttention(
                        size, spec.decoder_attention_heads, levels=levels, points=spec.decoder_n_points
                    ),
                    mlp=MLP(size, spec.decoder_ffn_dim, act),
                    norms=norms(3),
                )
                for _ in range(spec.decoder_layers)
            ),
            reach=0.5 / spec.decoder_n_points,
            refine=(DeepHead((size, size, size, 4)) for _ in range(spec.decoder_layers - 1 if refined else 0)),
        ),
    )


class _Features(DetectorFeatures):
    def ports(self) -> tuple[Port, ...]:
        if isinstance(self.model.start, ProposedObjects):
            raise ConfigError("'two_stage' is true, and proposals are chosen by heads: export task='object-detection'")
        return super().ports()


def _base(spec: Spec, absent: frozenset[str]) -> nn.Module:
    return _Features(body(spec, refined=False))  # type: ignore[arg-type]


def _detector(spec: Spec, absent: frozenset[str]) -> nn.Module:
    size = spec.d_model
    model = body(spec, refined=spec.with_box_refine)
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
            Rename(f"model.decoder.{old}.{last + 1}.*", f"model.start.proposals.{new}.*")
            for old, new in (("class_embed", "classifier"), ("bbox_embed", "boxes"))
            if spec.two_stage
        ),
        Rename(f"class_embed.{last}.*", "classifier.*"),
        Rename(f"bbox_embed.{last}.*", "boxes.*"),
        *(Ignore(f"{where}{kind}.*") for kind in kinds for where in ("", "model.decoder.")),
        Rename("level_embed", "model.levels"),
        Rename("input_proj.{}.*", "model.projections.{}.*"),
        Rename("enc_output.*", "model.start.proposals.projection.*"),
        Rename("enc_output_norm.*", "model.start.proposals.norm.*"),
        Rename("pos_trans.*", "model.start.placed.*"),
        Rename("pos_trans_norm.*", "model.start.placed_norm.*"),
        Rename("reference_points.*", "model.start.points.*"),
        Split("model.decoder.queries", ("model.start.queries", "model.start.objects"), axis=1, shares=(size, size)),
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
