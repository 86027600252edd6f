"""Mask2Former: deformable attention among maps of a backbone, and a decoder whose queries look where their masks are.
https://arxiv.org/abs/2112.01527"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch import Tensor, nn

from precast.export import heads
from precast.export.backbones import Inner, read_inner
from precast.export.blocks.activations import Activation, activation
from precast.export.blocks.mlp import MLP
from precast.export.families import Family, LabelSpec, detr
from precast.export.head_sets.boxes import DeepHead
from precast.export.head_sets.queries import MaskedSegmentation
from precast.export.skeletons.masked import LEVELS, DeformableLayer, DeformablePyramid, MaskedDecoder, MaskedLayer
from precast.export.spec import hf
from precast.export.weights import Ignore, Rename, Rule, Split, Within
from precast.runtime.errors import ConfigError
from precast.runtime.ports import Dim, Port

__all__ = ["FAMILY", "RESIDUAL", "Spec", "decoder_names", "finer", "pyramid_names"]

_POINTS = 4  # that are read of each map
# What losses and training read; and an older name of ``enforce_input_projection`` that nothing reads.
_INERT = frozenset(
    """backbone_kwargs class_weight dice_weight enforce_input_proj ignore_value importance_sample_ratio init_std
    init_xavier_std mask_weight no_object_weight output_auxiliary_logits oversample_ratio train_num_points
    use_auxiliary_loss""".split()
)
_USUAL = {"model_type": "swin", "depths": [2, 2, 18, 2], "out_features": ["stage1", "stage2", "stage3", "stage4"]}


@dataclass(frozen=True, kw_only=True)
class Spec(LabelSpec):
    """Defaults are those of Mask2Former over Swin-small."""

    feature_size: int = hf(default=256)
    mask_feature_size: int = hf(default=256)
    hidden_dim: int = hf(("hidden_dim", "hidden_size"), default=256)
    encoder_feedforward_dim: int = hf(default=1024)
    activation_function: Activation = hf(default=activation("relu"), read=activation)
    encoder_layers: int = hf(default=6)
    decoder_layers: int = hf(("decoder_layers", "num_hidden_layers"), default=10)
    num_attention_heads: int = hf(default=8)
    dim_feedforward: int = hf(default=2048)
    pre_norm: bool = hf(default=False)
    enforce_input_projection: bool = hf(default=False)
    common_stride: int = hf(default=4)
    feature_strides: tuple[int, ...] = hf(default=(4, 8, 16, 32), read=tuple)
    num_queries: int = hf(default=100)
    backbone_config: dict[str, Any] | None = hf(default=None)
    backbone: str | None = hf(default=None, only=(None,))
    use_timm_backbone: bool = hf(default=False, only=(False,))

    def __post_init__(self) -> None:
        if len(self.inner.taken) < max(LEVELS, self.finer):
            raise ConfigError(f"'backbone_config' gives {len(self.inner.taken)} maps, and {LEVELS} at least are read")

    @cached_property
    def inner(self) -> Inner:
        """The backbone."""
        return read_inner(self.backbone_config or _USUAL)

    @property
    def finer(self) -> int:
        """How many maps are larger than those that see each other."""
        return finer(self.feature_strides, self.common_stride)


def finer(strides: Sequence[int], common: int, key: str = "feature_strides") -> int:
    """How many maps of a backbone are larger than the last ones, down to the stride that all have in common."""
    last = strides[-LEVELS:]
    if not last or min(*last, common) < 1:
        raise ConfigError(f"{key!r} and 'common_stride' are numbers from 1 on")
    return max(0, (min(last) // common).bit_length() - 1)


class _Model(nn.Module):
    def __init__(self, inner: Inner, pyramid: nn.Module, decoder: nn.Module) -> None:
        super().__init__()
        self.backbone, self.pyramid, self.decoder, self.stride = inner.build(), pyramid, decoder, inner.strides[-1]

    def ports(self) -> tuple[Port, ...]:
        return self.backbone.ports()

    def bounds(self) -> dict[str, Dim]:
        """Two places a side of the last map: of one there is nothing to norm."""
        return dict.fromkeys(("height", "width"), Dim(least=self.stride + 1))

    def forward(self, pixel_values: Tensor) -> tuple[Tensor, Tensor]:
        places, maps = self.pyramid(self.backbone(pixel_values))
        states, masks = self.decoder(places, maps)
        return states, masks


def _segmentation(spec: Spec, absent: frozenset[str]) -> nn.Module:
    size, heads_ = spec.hidden_dim, spec.num_attention_heads
    pyramid = DeformablePyramid(
        spec.inner.channels,
        spec.feature_size,
        spec.mask_feature_size,
        (
            DeformableLayer(spec.feature_size, heads_, _POINTS, spec.encoder_feedforward_dim)
            for _ in range(spec.encoder_layers)
        ),
        spec.finer,
    )
    decoder = MaskedDecoder(
        (
            MaskedLayer(size, heads_, MLP(size, spec.dim_feedforward, spec.activation_function), first=spec.pre_norm)
            for _ in range(spec.decoder_layers - 1)
        ),
        DeepHead((size, size, size, spec.mask_feature_size)),
        queries=spec.num_queries,
        size=size,
        width=spec.feature_size,
        projected=spec.feature_size != size or spec.enforce_input_projection,
    )
    return MaskedSegmentation(_Model(spec.inner, pyramid, decoder), nn.Linear(size, spec.labels + 1))


def pyramid_names(old: str, new: str, finer: int) -> tuple[Rule, ...]:
    """Names of a `DeformablePyramid`."""
    numbered = range(finer)
    return (
        Rename(f"{old}.input_projections.*", f"{new}.projections.*"),
        Rename(f"{old}.level_embed", f"{new}.levels"),
        Rename(f"{old}.encoder.layers.*", f"{new}.layers.*"),
        *detr.layer_names(f"{new}.layers.{{}}."),
        *(Rename(f"{old}.adapter_{number + 1}.*", f"{new}.laterals.{number}.*") for number in numbered),
        *(Rename(f"{old}.layer_{number + 1}.*", f"{new}.outputs.{number}.*") for number in numbered),
        Rename(f"{old}.mask_projection.*", f"{new}.projection.*"),
    )


def decoder_names(layer: str) -> tuple[Rule, ...]:
    """Names within a `MaskedLayer`."""
    parts = ("q_proj", "k_proj", "v_proj")
    split = (
        Split(f"cross_attn.in_proj_{kind}", tuple(f"cross_attn.{part}.{kind}" for part in parts))
        for kind in ("weight", "bias")
    )
    return (
        Within(layer, (*split, Rename("cross_attn.out_proj.*", "cross_attn.o_proj.*")), to=layer),
        *detr.layer_names(layer),
    )


def _weights(spec: Spec) -> tuple[Rule, ...]:
    module = "transformer_module"
    return (
        Rename("model.*", "*"),
        spec.inner.names("pixel_level_module.encoder.", "model.backbone."),
        *pyramid_names("pixel_level_module.decoder", "model.pyramid", spec.finer),
        Rename(f"{module}.queries_embedder.weight", "model.decoder.queries"),
        Rename(f"{module}.queries_features.weight", "model.decoder.features"),
        Rename(f"{module}.level_embed.weight", "model.decoder.levels"),
        Rename(f"{module}.input_projections.*", "model.decoder.projections.*"),
        Rename(f"{module}.decoder.mask_predictor.mask_embedder.{{}}.0.*", "model.decoder.embedder.layers.{}.*"),
        Rename(f"{module}.decoder.*", "model.decoder.*"),
        *decoder_names("model.decoder.layers.{}."),
        Rename("class_predictor.*", "classifier.*"),
        Ignore("criterion.*"),
    )


# Of three maps, so that the first is read twice.
RESIDUAL = {**detr.BACKBONE, "out_features": ["stem", "stage1", "stage2"]}

FAMILY = Family(
    spec=Spec,
    heads={heads.UNIVERSAL_SEGMENTATION: _segmentation},
    weights=_weights,
    inert=_INERT,
    tiny={"backbone_config": RESIDUAL, "feature_size": 32, "mask_feature_size": 12, "hidden_dim": 16}
    | {"encoder_feedforward_dim": 24, "encoder_layers": 1, "decoder_layers": 3, "num_attention_heads": 4}
    | {"dim_feedforward": 20, "num_queries": 5},
    variations=(
        {
            "backbone_config": {**RESIDUAL, "num_channels": 1},
            "hidden_dim": 32,
            "enforce_input_projection": True,
            "pre_norm": True,
            "decoder_layers": 2,
            "num_attention_heads": 2,
            "activation_function": "gelu",
            "common_stride": 8,
            "num_labels": 5,
        },
    ),
)
