"""MaskFormer: a pyramid of a backbone's maps, and a decoder that asks for one segment a query.
https://arxiv.org/abs/2107.06278"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from precast.export import heads
from precast.export.backbones import Inner, read_inner
from precast.export.blocks.activations import Activation, activation
from precast.export.blocks.convolution import GroupNorm
from precast.export.blocks.mlp import MLP
from precast.export.blocks.norms import LayerNorm
from precast.export.blocks.patches import rows_of
from precast.export.blocks.places import SinePlaces, nearest
from precast.export.families import Family, LabelSpec, detr
from precast.export.head_sets.boxes import DeepHead
from precast.export.head_sets.queries import QuerySegmentation
from precast.export.skeletons.detector import Decoder, DecoderLayer, PlacedAttention
from precast.export.spec import Spec as PlainSpec
from precast.export.spec import hf
from precast.export.weights import Ignore, Rename, Rule
from precast.runtime.ports import Dim, Port

__all__ = ["FAMILY", "INERT", "SWIN"]

_EPSILON = 1e-5
# What losses and training read; queries are those of the decoder's own config.
INERT = frozenset(
    """cross_entropy_weight dice_weight init_std init_xavier_std mask_weight no_object_weight num_attention_heads
    num_hidden_layers num_queries output_auxiliary_logits backbone_kwargs""".split()
)
_FOREIGN = detr.INERT | frozenset(
    """backbone backbone_config backbone_kwargs dilation encoder_attention_heads encoder_ffn_dim encoder_layers
    hidden_size num_attention_heads num_channels num_hidden_layers position_embedding_type
    use_timm_backbone""".split()
)
# What a config that says nothing of its backbone has.
_USUAL = {"model_type": "swin", "depths": [2, 2, 18, 2], "image_size": 384, "embed_dim": 128}
_USUAL |= {"num_heads": [4, 8, 16, 32], "window_size": 12}


@dataclass(frozen=True, kw_only=True)
class DecoderSpec(PlainSpec):
    """DETR's decoder; what else its config says of DETR is not there."""

    is_encoder_decoder: bool = hf(default=True)
    num_queries: int = hf(default=100)
    d_model: int = hf(("d_model", "hidden_size"), default=256)
    decoder_layers: int = hf(default=6)
    decoder_ffn_dim: int = hf(default=2048)
    decoder_attention_heads: int = hf(default=8)
    activation_function: Activation = hf(default=activation("relu"), read=activation)
    # Which would norm the states between layers, too.
    auxiliary_loss: bool = hf(default=False, only=(False,))


@dataclass(frozen=True, kw_only=True)
class Spec(LabelSpec):
    """Defaults are those of MaskFormer over Swin-base."""

    fpn_feature_size: int = hf(default=256)
    mask_feature_size: int = hf(("mask_feature_size", "hidden_size"), default=256)
    use_auxiliary_loss: bool = hf(default=False, only=(False,))
    backbone_config: dict[str, Any] | None = hf(default=None)
    backbone: str | None = hf(default=None, only=(None,))
    use_timm_backbone: bool = hf(default=False, only=(False,))
    decoder: DecoderSpec = hf("decoder_config", default={}, spec=DecoderSpec, inert=_FOREIGN - {"auxiliary_loss"})

    def __post_init__(self) -> None:
        assert self.inner

    @cached_property
    def inner(self) -> Inner:
        """The backbone; of a Swin four stages are read, whatever is said."""
        said = dict(self.backbone_config or _USUAL)
        if said.get("model_type") in ("swin", "maskformer-swin"):
            said |= {"out_features": [f"stage{number}" for number in (1, 2, 3, 4)], "out_indices": None}
        return read_inner(said)


class _Pyramid(nn.Module):
    """Maps [B, C, R, C'], the largest first -> what each place of the largest is like, [B, M, R, C']."""

    def __init__(self, channels: Sequence[int], size: int, out: int) -> None:
        super().__init__()
        *before, last = channels

        def smooth(width: int) -> nn.Module:
            convolution = nn.Conv2d(width, size, 3, padding=1, bias=False)
            return nn.Sequential(convolution, GroupNorm(size, 32, _EPSILON, F.relu))

        self.stem = smooth(last)
        self.laterals = nn.ModuleList(
            nn.Sequential(nn.Conv2d(width, size, 1, bias=False), GroupNorm(size, 32, _EPSILON))
            for width in before[::-1]
        )
        self.blocks = nn.ModuleList(smooth(size) for _ in before)
        self.projection = nn.Conv2d(size, out, 3, padding=1)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        *before, last = maps
        x = self.stem(last)
        for lateral, block, each in zip(self.laterals, self.blocks, before[::-1], strict=True):
            beside = lateral(each)
            x = block(nearest(x, beside.shape[2], beside.shape[3], 2) + beside)
        return self.projection(x)


class _Model(nn.Module):
    def __init__(self, inner: Inner, pyramid: nn.Module, hidden: int, decoder: Decoder) -> None:
        super().__init__()
        self.backbone, self.pyramid, self.decoder = inner.build(), pyramid, decoder
        channels = inner.channels[-1]
        self.projection = nn.Conv2d(channels, hidden, 1) if channels != hidden else None
        self.places, self.stride = SinePlaces(hidden), inner.strides[-1]

    def ports(self) -> tuple[Port, ...]:
        return self.backbone.ports()

    def bounds(self) -> dict[str, Dim]:
        """Two places a side of the last map: of one there is nothing to norm."""
        return dict.fromkeys(("height", "width"), Dim(least=self.stride + 1))

    def forward(self, pixel_values: Tensor) -> tuple[Tensor, Tensor]:
        maps = self.backbone(pixel_values)
        grid = maps[-1] if self.projection is None else self.projection(maps[-1])
        _, width, rows, columns = grid.shape
        places = self.places(torch.ones_like(grid[:1, 0])).view(1, rows * columns, width)
        return self.pyramid(maps), self.decoder(rows_of(grid), places, None)


def _model(spec: Spec) -> _Model:
    said, channels = spec.decoder, spec.inner.channels
    size = said.d_model

    def layers() -> Iterable[nn.Module]:
        for _ in range(said.decoder_layers):
            yield DecoderLayer(
                attention=PlacedAttention(size, said.decoder_attention_heads),
                cross=PlacedAttention(size, said.decoder_attention_heads),
                mlp=MLP(size, said.decoder_ffn_dim, said.activation_function),
                norms=[LayerNorm(size, _EPSILON) for _ in range(3)],
            )

    decoder = Decoder(layers(), LayerNorm(size, _EPSILON), queries=said.num_queries, hidden=size)
    pyramid = _Pyramid(channels, spec.fpn_feature_size, spec.mask_feature_size)
    return _Model(spec.inner, pyramid, size, decoder)


def _segmentation(spec: Spec, absent: frozenset[str]) -> nn.Module:
    size = spec.decoder.d_model
    embedder = DeepHead((size, size, size, spec.mask_feature_size))
    return QuerySegmentation(_model(spec), nn.Linear(size, spec.labels + 1), embedder)


def _weights(spec: Spec) -> tuple[Rule, ...]:
    pyramid, decoder = "pixel_level_module.decoder", "transformer_module.decoder.layers.{}."
    return (
        Rename("model.*", "*"),
        spec.inner.names("pixel_level_module.encoder.", "model.backbone."),
        Rename(f"{pyramid}.fpn.stem.*", "model.pyramid.stem.*"),
        Rename(f"{pyramid}.fpn.layers.{{}}.proj.*", "model.pyramid.laterals.{}.*"),
        Rename(f"{pyramid}.fpn.layers.{{}}.block.*", "model.pyramid.blocks.{}.*"),
        Rename(f"{pyramid}.mask_projection.*", "model.pyramid.projection.*"),
        Rename("transformer_module.queries_embedder.weight", "model.decoder.queries"),
        Rename("transformer_module.input_projection.*", "model.projection.*"),
        *detr.layer_names(decoder),
        Rename("transformer_module.decoder.*", "model.decoder.*"),
        Rename("class_predictor.*", "classifier.*"),
        Rename("mask_embedder.{}.0.*", "embedder.layers.{}.*"),
        Ignore("criterion.*"),
    )


# Four stages, of which one is shifted.
SWIN = {"model_type": "swin", "embed_dim": 8, "depths": [2, 1, 1, 1], "num_heads": [2, 2, 2, 2], "window_size": 3}
SWIN |= {"patch_size": 2, "mlp_ratio": 2.0, "image_size": 32}
_DECODER = {"model_type": "detr", "d_model": 16, "decoder_layers": 1, "decoder_ffn_dim": 24}
_DECODER |= {"decoder_attention_heads": 4, "num_queries": 5}

FAMILY = Family(
    spec=Spec,
    heads={heads.UNIVERSAL_SEGMENTATION: _segmentation},
    weights=_weights,
    inert=INERT,
    tiny={"backbone_config": SWIN, "decoder_config": _DECODER, "fpn_feature_size": 32, "mask_feature_size": 12},
    variations=(
        {
            "backbone_config": {**detr.BACKBONE, "out_features": ["stem", "stage1", "stage2"], "num_channels": 1},
            "decoder_config": {**_DECODER, "d_model": 12, "decoder_layers": 2, "activation_function": "gelu"}
            | {"num_queries": 3},
            "fpn_feature_size": 64,
            "num_labels": 5,
        },
    ),
)
