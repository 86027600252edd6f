"""FocalNet: what surrounds a place, at several scales and weighed by gates, is multiplied with what is asked of it.
https://arxiv.org/abs/2203.11926"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from precast.export.blocks.activations import Activation, activation
from precast.export.blocks.convolution import Convolution, MapNorm, pooled
from precast.export.blocks.mlp import MLP
from precast.export.blocks.norms import LayerNorm
from precast.export.families import Family, LabelSpec
from precast.export.head_sets.maps import RowMean, map_heads
from precast.export.skeletons.backbone import BACKBONE_KEYS, Backbone
from precast.export.spec import hf
from precast.export.weights import Ignore, Rename, Rule, Within
from precast.runtime.errors import ConfigError

__all__ = ["FAMILY", "Spec"]

_GELU = activation("gelu")  # between the scales, whatever config.json says of the rest


@dataclass(frozen=True, kw_only=True)
class Spec(LabelSpec):
    """Defaults are those of the tiny model."""

    patch_size: int = hf(default=4)
    num_channels: int = hf(default=3)
    embed_dim: int = hf(default=96)
    use_conv_embed: bool = hf(default=False)
    depths: tuple[int, ...] = hf(default=(2, 2, 6, 2), read=tuple)
    focal_levels: tuple[int, ...] = hf(default=(2, 2, 2, 2), read=tuple)
    focal_windows: tuple[int, ...] = hf(default=(3, 3, 3, 3), read=tuple)
    hidden_act: Activation = hf(default=_GELU, read=activation)
    mlp_ratio: float = hf(default=4.0)
    use_layerscale: bool = hf(default=False)
    use_post_layernorm: bool = hf(default=False)
    use_post_layernorm_in_modulation: bool = hf(default=False)
    normalize_modulator: bool = hf(default=False)
    layer_norm_eps: float = hf(default=1e-5)

    def __post_init__(self) -> None:
        if any(window % 2 == 0 for window in self.focal_windows):
            raise ConfigError(f"'focal_windows' are {list(self.focal_windows)}, and must be odd: a window has a middle")
        if self.use_conv_embed and self.patch_size != 4:
            raise ConfigError(f"'patch_size' is {self.patch_size}, and with 'use_conv_embed' only 4 is honoured here")

    @property
    def last(self) -> int:
        """Channels of the last stage: each has twice those of the one before."""
        return int(self.embed_dim * 2 ** (len(self.depths) - 1))


class _Modulation(nn.Module):
    """out(asked * context(sum of gates * surroundings)), [B, H, W, C] -> [B, H, W, C]."""

    def __init__(self, spec: Spec, size: int, levels: int, window: int) -> None:
        super().__init__()
        self.size, self.share = size, levels + 1 if spec.normalize_modulator else 1
        self.in_proj = nn.Linear(size, 2 * size + levels + 1)
        self.levels = nn.ModuleList(
            Convolution(size, size, window + 2 * k, groups=size, bias=False) for k in range(levels)
        )
        self.context = nn.Conv2d(size, size, 1)
        self.norm = LayerNorm(size, spec.layer_norm_eps) if spec.use_post_layernorm_in_modulation else None
        self.out_proj = nn.Linear(size, size)

    def forward(self, x: Tensor) -> Tensor:
        made = self.in_proj(x).permute(0, 3, 1, 2)
        asked, around, gates = made[:, : self.size], made[:, self.size : 2 * self.size], made[:, 2 * self.size :]
        total = None
        for number, level in enumerate(self.levels):
            around = _GELU(level(around))
            weighed = around * gates[:, number : number + 1]
            total = weighed if total is None else total + weighed
        weighed = _GELU(pooled(around)) * gates[:, len(self.levels) :]
        total = weighed if total is None else total + weighed
        made = (asked * self.context(total / self.share if self.share > 1 else total)).permute(0, 2, 3, 1)
        return self.out_proj(made if self.norm is None else self.norm(made))


class _Layer(nn.Module):
    """x + modulation(norm(x)), and x + mlp(norm(x)) of that; or the norms behind them."""

    def __init__(self, spec: Spec, size: int, levels: int, window: int) -> None:
        super().__init__()
        self.behind = spec.use_post_layernorm
        self.modulation = _Modulation(spec, size, levels, window)
        self.mlp = MLP(size, int(size * spec.mlp_ratio), spec.hidden_act)
        self.norm1, self.norm2 = (LayerNorm(size, spec.layer_norm_eps) for _ in range(2))
        self.scale1, self.scale2 = (nn.Parameter(torch.empty(size)) if spec.use_layerscale else None for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self._of(self.modulation, self.norm1, self.scale1, x)
        return x + self._of(self.mlp, self.norm2, self.scale2, x)

    def _of(self, part: nn.Module, norm: nn.Module, scale: Tensor | None, x: Tensor) -> Tensor:
        made = norm(part(x)) if self.behind else part(norm(x))
        return made if scale is None else scale * made


class _Stage(nn.Module):
    """Layers, and patches of what they make for the next stage, or nothing."""

    def __init__(self, layers: Iterator[nn.Module], patches: nn.Module | None) -> None:
        super().__init__()
        self.layers, self.patches = nn.Sequential(*layers), patches

    def forward(self, x: Tensor) -> Tensor:
        x = self.layers(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return x if self.patches is None else self.patches(x)


class _Rows(LayerNorm):
    """norm of every place, [B, C, H, W] -> [B, H * W, C]."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).view(x.shape[0], -1, x.shape[1])


def _patches(spec: Spec, channels: int, out: int, side: int) -> nn.Sequential:
    """A place for each ``side`` rows and columns, the last of them of what there is and zeros."""
    kernel, padding = side, (0, 0, side - 1, side - 1)
    if spec.use_conv_embed:
        kernel, padding = (7, (2, 2, 4, 4)) if side == 4 else (3, (1, 1, 1, 1))
    made = Convolution(channels, out, kernel, stride=side, padding=padding)
    return nn.Sequential(made, MapNorm(out, spec.layer_norm_eps))


def _stages(spec: Spec) -> Iterator[nn.Module]:
    size = spec.embed_dim
    for depth, levels, window in zip(spec.depths, spec.focal_levels, spec.focal_windows, strict=True):
        patches = _patches(spec, size, 2 * size, 2) if size < spec.last else None
        yield _Stage((_Layer(spec, size, levels, window) for _ in range(depth)), patches)
        size *= 2


def _body(spec: Spec) -> Backbone:
    stem = _patches(spec, spec.num_channels, spec.embed_dim, spec.patch_size)
    # Two places a side of the last map: of one, torch would trace another product than of several.
    least = spec.patch_size * 2 ** (len(spec.depths) - 1) + 1
    return Backbone(stem, _stages(spec), _Rows(spec.last, spec.layer_norm_eps), channels=spec.num_channels, least=least)


def _weights(spec: Spec) -> tuple[Rule, ...]:
    layer = (
        Rename("modulation.projection_in.*", "modulation.in_proj.*"),
        Rename("modulation.projection_context.*", "modulation.context.*"),
        Rename("modulation.projection_out.*", "modulation.out_proj.*"),
        Rename("modulation.focal_layers.{}.0.*", "modulation.levels.{}.*"),
        Rename("modulation.layernorm.*", "modulation.norm.*"),
        Rename("mlp.fc1.*", "mlp.up_proj.*"),
        Rename("mlp.fc2.*", "mlp.down_proj.*"),
        Rename("gamma_{}", "scale{}"),
    )
    return (
        Rename("focalnet.*", "*"),
        Ignore("embeddings.mask_token"),
        Rename("embeddings.patch_embeddings.projection.*", "model.stem.0.*"),
        Rename("embeddings.norm.*", "model.stem.1.*"),
        Rename("encoder.stages.{}.downsample.projection.*", "model.stages.{}.patches.0.*"),
        Rename("encoder.stages.{}.downsample.norm.*", "model.stages.{}.patches.1.*"),
        Within("encoder.stages.{}.layers.{}.", layer, to="model.stages.{}.layers.{}."),
        Rename("layernorm.*", "model.last.*"),
    )


FAMILY = Family(
    spec=Spec,
    heads=map_heads(_body, lambda spec: spec.last, lambda spec: RowMean(), rows=True),
    weights=_weights,
    inert=BACKBONE_KEYS | {"image_size", "hidden_sizes", "layerscale_value", "encoder_stride"},
    tiny={"embed_dim": 8, "depths": [1, 1], "focal_levels": [2, 2], "focal_windows": [3, 3], "mlp_ratio": 2.0},
    variations=(
        {"embed_dim": 7, "depths": [1, 1], "focal_levels": [1, 2], "focal_windows": [5, 3], "mlp_ratio": 1.5}
        | {"use_conv_embed": True, "use_layerscale": True, "use_post_layernorm": True, "hidden_act": "relu"}
        | {"use_post_layernorm_in_modulation": True, "normalize_modulator": True, "num_channels": 1, "num_labels": 5},
        {"patch_size": 3, "layer_norm_eps": 1e-4, "focal_levels": [1, 1], "depths": [1, 1]},
    ),
)
