"""OneFormer: Mask2Former whose queries begin with what the task is, and with what they see of the picture.
https://arxiv.org/abs/2211.06220"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from precast.export import heads
from precast.export.backbones import Inner, read_inner
from precast.export.blocks.mlp import MLP
from precast.export.blocks.norms import LayerNorm
from precast.export.blocks.patches import rows_of
from precast.export.blocks.places import SinePlaces
from precast.export.families import Family, LabelSpec, mask2former
from precast.export.head_sets.boxes import DeepHead
from precast.export.head_sets.queries import MaskedSegmentation
from precast.export.skeletons.detector import DecoderLayer, PlacedAttention, PreNormDecoderLayer
from precast.export.skeletons.masked import (
    LEVELS,
    DeformableLayer,
    DeformablePyramid,
    MaskedDecoder,
    MaskedLayer,
    placed,
)
from precast.export.spec import hf
from precast.export.weights import Ignore, Rename, Rule, Split, Within
from precast.runtime.errors import ConfigError
from precast.runtime.ports import Dim, Port

__all__ = ["FAMILY", "Spec"]

_POINTS, _EPSILON = 4, 1e-5
# What losses and training read, and the texts of training.
_INERT = frozenset(
    """backbone_kwargs class_weight contrastive_temperature contrastive_weight dice_weight ignore_value
    importance_sample_ratio init_std init_xavier_std mask_weight no_object_weight norm output_auxiliary_logits
    oversample_ratio text_encoder_context_length text_encoder_n_ctx text_encoder_num_layers text_encoder_proj_layers
    text_encoder_width train_num_points use_auxiliary_loss""".split()
)
_USUAL = {"model_type": "swin", "out_features": ["stage1", "stage2", "stage3", "stage4"]}


@dataclass(frozen=True, kw_only=True)
class Spec(LabelSpec):
    """Defaults are those of OneFormer over Swin-tiny."""

    conv_dim: int = hf(default=256)
    mask_dim: int = hf(default=256)
    hidden_dim: int = hf(("hidden_dim", "hidden_size"), default=256)
    encoder_feedforward_dim: int = hf(default=1024)
    encoder_layers: int = hf(default=6)
    decoder_layers: int = hf(("decoder_layers", "num_hidden_layers"), default=10)
    query_dec_layers: int = hf(default=2)
    num_attention_heads: int = hf(default=8)
    dim_feedforward: int = hf(default=2048)
    layer_norm_eps: float = hf(default=_EPSILON, only=(_EPSILON,))
    use_task_norm: bool = hf(default=True)
    pre_norm: bool = hf(default=False)
    enforce_input_proj: bool = hf(default=False, only=(False,))  # by weights that upstream's checkpoints do not hold
    common_stride: int = hf(default=4)
    strides: tuple[int, ...] = hf(default=(4, 8, 16, 32), read=tuple)
    num_queries: int = hf(default=150)
    task_seq_len: int = hf(default=77)
    text_encoder_vocab_size: int = hf(default=49408)
    is_training: bool = hf(default=False, only=(False,))
    backbone_config: dict[str, Any] | None = hf(default=None)
    backbone: str | None = hf(default=None, only=(None,))
    use_timm_backbone: bool = hf(default=False, only=(False,))

    def __post_init__(self) -> None:
        if not self.conv_dim == self.mask_dim == self.hidden_dim:
            raise ConfigError("'conv_dim', 'mask_dim' and 'hidden_dim' are one size: no weights go from one to another")
        if len(self.inner.taken) < max(LEVELS, self.finer):
            raise ConfigError(f"'backbone_config' gives {len(self.inner.taken)} maps, and {LEVELS} at least are read")

    @cached_property
    def inner(self) -> Inner:
        """The backbone."""
        return read_inner(self.backbone_config or _USUAL)

    @property
    def finer(self) -> int:
        """How many maps are larger than those that see each other."""
        return mask2former.finer(self.strides, self.common_stride, "strides")


class _Model(nn.Module):
    """Pixels, and the task as ids [B, T] -> the states of segments [B, Q, H], and their masks [B, Q, R, C]."""

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        size, count, wide = spec.hidden_dim, spec.num_attention_heads, spec.dim_feedforward
        self.backbone, self.stride = spec.inner.build(), spec.inner.strides[-1]
        self.port = Port(
            "task_inputs", "int64", ("batch", spec.task_seq_len), "labels", below=spec.text_encoder_vocab_size
        )
        layers = (
            DeformableLayer(size, count, _POINTS, spec.encoder_feedforward_dim) for _ in range(spec.encoder_layers)
        )
        self.pyramid = DeformablePyramid(spec.inner.channels, size, size, layers, spec.finer)
        self.task, self.task_norm = DeepHead((spec.task_seq_len, size, size)), spec.use_task_norm
        self.places, self.projection = SinePlaces(size), nn.Conv2d(size, size, 1)
        self.start = nn.ModuleList(
            (PreNormDecoderLayer if spec.pre_norm else DecoderLayer)(
                attention=PlacedAttention(size, count),
                cross=PlacedAttention(size, count),
                mlp=MLP(size, wide, F.relu),
                norms=[LayerNorm(size, _EPSILON) for _ in range(3)],
            )
            for _ in range(spec.query_dec_layers)
        )
        self.start_norm = LayerNorm(size, _EPSILON)
        self.decoder = MaskedDecoder(
            (
                MaskedLayer(size, count, MLP(size, wide, F.relu), first=spec.pre_norm)
                for _ in range(spec.decoder_layers - 1)
            ),
            DeepHead((size, size, size, size)),
            queries=spec.num_queries,
            size=size,
            width=size,
            projected=False,
            learned=False,
        )

    def ports(self) -> tuple[Port, ...]:
        return *self.backbone.ports(), self.port

    def bounds(self) -> dict[str, Dim]:
        """Two places a side of the last map: of one there is nothing to norm."""
        return dict.fromkeys(("height", "width"), Dim(least=self.stride + 1))

    def forward(self, pixel_values: Tensor, task_inputs: Tensor) -> tuple[Tensor, Tensor]:
        whole, maps = self.pyramid(self.backbone(pixel_values))
        task = self.task(task_inputs.to(pixel_values.dtype))[:, None]
        task = self.decoder.layernorm(task) if self.task_norm else task
        queries = self.decoder.queries[:-1].expand(whole.shape[0], -1, -1)  # the last one is the task's
        x = task.expand(-1, queries.shape[1], -1) if self.task_norm else torch.zeros_like(queries)
        source = placed(self.places, whole)
        keys = source + rows_of(self.projection(whole))
        # Rows of their own: a trace of a product with rows that stand for several pictures would refuse a single one.
        source = source.expand(whole.shape[0], -1, -1).clone(memory_format=torch.contiguous_format)
        for layer in self.start:
            x = layer(x, queries, source, keys, None)
        made: tuple[Tensor, Tensor] = self.decoder(whole, maps, torch.cat((self.start_norm(x), task), dim=1))
        return made


class _Segmentation(MaskedSegmentation):
    def forward(self, pixel_values: Tensor, task_inputs: Tensor | None = None) -> dict[str, Tensor]:
        states, masks = self.model(pixel_values, task_inputs)
        return {"class_queries_logits": self.classifier(states), "masks_queries_logits": masks}


def _segmentation(spec: Spec, absent: frozenset[str]) -> nn.Module:
    return _Segmentation(_Model(spec), nn.Linear(spec.hidden_dim, spec.labels + 1))


def _packed(layer: str, old: str, new: str) -> Rule:
    """Queries, keys and values in one."""
    parts = ("q_proj", "k_proj", "v_proj")
    split = (
        Split(f"{old}.in_proj_{kind}", tuple(f"{new}.{part}.{kind}" for part in parts)) for kind in ("weight", "bias")
    )
    return Within(layer, (*split, Rename(f"{old}.out_proj.*", f"{new}.o_proj.*")))


def _weights(spec: Spec) -> tuple[Rule, ...]:
    module, start, layer = "transformer_module.decoder", "model.start.{}.", "model.decoder.layers.{}."
    norms = ("self_attn_layer_norm", "encoder_attn_layer_norm", "final_layer_norm")
    return (
        Rename("model.*", "*"),
        Ignore("text_mapper.*"),
        spec.inner.names("pixel_level_module.encoder.", "model.backbone."),
        *mask2former.pyramid_names("pixel_level_module.decoder", "model.pyramid", spec.finer),
        Rename("transformer_module.queries_embedder.weight", "model.decoder.queries"),
        Rename("transformer_module.level_embed.weight", "model.decoder.levels"),
        Rename("task_encoder.task_mlp.layers.{}.0.*", "model.task.layers.{}.*"),
        Rename(f"{module}.query_transformer.decoder.layers.*", "model.start.*"),
        Rename(f"{module}.query_transformer.decoder.norm.*", "model.start_norm.*"),
        _packed(start, "self_attn", "self_attn"),
        _packed(start, "multihead_attn", "encoder_attn"),
        *(Rename(f"{start}norm{number}.*", f"{start}{norm}.*") for number, norm in enumerate(norms, 1)),
        Rename(f"{start}linear1.*", f"{start}mlp.up_proj.*"),
        Rename(f"{start}linear2.*", f"{start}mlp.down_proj.*"),
        Rename(f"{module}.query_input_projection.*", "model.projection.*"),
        Rename(f"{module}.decoder_norm.*", "model.decoder.layernorm.*"),
        Rename(f"{module}.mask_embed.layers.{{}}.0.*", "model.decoder.embedder.layers.{}.*"),
        Rename(f"{module}.class_embed.*", "classifier.*"),
        Rename(f"{module}.layers.*", "model.decoder.layers.*"),
        _packed(layer, "cross_attn.multihead_attn", "cross_attn"),
        Rename(f"{layer}cross_attn.norm.*", f"{layer}cross_attn_layer_norm.*"),
        Rename(f"{layer}self_attn.norm.*", f"{layer}self_attn_layer_norm.*"),
        Rename(f"{layer}self_attn.self_attn.out_proj.*", f"{layer}self_attn.o_proj.*"),
        Rename(f"{layer}self_attn.self_attn.*", f"{layer}self_attn.*"),
        Rename(f"{layer}ffn.linear1.*", f"{layer}mlp.up_proj.*"),
        Rename(f"{layer}ffn.linear2.*", f"{layer}mlp.down_proj.*"),
        Rename(f"{layer}ffn.norm.*", f"{layer}final_layer_norm.*"),
        Ignore("criterion.*"),
    )


_SIZES = {"conv_dim": 32, "mask_dim": 32, "hidden_dim": 32, "encoder_feedforward_dim": 24, "encoder_layers": 1}
_SIZES |= {"dim_feedforward": 20, "num_queries": 5, "task_seq_len": 7, "text_encoder_vocab_size": 30}

FAMILY = Family(
    spec=Spec,
    heads={heads.UNIVERSAL_SEGMENTATION: _segmentation},
    weights=_weights,
    inert=_INERT,
    tiny=_SIZES
    | {"backbone_config": mask2former.RESIDUAL, "decoder_layers": 3, "query_dec_layers": 2, "num_attention_heads": 4},
    variations=(
        {"backbone_config": {**mask2former.RESIDUAL, "num_channels": 1}, "use_task_norm": False, "pre_norm": True}
        | {"decoder_layers": 2, "query_dec_layers": 1, "num_attention_heads": 2, "common_stride": 8, "num_labels": 5},
    ),
)
