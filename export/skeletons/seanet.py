"""SEANet: convolutions along the samples of a recording, down to frames and up again. https://arxiv.org/abs/2009.02095"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from precast.export.operators import lstm, reflected

__all__ = ["Memory", "Mirrored", "RowNorm", "Trimmed", "down", "shortest", "up"]


class RowNorm(nn.Module):
    """Normalisation over all of a recording, [B, C, T] -> [B, C, T]. https://arxiv.org/abs/1803.08494"""

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.empty(channels))
        self.bias = nn.Parameter(torch.empty(channels))

    def forward(self, x: Tensor) -> Tensor:
        return torch.group_norm(x, 1, self.weight, self.bias, self.eps, True)


class Mirrored(nn.Conv1d):
    """norm(convolution(x)), [B, C, T] -> [B, D, ceil(T / stride)], of what goes on as in a mirror at both ends.

    Args:
        causal: nothing is seen of what is behind; else as much as of what is in front.
        norm: of the D channels, or None.
    """

    def __init__(
        self,
        channels: int,
        out: int,
        kernel: int,
        *,
        stride: int = 1,
        dilation: int = 1,
        causal: bool = True,
        norm: nn.Module | None = None,
    ) -> None:
        super().__init__(channels, out, kernel, stride, dilation=dilation)
        around = (kernel - 1) * dilation + 1 - stride
        assert around >= 0, "a stride leaves samples out"
        self.after = 0 if causal else around // 2
        self.before, self.step, self.norm = around - self.after, stride, norm

    @property
    def reach(self) -> int:
        """What is mirrored has to be longer than this."""
        return max(self.before, self.after + self.step - 1)

    def forward(self, x: Tensor) -> Tensor:
        x = super().forward(reflected(x, self.before, self.after, self.step) if self.reach else x)
        return x if self.norm is None else self.norm(x)


class Trimmed(nn.Module):
    """norm(transposed convolution(x)), [B, C, T] -> [B, D, T * stride], cut at both ends.

    Args:
        right: how much is cut at the right. norm: of the D channels, or None.
    """

    def __init__(
        self, channels: int, out: int, kernel: int, *, stride: int, right: int, norm: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.empty(channels, out, kernel)), nn.Parameter(torch.empty(out))
        self.left, self.right, self.step, self.norm = kernel - stride - right, right, stride, norm
        assert min(self.left, self.right) >= 0, "more is cut than there is"

    def forward(self, x: Tensor) -> Tensor:
        x = F.conv_transpose1d(x, self.weight, self.bias, self.step)
        x = x if self.norm is None else self.norm(x)
        return x[..., self.left : x.shape[-1] - self.right]


class Memory(nn.Module):
    """x + what is remembered of it and of what was before, [B, C, T] -> [B, C, T]; layers are of
    `precast.export.operators.lstm`."""

    def __init__(self, size: int, layers: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(_Cell(size) for _ in range(layers))

    def forward(self, x: Tensor) -> Tensor:
        steps = states = x.permute(2, 0, 1)
        for layer in self.layers:
            states = layer(states)
        return (states + steps).permute(1, 2, 0)


class _Cell(nn.Module):
    def __init__(self, size: int) -> None:
        super().__init__()
        self.weight, self.recurrent = (nn.Parameter(torch.empty(1, 4 * size, size)) for _ in range(2))
        self.bias = nn.Parameter(torch.empty(1, 8 * size))

    def forward(self, x: Tensor) -> Tensor:
        return lstm(x, self.weight, self.recurrent, self.bias)


def _norm(spec: Any, size: int) -> nn.Module | None:
    return RowNorm(size) if spec.norm_type == "time_group_norm" else None


def _convolution(spec: Any, channels: int, out: int, kernel: int, stride: int = 1, dilation: int = 1) -> Mirrored:
    both = {"causal": spec.use_causal_conv, "norm": _norm(spec, out)}
    return Mirrored(channels, out, kernel, stride=stride, dilation=dilation, **both)


class _Block(nn.Module):
    """shortcut(x) + what convolutions make of it, [B, C, T] -> [B, C, T]."""

    def __init__(self, spec: Any, size: int, dilation: int) -> None:
        super().__init__()
        inner = size // spec.compress
        first = _convolution(spec, size, inner, spec.residual_kernel_size, dilation=dilation)
        self.block = nn.Sequential(nn.ELU(), first, nn.ELU(), _convolution(spec, inner, size, 1))
        self.shortcut = _convolution(spec, size, size, 1) if spec.use_conv_shortcut else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.shortcut(x) + self.block(x)


def _blocks(spec: Any, size: int) -> Iterator[nn.Module]:
    return (_Block(spec, size, spec.dilation_growth_rate**number) for number in range(spec.num_residual_layers))


def down(spec: Any) -> Iterator[nn.Module]:
    """Samples to frames, of a spec that names its sizes as EnCodec's; activations have a number too, as upstream
    counts."""
    size = spec.num_filters
    yield _convolution(spec, spec.audio_channels, size, spec.kernel_size)
    for ratio in reversed(spec.upsampling_ratios):
        yield from (*_blocks(spec, size), nn.ELU(), _convolution(spec, size, 2 * size, 2 * ratio, ratio))
        size *= 2
    yield from (Memory(size, spec.num_lstm_layers), nn.ELU())
    yield _convolution(spec, size, spec.hidden_size, spec.last_kernel_size)


def up(spec: Any) -> Iterator[nn.Module]:
    """Frames to samples, of such a spec."""
    size = spec.num_filters << len(spec.upsampling_ratios)
    yield _convolution(spec, spec.hidden_size, size, spec.kernel_size)
    yield Memory(size, spec.num_lstm_layers)
    for ratio in spec.upsampling_ratios:
        right = math.ceil(ratio * spec.trim_right_ratio) if spec.use_causal_conv else ratio // 2
        widened = Trimmed(size, size // 2, 2 * ratio, stride=ratio, right=right, norm=_norm(spec, size // 2))
        yield from (nn.ELU(), widened, *_blocks(spec, size // 2))
        size //= 2
    yield from (nn.ELU(), _convolution(spec, size, spec.audio_channels, spec.last_kernel_size))


def shortest(layers: nn.Sequential, steps: int = 1) -> int:
    """Frames that a recording has at least, for `Mirrored` layers in order to have something to mirror.

    Args:
        steps: of what goes into the first layer, in a frame.
    """
    least = 1
    for layer in layers.modules():
        if isinstance(layer, Mirrored):
            least = max(least, -(-layer.reach // steps) + 1)
            steps = max(1, steps // layer.step)
        elif isinstance(layer, Trimmed):
            steps *= layer.step
    return least
