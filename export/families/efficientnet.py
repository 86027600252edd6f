"""EfficientNet: MobileNet's inverted layers with squeeze and excitation, scaled in width and depth together.
https://arxiv.org/abs/1905.11946"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor, nn

from precast.export.blocks.activations import Activation, activation
from precast.export.blocks.convolution import COUNTERS, ConvNorm, SqueezeExcite
from precast.export.families import Family, LabelSpec
from precast.export.head_sets.maps import MeanPool, map_heads
from precast.export.skeletons.backbone import Backbone, least_side
from precast.export.spec import hf
from precast.export.weights import Rename, Rule, Within
from precast.runtime.errors import ConfigError

__all__ = ["FAMILY", "INERT", "Spec", "body", "names", "pooler"]

_STEM, _TOP, _MOST = 32, 1280, 1000
INERT = frozenset({"image_size", "batch_norm_momentum", "dropout_rate", "drop_connect_rate", "num_hidden_layers"})


@dataclass(frozen=True, kw_only=True)
class Spec(LabelSpec):
    """Defaults are those of EfficientNet-B7."""

    num_channels: int = hf(default=3)
    width_coefficient: float = hf(default=2.0)
    depth_coefficient: float = hf(default=3.1)
    depth_divisor: int = hf(default=8)
    kernel_sizes: tuple[int, ...] = hf(default=(3, 3, 5, 3, 5, 5, 3), read=tuple)
    in_channels: tuple[int, ...] = hf(default=(32, 16, 24, 40, 80, 112, 192), read=tuple)
    out_channels: tuple[int, ...] = hf(default=(16, 24, 40, 80, 112, 192, 320), read=tuple)
    depthwise_padding: tuple[int, ...] = hf(default=(), read=tuple)
    strides: tuple[int, ...] = hf(default=(1, 2, 2, 2, 1, 2, 1), read=tuple)
    num_block_repeats: tuple[int, ...] = hf(default=(1, 2, 2, 3, 3, 4, 1), read=tuple)
    expand_ratios: tuple[int, ...] = hf(default=(1, 6, 6, 6, 6, 6, 6), read=tuple)
    squeeze_expansion_ratio: float = hf(default=0.25)
    hidden_act: Activation = hf(default=activation("swish"), read=activation)
    hidden_dim: int = hf(default=2560)
    pooling_type: str = hf(default="mean", only=("mean", "max"))
    batch_norm_eps: float = hf(default=1e-3)

    def __post_init__(self) -> None:
        if any(stride not in (1, 2) for stride in self.strides):
            raise ConfigError(f"'strides' are {list(self.strides)}, and each must be 1 or 2")
        if self.hidden_dim != self.width(_TOP):
            raise ConfigError(
                f"'hidden_dim' is {self.hidden_dim}, and the last map has {self.width(_TOP)} with 'width_coefficient'"
            )
        if sum(map(self.repeated, self.num_block_repeats)) > _MOST:
            raise ConfigError(f"'num_block_repeats' times 'depth_coefficient' make more than {_MOST} blocks")

    def width(self, channels: int) -> int:
        """Of a map that has ``channels`` in the smallest model: to a multiple, but not down by more than a tenth."""
        wide, by = channels * self.width_coefficient, self.depth_divisor
        made = max(by, int(wide + by / 2) // by * by)
        return made + by if made < 0.9 * wide else made

    def repeated(self, blocks: int) -> int:
        """How often a block stands that the smallest model has so often."""
        return math.ceil(self.depth_coefficient * blocks)


class _Block(nn.Module):
    """narrow(weighed(depthwise(widen(x)))), and x added where ``added``.

    Args:
        shifted: a stride pads once less at the top and left, which is right where sides are even.
    """

    def __init__(
        self, spec: Spec, channels: int, out: int, kernel: int, stride: int, ratio: int, *, added: bool, shifted: bool
    ) -> None:
        super().__init__()
        wide, act, eps = channels * ratio, spec.hidden_act, spec.batch_norm_eps
        half, less = kernel // 2, kernel // 2 - shifted
        padding = (less, less, half, half) if stride == 2 else None
        self.added = added
        self.window = (kernel, stride, kernel - 1 if padding is None else less + half)
        self.widen = ConvNorm(channels, wide, eps=eps, act=act) if ratio != 1 else None
        self.depthwise = ConvNorm(wide, wide, kernel, stride=stride, groups=wide, padding=padding, eps=eps, act=act)
        self.weighed = SqueezeExcite(wide, max(1, int(channels * spec.squeeze_expansion_ratio)), act)
        self.narrow = ConvNorm(wide, out, eps=eps)

    def forward(self, x: Tensor) -> Tensor:
        made = self.narrow(self.weighed(self.depthwise(x if self.widen is None else self.widen(x))))
        return x + made if self.added else made


def _blocks(spec: Spec) -> Iterator[_Block]:
    number = 0
    sizes = zip(spec.in_channels, spec.out_channels, strict=True)
    kinds = zip(sizes, spec.kernel_sizes, spec.strides, spec.expand_ratios, spec.num_block_repeats, strict=True)
    for (before, after), kernel, first, ratio, blocks in kinds:
        channels, out = spec.width(before), spec.width(after)
        for index in range(spec.repeated(blocks)):
            stride, shifted = first if index == 0 else 1, number not in spec.depthwise_padding
            yield _Block(spec, channels, out, kernel, stride, ratio, added=index > 0, shifted=shifted)
            channels, number = out, number + 1


def body(spec: Spec) -> Backbone:
    """Blocks, and what makes the last map wider."""
    act, eps, blocks = spec.hidden_act, spec.batch_norm_eps, list(_blocks(spec))
    stem = ConvNorm(spec.num_channels, spec.width(_STEM), 3, stride=2, padding=(0, 0, 1, 1), eps=eps, act=act)
    top = ConvNorm(spec.width(spec.out_channels[-1]), spec.hidden_dim, eps=eps, act=act)
    least = least_side([(3, 2, 1), *(block.window for block in blocks)])
    return Backbone(stem, blocks, top, channels=spec.num_channels, least=least)


class _MaxPool(nn.Module):
    """The largest of every channel, [B, C, H, W] -> [B, C]."""

    outs = ("batch", "size")

    def forward(self, states: Tensor) -> Tensor:
        return states.amax((2, 3))


def pooler(spec: Spec) -> nn.Module:
    """What makes one vector of the last map."""
    return MeanPool(keep=False) if spec.pooling_type == "mean" else _MaxPool()


def names(spec: Spec) -> tuple[Rule, ...]:
    """Of weights."""
    block = (
        Rename("expansion.expand_conv.*", "widen.convolution.*"),
        Rename("expansion.expand_bn.*", "widen.norm.*"),
        Rename("depthwise_conv.depthwise_conv.*", "depthwise.convolution.*"),
        Rename("depthwise_conv.depthwise_norm.*", "depthwise.norm.*"),
        Rename("squeeze_excite.*", "weighed.*"),
        Rename("projection.project_conv.*", "narrow.convolution.*"),
        Rename("projection.project_bn.*", "narrow.norm.*"),
    )
    return (
        COUNTERS,
        Rename("efficientnet.*", "*"),
        Rename("embeddings.batchnorm.*", "model.stem.norm.*"),
        Rename("embeddings.*", "model.stem.*"),
        Within("encoder.blocks.{}.", block, to="model.stages.{}."),
        Rename("encoder.top_conv.*", "model.last.convolution.*"),
        Rename("encoder.top_bn.*", "model.last.norm.*"),
    )


FAMILY = Family(
    spec=Spec,
    heads=map_heads(
        body,
        lambda spec: spec.hidden_dim,
        pooler,
    ),
    weights=names,
    inert=INERT,
    tiny={"width_coefficient": 0.05, "depth_coefficient": 1.1, "depth_divisor": 4, "hidden_dim": 64}
    | {"in_channels": [32, 160], "out_channels": [160, 200], "kernel_sizes": [3, 5], "strides": [1, 2]}
    | {"num_block_repeats": [1, 1], "expand_ratios": [1, 2]},
    variations=(
        {"num_channels": 1, "pooling_type": "max", "depthwise_padding": [0], "strides": [2, 2], "expand_ratios": [3, 1]}
        | {"hidden_act": "relu", "batch_norm_eps": 1e-2, "squeeze_expansion_ratio": 0.6, "num_labels": 5}
        | {"kernel_sizes": [5, 3]},
    ),
)
