"""RT-DETR: attention within the last map alone, convolutions that mix maps of all sizes, and objects that begin as the
likeliest places. https://arxiv.org/abs/2304.08069"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from precast.export import heads
from precast.export.backbones import BackboneSpec
from precast.export.blocks.activations import Activation, activation
from precast.export.blocks.convolution import COUNTERS, ConvNorm
from precast.export.blocks.deformable import DeformableAttention, levels_of
from precast.export.blocks.mlp import MLP
from precast.export.blocks.norms import LayerNorm
from precast.export.blocks.patches import rows_of
from precast.export.blocks.places import GridSines
from precast.export.families import LOSSES, Family, detr
from precast.export.head_sets.boxes import DeepHead
from precast.export.skeletons.deformable import BoxDecoder, BoxDetection, MapsDecoderLayer, Proposals, least_side
from precast.export.skeletons.detector import DetectorFeatures, EncoderLayer, PlacedAttention
from precast.export.skeletons.hybrid import HybridEncoder, MapEncoder, Mixing, branch_names
from precast.export.spec import hf
from precast.export.weights import Ignore, Rename, Rule
from precast.runtime.errors import ConfigError
from precast.runtime.ports import Dim, Out, Port

__all__ = ["FAMILY", "Spec"]


@dataclass(frozen=True, kw_only=True)
class Spec(BackboneSpec):
    """Defaults are those of RT-DETR-R50."""

    is_encoder_decoder: bool = hf(default=True)
    layer_norm_eps: float = hf(default=1e-5)
    batch_norm_eps: float = hf(default=1e-5)
    encoder_hidden_dim: int = hf(default=256)
    encoder_in_channels: tuple[int, ...] = hf(default=(512, 1024, 2048), read=tuple)
    encoder_layers: int = hf(default=1)
    encoder_ffn_dim: int = hf(default=1024)
    encoder_attention_heads: int = hf(("encoder_attention_heads", "num_attention_heads"), default=8)
    encode_proj_layers: tuple[int, ...] = hf(default=(2,), read=tuple)
    positional_encoding_temperature: float = hf(default=10000)
    encoder_activation_function: Activation = hf(default=activation("gelu"), read=activation)
    activation_function: Activation = hf(default=activation("silu"), read=activation)
    eval_size: tuple[int, ...] | None = hf(default=None, only=(None,))
    normalize_before: bool = hf(default=False, only=(False,))
    hidden_expansion: float = hf(default=1.0)
    d_model: int = hf(("d_model", "hidden_size"), default=256)
    num_queries: int = hf(default=300)
    decoder_in_channels: tuple[int, ...] = hf(default=(256, 256, 256), read=tuple)
    decoder_ffn_dim: int = hf(default=1024)
    num_feature_levels: int = hf(default=3)
    decoder_n_points: int = hf(default=4)
    decoder_layers: int = hf(default=6)
    decoder_attention_heads: int = hf(default=8)
    decoder_activation_function: Activation = hf(default=activation("relu"), read=activation)
    learn_initial_query: bool = hf(default=False, only=(False,))
    anchor_image_size: tuple[int, ...] | None = hf(default=None, only=(None,))

    def __post_init__(self) -> None:
        count = len(self.inner.taken)
        if {count, len(self.encoder_in_channels)} != {len(self.decoder_in_channels)} or self.num_feature_levels < count:
            raise ConfigError(
                f"the backbone gives {count} maps: as many 'encoder_in_channels' and 'decoder_in_channels' are said, "
                f"and no fewer 'num_feature_levels'; received {len(self.encoder_in_channels)}, "
                f"{len(self.decoder_in_channels)} and {self.num_feature_levels}"
            )
        asked = self.encode_proj_layers
        if any(not -count <= number < count for number in asked) or len({*asked}) < len(asked):
            raise ConfigError(f"'encode_proj_layers' are numbers of {count} maps, each once; received {asked}")

    @property
    def usual(self) -> Mapping[str, Any]:
        return super().usual if self.backbone else {"model_type": "rt_detr_resnet", "out_indices": [2, 3, 4]}

    @property
    def reach(self) -> float:
        """Of an offset of 1, as a share of a box's side."""
        return 0.5 / self.decoder_n_points

    @property
    def mixing(self) -> Mixing:
        """Of the encoder's convolutions."""
        size = self.encoder_hidden_dim
        return Mixing(size, int(size * self.hidden_expansion), self.batch_norm_eps, self.activation_function)


def _within(spec: Spec) -> MapEncoder:
    size = spec.encoder_hidden_dim
    layers = (
        EncoderLayer(
            attention=PlacedAttention(size, spec.encoder_attention_heads),
            mlp=MLP(size, spec.encoder_ffn_dim, spec.encoder_activation_function),
            norms=[LayerNorm(size, spec.layer_norm_eps) for _ in range(2)],
        )
        for _ in range(spec.encoder_layers)
    )
    return MapEncoder(GridSines(size, temperature=spec.positional_encoding_temperature), layers)


class _Detector(nn.Module):
    """Pixels [B, C, H, W] -> objects [B, Q, H]."""

    def __init__(self, spec: Spec, *, refined: bool) -> None:
        super().__init__()
        size, inner, levels, strides = (
            spec.d_model,
            spec.encoder_hidden_dim,
            spec.num_feature_levels,
            spec.inner.strides,
        )
        self.backbone, self.count, self.found = spec.inner.build(), spec.num_queries, len(strides)
        self.strides = (*strides, *(2 * strides[-1] for _ in range(levels - self.found)))
        self.inputs = nn.ModuleList(ConvNorm(channels, inner) for channels in spec.inner.channels)
        numbers = spec.encode_proj_layers if spec.encoder_layers else ()
        self.encoder = HybridEncoder(spec.mixing, self.found, {number: _within(spec) for number in numbers})
        self.outputs = nn.ModuleList(
            ConvNorm(
                inner,
                size,
                1 if number < self.found else 3,
                stride=1 if number < self.found else 2,
                eps=spec.batch_norm_eps,
            )
            for number in range(levels)
        )
        self.proposals = Proposals(
            size, spec.labels, spec.num_queries, eps=spec.layer_norm_eps, score=lambda scores: scores.amax(-1)
        )
        self.decoder = BoxDecoder(
            (
                MapsDecoderLayer(
                    attention=PlacedAttention(size, spec.decoder_attention_heads),
                    cross=DeformableAttention(
                        size, spec.decoder_attention_heads, levels=levels, points=spec.decoder_n_points
                    ),
                    mlp=MLP(size, spec.decoder_ffn_dim, spec.decoder_activation_function),
                    norms=[LayerNorm(size, spec.layer_norm_eps) for _ in range(3)],
                )
                for _ in range(spec.decoder_layers)
            ),
            reach=spec.reach,
            refine=(DeepHead((size, size, size, 4)) for _ in range(spec.decoder_layers - 1 if refined else 0)),
            placed=DeepHead((4, 2 * size, size)),
        )

    def ports(self) -> tuple[Port, ...]:
        """A picture, all of which is shown."""
        return self.backbone.ports()

    def bounds(self) -> dict[str, Dim]:
        """Each map is half the size of the one before it."""
        return least_side(self.strides, self.count, multiple=self.strides[self.found - 1])

    def forward(self, pixel_values: Tensor) -> Tensor:
        return self.looked(pixel_values)[0]

    def looked(self, pixel_values: Tensor) -> tuple[Tensor, Tensor]:
        """Objects, and logits of where the last layer looked."""
        grids = [put(grid) for put, grid in zip(self.inputs, self.backbone(pixel_values), strict=True)]
        mixed = self.encoder(grids)
        more = [mixed[-1]] * (len(self.outputs) - self.found)
        mixed = [put(grid) for put, grid in zip(self.outputs, [*mixed, *more], strict=True)]
        maps, rows = levels_of(mixed), torch.cat([rows_of(grid) for grid in mixed], dim=1)
        return self.decoder(*self.proposals(rows, maps), rows, maps)


class _Features(DetectorFeatures):
    """{"last_hidden_state": [B, Q, H]} of the objects."""

    def outs(self) -> tuple[Out, ...]:
        return super().outs()[:1]

    def forward(self, pixel_values: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        return {"last_hidden_state": self.model(pixel_values)}


def _base(spec: Spec, absent: frozenset[str]) -> nn.Module:
    return _Features(_Detector(spec, refined=False))  # type: ignore[arg-type]


def _detector(spec: Spec, absent: frozenset[str]) -> nn.Module:
    size = spec.d_model
    return BoxDetection(_Detector(spec, refined=True), nn.Linear(size, spec.labels), DeepHead((size, size, size, 4)))


def _weights(spec: Spec) -> tuple[Rule, ...]:
    """As transformers 5 and 4 write them."""
    last = spec.decoder_layers - 1
    heads_of = (("class_embed", "classifier"), ("bbox_embed", "boxes"))
    return (
        COUNTERS,
        Rename("model.*", "*"),
        spec.inner.names("backbone.model.", "model.backbone."),
        *(
            Rename(f"{old}.{{}}.{place}.*", f"model.{new}.{{}}.{part}.*")
            for old, new in (("encoder_input_proj", "inputs"), ("decoder_input_proj", "outputs"))
            for place, part in enumerate(("convolution", "norm"))
        ),
        Rename("encoder.encoder.{}.layers.*", "encoder.aifi.{}.layers.*"),
        *detr.layer_names("encoder.aifi.{}.layers.{}."),
        Rename("encoder.*.conv.weight", "encoder.*.convolution.weight"),
        Rename("encoder.*", "model.encoder.*"),
        *(
            rule
            for way in ("fpn", "pan")
            for rule in branch_names(f"model.encoder.{way}_blocks.{{}}.bottlenecks.{{}}", spec.mixing)
        ),
        *(
            Rename(f"{old}.*", f"model.proposals.{new}.*")
            for old, new in (
                ("enc_output.0", "projection"),
                ("enc_output.1", "norm"),
                ("enc_score_head", "classifier"),
                ("enc_bbox_head", "boxes"),
            )
        ),
        *(Rename(f"decoder.{old}.{last}.*", f"{new}.*") for old, new in heads_of),
        *(Rename(f"decoder.bbox_embed.{number}.*", f"model.decoder.refine.{number}.*") for number in range(last)),
        *(Ignore(f"decoder.{old}.*") for old, _ in heads_of),
        Rename("decoder.query_pos_head.*", "model.decoder.placed.*"),
        *detr.layer_names("decoder.layers.{}."),
        Rename("decoder.*", "model.decoder.*"),
        Ignore("denoising_class_embed.*"),
    )


_BACKBONE = {"model_type": "rt_detr_resnet", "embedding_size": 8, "hidden_sizes": [8, 12], "depths": [1, 2]}
_BACKBONE |= {"layer_type": "basic", "out_features": ["stage1", "stage2"]}

FAMILY = Family(
    spec=Spec,
    heads={heads.BASE: _base, heads.OBJECT_DETECTION: _detector},
    weights=_weights,
    # What only training and losses read, and what older versions left beside the decoder's own heads.
    inert=detr.INERT
    | frozenset(
        """initializer_bias_prior_prob freeze_backbone_batch_norms feat_strides num_denoising label_noise_ratio
        box_noise_scale disable_custom_kernels with_box_refine matcher_alpha matcher_gamma matcher_class_cost
        matcher_bbox_cost matcher_giou_cost use_focal_loss focal_loss_alpha focal_loss_gamma weight_loss_vfl
        weight_loss_bbox weight_loss_giou tie_word_embeddings""".split()
    ),
    unloaded=(*LOSSES, "class_embed.*", "bbox_embed.*"),
    tiny={"backbone_config": _BACKBONE, "encoder_in_channels": [8, 12], "encoder_hidden_dim": 16, "d_model": 16}
    | {"decoder_in_channels": [16, 16], "encode_proj_layers": [1], "num_feature_levels": 2, "feat_strides": [4, 8]}
    | {"encoder_ffn_dim": 24, "decoder_ffn_dim": 20, "encoder_attention_heads": 4, "decoder_attention_heads": 2}
    | {"decoder_layers": 2, "num_queries": 5, "hidden_expansion": 0.5, "decoder_n_points": 2},
)
