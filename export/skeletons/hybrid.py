"""RT-DETR's encoder: attention within single maps, and convolutions that mix maps of all sizes, from the smallest to
the largest and back. https://arxiv.org/abs/2304.08069, section 4.2"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from precast.export.blocks.activations import Activation
from precast.export.blocks.convolution import ConvNorm, Convolution
from precast.export.blocks.patches import rows_of
from precast.export.skeletons.detector import EncoderLayer
from precast.export.weights import Compute, Flatten, Rule, Split

__all__ = ["HybridEncoder", "MapEncoder", "Mixing", "branch_names"]


class Mixing(NamedTuple):
    """What all convolutions of a `HybridEncoder` have: channels of its maps and within a fusion, the norms' epsilon and
    the activation."""

    size: int
    inner: int
    eps: float
    act: Activation

    def convolution(self, channels: int, out: int, kernel: int = 1, stride: int = 1) -> ConvNorm:
        return ConvNorm(channels, out, kernel, stride=stride, eps=self.eps, act=self.act)


class _Branches(nn.Module):
    """act(convolution of 3 x 3): what was trained as that and one of 1 x 1 beside it, see `branch_names`.
    https://arxiv.org/abs/2101.03697"""

    def __init__(self, mixing: Mixing) -> None:
        super().__init__()
        self.convolution, self.act = Convolution(mixing.inner, mixing.inner, 3), mixing.act

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.convolution(x))


def branch_names(name: str, mixing: Mixing) -> tuple[Rule, ...]:
    """Two convolutions and their norms, ``conv1`` and ``conv2`` behind ``name``, as the one of `_Branches`: both are
    sums over the same places, and so is what they make together. In float64."""
    size, made = mixing.inner, f"{name}.convolution"
    parts = ("convolution.weight", *(f"norm.{part}" for part in ("weight", "bias", "running_mean", "running_var")))

    def whole(*tensors: Tensor) -> Tensor:
        kernels, biases = [], []
        for kernel, scale, shift, mean, variance in (tensors[:5], tensors[5:]):
            by = scale / torch.sqrt(variance + mixing.eps)
            around = (3 - kernel.shape[-1]) // 2
            kernels.append(F.pad(kernel, (around,) * 4) * by[:, None, None, None])
            biases.append(shift - mean * by)
        return torch.cat((sum(kernels).flatten(1), sum(biases)[:, None]), dim=1)  # type: ignore[union-attr, index]

    return (
        Compute(
            tuple(f"{name}.{branch}.{part}" for branch in ("conv1", "conv2") for part in parts),
            f"{name}.both",
            (size, 9 * size + 1),
            whole,
        ),
        Split(f"{name}.both", (f"{name}.kernels", f"{made}.bias"), axis=1, shares=(9 * size, 1)),
        Flatten(f"{made}.bias"),
        Compute((f"{name}.kernels",), f"{made}.weight", (size, size, 3, 3), lambda rows: rows.view(size, size, 3, 3)),
    )


class _Fusion(nn.Module):
    """Two maps of one size [B, H, R, C] -> one. Half of what is made of both goes past the convolutions in the middle.
    https://arxiv.org/abs/1911.11929"""

    def __init__(self, mixing: Mixing) -> None:
        super().__init__()
        size, inner = mixing.size, mixing.inner
        self.conv1, self.conv2 = (mixing.convolution(2 * size, inner) for _ in range(2))
        self.bottlenecks = nn.Sequential(*(_Branches(mixing) for _ in range(3)))
        self.conv3 = mixing.convolution(inner, size) if inner != size else nn.Identity()

    def forward(self, one: Tensor, other: Tensor) -> Tensor:
        x = torch.cat((one, other), dim=1)
        return self.conv3(self.bottlenecks(self.conv1(x)) + self.conv2(x))


def _doubled(x: Tensor, like: Tensor) -> Tensor:
    """Each place as two by two, at the size of another map."""
    for axis in (2, 3):
        place = torch.arange(like.shape[axis], device=x.device).to(torch.float32)
        x = x.index_select(axis, (place * 0.5).to(torch.int64))
    return x


class MapEncoder(nn.Module):
    """Attention among the places of one map, [B, H, R, C] -> [B, H, R, C]; ``places`` makes positions [R, C, H]."""

    def __init__(self, places: nn.Module, layers: Iterable[EncoderLayer]) -> None:
        super().__init__()
        self.places, self.layers = places, nn.ModuleList(layers)

    def forward(self, grid: Tensor) -> Tensor:
        rows, columns = grid.shape[2:]
        x, places = rows_of(grid), self.places(rows, columns).view(1, rows * columns, -1)
        for layer in self.layers:
            x = layer(x, places, None)
        return x.transpose(1, 2).clone(memory_format=torch.contiguous_format).view(grid.shape)


class HybridEncoder(nn.Module):
    """``count`` maps, each half the size of the one before it, mixed.

    Args:
        within: by the number of a map what goes over it first.
    """

    def __init__(self, mixing: Mixing, count: int, within: Mapping[int, nn.Module]) -> None:
        super().__init__()
        size, steps = mixing.size, range(count - 1)
        self.numbers, self.aifi = tuple(within), nn.ModuleList(within.values())
        self.lateral_convs = nn.ModuleList(mixing.convolution(size, size) for _ in steps)
        self.downsample_convs = nn.ModuleList(mixing.convolution(size, size, 3, 2) for _ in steps)
        self.fpn_blocks, self.pan_blocks = (nn.ModuleList(_Fusion(mixing) for _ in steps) for _ in range(2))

    def forward(self, grids: Sequence[Tensor]) -> list[Tensor]:
        maps = list(grids)
        for number, encoder in zip(self.numbers, self.aifi, strict=True):
            maps[number] = encoder(maps[number])
        x, up = maps[-1], []
        for lateral, fusion, grid in zip(self.lateral_convs, self.fpn_blocks, maps[-2::-1], strict=True):
            up.append(lateral(x))
            x = fusion(_doubled(up[-1], grid), grid)
        made = [x]
        for smaller, fusion, grid in zip(self.downsample_convs, self.pan_blocks, up[::-1], strict=True):
            made.append(fusion(smaller(made[-1]), grid))
        return made
