"""PoolFormer: a transformer's layers, whose attention is the mean over a small window. https://arxiv.org/abs/2111.11418"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from precast.export.blocks.activations import Activation, activation
from precast.export.blocks.convolution import GroupNorm
from precast.export.families import Family, LabelSpec
from precast.export.head_sets.maps import map_heads
from precast.export.skeletons.backbone import Backbone, least_side
from precast.export.spec import hf
from precast.export.weights import Rename, Rule, Within
from precast.runtime.errors import ConfigError

__all__ = ["FAMILY", "Spec"]

_LISTS = ("depths", "hidden_sizes", "patch_sizes", "strides", "padding")


@dataclass(frozen=True, kw_only=True)
class Spec(LabelSpec):
    """Defaults are those of PoolFormer-S12."""

    num_channels: int = hf(default=3)
    pool_size: int = hf(default=3)
    mlp_ratio: float = hf(default=4.0)
    num_encoder_blocks: int = hf(default=4)
    depths: tuple[int, ...] = hf(default=(2, 2, 6, 2), read=tuple)
    hidden_sizes: tuple[int, ...] = hf(default=(64, 128, 320, 512), read=tuple)
    patch_sizes: tuple[int, ...] = hf(default=(7, 3, 3, 3), read=tuple)
    strides: tuple[int, ...] = hf(default=(4, 2, 2, 2), read=tuple)
    padding: tuple[int, ...] = hf(default=(2, 1, 1, 1), read=tuple)
    hidden_act: Activation = hf(default=activation("gelu"), read=activation)
    use_layer_scale: bool = hf(default=True)

    def __post_init__(self) -> None:
        if self.pool_size % 2 == 0:
            raise ConfigError(f"'pool_size' is {self.pool_size}, and must be odd: a window has a middle")
        lists = {name: len(getattr(self, name)) for name in _LISTS}
        if set(lists.values()) != {self.num_encoder_blocks}:
            raise ConfigError(f"'num_encoder_blocks' is {self.num_encoder_blocks}, and of the lists there are {lists}")

    @property
    def windows(self) -> list[tuple[int, int, int]]:
        """(size, stride, padding) of each stage's patches."""
        return list(zip(self.patch_sizes, self.strides, self.padding, strict=True))


class _Layer(nn.Module):
    """x + scale * (mean around - itself)(norm(x)), and x + scale * mlp(norm(x)) of that."""

    def __init__(self, spec: Spec, size: int) -> None:
        super().__init__()
        self.window, self.act = spec.pool_size, spec.hidden_act
        self.pool_norm, self.mlp_norm = GroupNorm(size), GroupNorm(size)
        self.up_proj = nn.Conv2d(size, int(size * spec.mlp_ratio), 1)
        self.down_proj = nn.Conv2d(int(size * spec.mlp_ratio), size, 1)
        self.pool_scale = nn.Parameter(torch.empty(size)) if spec.use_layer_scale else None
        self.mlp_scale = nn.Parameter(torch.empty(size)) if spec.use_layer_scale else None

    def forward(self, x: Tensor) -> Tensor:
        normed = self.pool_norm(x)
        around = F.avg_pool2d(normed, self.window, 1, self.window // 2, count_include_pad=False) - normed
        x = x + _scaled(around, self.pool_scale)
        return x + _scaled(self.down_proj(self.act(self.up_proj(self.mlp_norm(x)))), self.mlp_scale)


def _scaled(x: Tensor, scale: Tensor | None) -> Tensor:
    return x if scale is None else scale[:, None, None] * x


class _NormMean(nn.Module):
    """The mean over the picture of norm(x), [B, C, H, W] -> [B, C]."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.norm = GroupNorm(size)

    def forward(self, states: Tensor) -> Tensor:
        return self.norm(states).mean((2, 3))


def _stages(spec: Spec) -> Iterator[nn.Module]:
    channels = spec.num_channels
    for size, depth, (patch, stride, padding) in zip(spec.hidden_sizes, spec.depths, spec.windows, strict=True):
        patches = nn.Conv2d(channels, size, patch, stride, padding)
        yield nn.Sequential(patches, nn.Sequential(*(_Layer(spec, size) for _ in range(depth))))
        channels = size


def _body(spec: Spec) -> Backbone:
    least = least_side([(patch, stride, 2 * padding) for patch, stride, padding in spec.windows])
    return Backbone(nn.Identity(), _stages(spec), channels=spec.num_channels, least=least, stem_is_state=False)


def _weights(spec: Spec) -> tuple[Rule, ...]:
    layer = (
        Rename("before_norm.*", "pool_norm.*"),
        Rename("after_norm.*", "mlp_norm.*"),
        Rename("output.conv1.*", "up_proj.*"),
        Rename("output.conv2.*", "down_proj.*"),
        Rename("layer_scale_1", "pool_scale"),
        Rename("layer_scale_2", "mlp_scale"),
    )
    return (
        Rename("poolformer.*", "*"),
        Rename("encoder.patch_embeddings.{}.projection.*", "model.stages.{}.0.*"),
        Within("encoder.block.{}.{}.", layer, to="model.stages.{}.1.{}."),
        Rename("norm.*", "pooler.norm.*"),
    )


FAMILY = Family(
    spec=Spec,
    heads=map_heads(
        _body, lambda spec: spec.hidden_sizes[-1], lambda spec: _NormMean(spec.hidden_sizes[-1]), bare=True
    ),
    weights=_weights,
    inert=frozenset({"patch_size", "stride", "drop_path_rate", "layer_scale_init_value"}),
    tiny={"num_encoder_blocks": 2, "depths": [1, 2], "hidden_sizes": [8, 12], "patch_sizes": [7, 3], "strides": [4, 2]}
    | {"padding": [2, 1], "mlp_ratio": 2.0},
    variations=(
        {"depths": [1, 1], "hidden_sizes": [7, 9], "patch_sizes": [5, 3], "strides": [2, 3], "padding": [1, 0]}
        | {"pool_size": 5, "num_channels": 1, "mlp_ratio": 1.5, "hidden_act": "relu", "use_layer_scale": False}
        | {"num_labels": 5},
    ),
)
