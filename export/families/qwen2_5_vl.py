"""Qwen2.5-VL: Qwen2-VL whose ViT sees within windows in most layers, of Llama's parts. https://arxiv.org/abs/2502.13923"""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import nn

from precast.export import heads
from precast.export.blocks.activations import Activation, activation
from precast.export.blocks.mlp import GatedMLP
from precast.export.blocks.norms import RMSNorm
from precast.export.families import qwen2_vl
from precast.export.skeletons import axial
from precast.export.skeletons.axial import AxialSpec, GridSpec
from precast.export.skeletons.three_axes import ODD_TEXT, TINY_TEXT
from precast.export.spec import hf
from precast.export.weights import Rule
from precast.runtime.errors import ConfigError

__all__ = ["FAMILY", "Spec"]

_EPSILON = 1e-6


@dataclass(frozen=True, kw_only=True)
class VisionSpec(GridSpec):
    hidden_size: int = hf(default=3584)
    out_hidden_size: int = hf(default=3584)
    intermediate_size: int = hf(default=3420)
    hidden_act: Activation = hf(default=activation("silu"), read=activation)
    window_size: int = hf(default=112)
    fullatt_block_indexes: tuple[int, ...] = hf(default=(7, 15, 23, 31), read=tuple)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.window < 1:
            raise ConfigError(
                f"'vision_config.window_size' {self.window_size} must be {self.grids.unit} or more, the pixels of a "
                "feature's side: windows hold whole features"
            )

    @property
    def size(self) -> int:
        return self.hidden_size

    @property
    def width(self) -> int:
        return self.out_hidden_size

    @property
    def window(self) -> int:  # type: ignore[override]
        """Patches of a window's side, whole squares of those that are merged."""
        return self.window_size // self.spatial_merge_size // self.patch_size * self.spatial_merge_size


@dataclass(frozen=True, kw_only=True)
class Spec(AxialSpec):
    # Time is of videos.
    vision_config: VisionSpec = hf(default={}, spec=VisionSpec, inert=frozenset({"tokens_per_second"}))


def _compose(spec: Spec, absent: frozenset[str]) -> nn.Module:
    own = spec.vision_config
    size = own.size
    layers = [
        axial.layer(
            own,
            RMSNorm(size, _EPSILON),
            GatedMLP(size, own.intermediate_size, own.hidden_act),
            RMSNorm(size, _EPSILON),
            windowed=number not in own.fullatt_block_indexes,
        )
        for number in range(own.depth)
    ]
    return axial.compose(spec, layers, RMSNorm(size, _EPSILON))


def _weights(spec: Spec) -> tuple[Rule, ...]:
    return axial.weights(spec)


FAMILY = replace(
    qwen2_vl.FAMILY,
    spec=Spec,
    heads={heads.IMAGE_TEXT: _compose},
    weights=_weights,
    tiny={
        "text_config": TINY_TEXT,
        "vision_config": {"depth": 2, "hidden_size": 32, "out_hidden_size": 32, "num_heads": 4, "patch_size": 4}
        | {"intermediate_size": 48, "window_size": 16, "fullatt_block_indexes": [1]},
        "image_token_id": 98,
    },
    variations=(
        {
            "text_config": ODD_TEXT,
            "vision_config": {"depth": 1, "hidden_size": 36, "out_hidden_size": 24, "num_heads": 3, "patch_size": 3}
            | {"intermediate_size": 37, "in_channels": 1, "spatial_merge_size": 3, "temporal_patch_size": 1}
            | {"hidden_act": "gelu", "window_size": 9, "fullatt_block_indexes": []},
            "image_token_id": 3,
            "tie_word_embeddings": True,
        },
    ),
)
