"""Qwen2-VL: a decoder that knows of each feature of a picture where in its height and width it stands, and a ViT of
pictures of any size. https://arxiv.org/abs/2409.12191"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from precast.export import heads
from precast.export.blocks.activations import Activation, activation
from precast.export.blocks.mlp import MLP
from precast.export.blocks.norms import LayerNorm
from precast.export.skeletons import axial
from precast.export.skeletons.axial import AxialSpec, GridSpec
from precast.export.skeletons.three_axes import ODD_TEXT, TINY_TEXT, NestedFamily
from precast.export.spec import hf
from precast.export.weights import Rename, Rule

__all__ = ["FAMILY", "Spec"]

_EPSILON = 1e-6


@dataclass(frozen=True, kw_only=True)
class VisionSpec(GridSpec):
    embed_dim: int = hf(default=1280)
    hidden_size: int = hf(default=3584)
    hidden_act: Activation = hf(default=activation("quick_gelu"), read=activation)
    mlp_ratio: int = hf(default=4)

    @property
    def size(self) -> int:
        return self.embed_dim

    @property
    def width(self) -> int:
        return self.hidden_size


@dataclass(frozen=True, kw_only=True)
class Spec(AxialSpec):
    vision_config: VisionSpec = hf(default={}, spec=VisionSpec)


def _compose(spec: Spec, absent: frozenset[str]) -> nn.Module:
    own = spec.vision_config
    size = own.size
    layers = [
        axial.layer(
            own,
            LayerNorm(size, _EPSILON),
            MLP(size, size * own.mlp_ratio, own.hidden_act),
            LayerNorm(size, _EPSILON),
        )
        for _ in range(own.depth)
    ]
    return axial.compose(spec, layers, LayerNorm(size, _EPSILON))


def _weights(spec: Spec) -> tuple[Rule, ...]:
    return axial.weights(spec, Rename("mlp.fc1.*", "mlp.up_proj.*"), Rename("mlp.fc2.*", "mlp.down_proj.*"))


FAMILY = NestedFamily(
    spec=Spec,
    heads={heads.IMAGE_TEXT: _compose},
    weights=_weights,
    inert=axial.INERT,
    final_norm=True,
    tiny={
        "text_config": TINY_TEXT,
        "vision_config": {"depth": 2, "embed_dim": 32, "hidden_size": 32, "num_heads": 4, "patch_size": 4}
        | {"mlp_ratio": 2},
        "image_token_id": 98,
    },
    variations=(
        {
            "text_config": ODD_TEXT,
            "vision_config": {"depth": 1, "embed_dim": 36, "hidden_size": 24, "num_heads": 3, "patch_size": 3}
            | {"mlp_ratio": 3, "in_channels": 1, "spatial_merge_size": 3, "temporal_patch_size": 1}
            | {"hidden_act": "gelu"},
            "image_token_id": 3,
            "tie_word_embeddings": True,
        },
    ),
)
