"""What convolutional backbones are made of: maps of features [B, C, H, W]."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from precast.export.blocks.activations import Activation
from precast.export.blocks.norms import LayerNorm
from precast.export.operators import convolution
from precast.export.weights import Compute, Flatten, Ignore, Rule, Split

__all__ = [
    "COUNTERS",
    "BatchNorm",
    "ConvNorm",
    "Convolution",
    "Enlarge",
    "GroupNorm",
    "MapNorm",
    "SqueezeExcite",
    "enlarging",
    "pooled",
]

# How many batches a norm has seen in training: no number that a call needs.
COUNTERS = Ignore("*num_batches_tracked")


class BatchNorm(nn.Module):
    """Normalisation by the mean and variance of the training data, [B, C, ...] -> [B, C, ...].
    https://arxiv.org/abs/1502.03167"""

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.empty(channels))
        self.bias = nn.Parameter(torch.empty(channels))
        self.running_mean = nn.Parameter(torch.empty(channels))
        self.running_var = nn.Parameter(torch.empty(channels))

    def forward(self, x: Tensor) -> Tensor:
        return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)


class Enlarge(nn.Module):
    """Each place of a map becomes ``factor`` x ``factor`` ones: a transposed convolution without overlaps."""

    def __init__(self, channels: int, factor: int) -> None:
        super().__init__()
        self.factor = factor
        self.convolution = nn.Conv2d(channels, channels * factor**2, 1)

    def forward(self, x: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        factor = self.factor
        x = self.convolution(x).view(batch, channels, factor, factor, height, width).permute(0, 1, 4, 2, 5, 3)
        x = x.clone(memory_format=torch.contiguous_format)
        return x.view(batch, channels, height * factor, width * factor)


class GroupNorm(nn.Module):
    """act(normalisation over the picture and each group of channels), [B, C, H, W] -> [B, C, H, W].
    https://arxiv.org/abs/1803.08494"""

    def __init__(self, channels: int, groups: int = 1, eps: float = 1e-5, act: Activation | None = None) -> None:
        super().__init__()
        self.groups, self.eps, self.act = groups, eps, act
        self.weight = nn.Parameter(torch.empty(channels))
        self.bias = nn.Parameter(torch.empty(channels))

    def forward(self, x: Tensor) -> Tensor:
        # Not torch's function around it, which asks how many numbers a group has: sizes are not known in a trace.
        x = torch.group_norm(x, self.groups, self.weight, self.bias, self.eps, True)
        return x if self.act is None else self.act(x)


class Convolution(nn.Conv2d):
    """A convolution, [B, C, H, W] -> [B, D, H', W'].

    Args:
        padding: around the picture; None: so much that a stride of 1 keeps its size, the odd one at the bottom and
            right. Else of its top, left, bottom and right; or nothing, ``()``, for so much that a side becomes
            ceil(side / stride), whatever it is: TensorFlow's SAME.
    """

    def __init__(
        self,
        channels: int,
        out: int,
        kernel: int = 1,
        *,
        stride: int = 1,
        groups: int = 1,
        dilation: int = 1,
        padding: int | tuple[int, ...] | None = None,
        bias: bool = True,
    ) -> None:
        if padding is None:
            before, after = dilation * (kernel - 1) // 2, dilation * (kernel - 1) - dilation * (kernel - 1) // 2
            padding = before if before == after else (before, before, after, after)
        elif padding == () and stride == 1 and kernel % 2:
            padding = dilation * (kernel // 2)  # which that is
        self.pads = padding if isinstance(padding, tuple) else None
        around = padding if isinstance(padding, int) else 0
        super().__init__(channels, out, kernel, stride, around, dilation, groups, bias)

    def forward(self, x: Tensor) -> Tensor:
        if self.pads is None:
            return super().forward(x)
        strides, gaps = (tuple(map(int, pair)) for pair in (self.stride, self.dilation))
        return convolution(
            x, self.weight, self.bias, strides=strides, pads=self.pads, dilations=gaps, groups=self.groups
        )


class ConvNorm(nn.Module):
    """act(norm(convolution(x))), [B, C, H, W] -> [B, D, H', W'].

    Args:
        padding: see `Convolution`. act: None: there is none.
    """

    def __init__(
        self,
        channels: int,
        out: int,
        kernel: int = 1,
        *,
        stride: int = 1,
        groups: int = 1,
        dilation: int = 1,
        padding: int | tuple[int, ...] | None = None,
        bias: bool = False,
        eps: float = 1e-5,
        act: Activation | None = None,
    ) -> None:
        super().__init__()
        self.convolution = Convolution(
            channels, out, kernel, stride=stride, padding=padding, dilation=dilation, groups=groups, bias=bias
        )
        self.norm = BatchNorm(out, eps)
        self.act = act

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.convolution(x))
        return x if self.act is None else self.act(x)


class SqueezeExcite(nn.Module):
    """Channels weighed by what the whole picture is like: x * gate(expand(act(reduce(mean(x))))).
    https://arxiv.org/abs/1709.01507"""

    def __init__(self, channels: int, reduced: int, act: Activation, gate: Activation = torch.sigmoid) -> None:
        super().__init__()
        self.act, self.gate = act, gate
        self.reduce = nn.Conv2d(channels, reduced, 1)
        self.expand = nn.Conv2d(reduced, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gate(self.expand(self.act(self.reduce(pooled(x)))))


class MapNorm(LayerNorm):
    """Layer normalisation over the channels of each place, [B, C, H, W] -> [B, C, H, W]."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def pooled(x: Tensor) -> Tensor:
    """The mean of every channel over the picture, [B, C, H, W] -> [B, C, 1, 1]."""
    return x.mean((2, 3), keepdim=True)


def enlarging(name: str, channels: int, factor: int, norm: str | None = None, eps: float = 1e-5) -> tuple[Rule, ...]:
    """Of a transposed convolution, [C, D, f, f] of as many channels, the kernels [D * f * f, C, 1, 1] of `Enlarge`.

    Args:
        name: of both, without ``.weight``. norm: that of a batch norm behind it, which goes into the kernels.
    """
    parts = () if norm is None else [f"{norm}.{part}" for part in ("weight", "bias", "running_mean", "running_var")]

    def kernels(weight: Tensor, bias: Tensor, *statistics: Tensor) -> Tensor:
        weight = weight.permute(1, 2, 3, 0)
        if statistics:
            scale, shift, mean, variance = statistics
            by = scale / torch.sqrt(variance + eps)
            weight, bias = weight * by[:, None, None, None], (bias - mean) * by + shift
        every = torch.cat((weight, bias[:, None, None, None].expand(-1, factor, factor, 1)), dim=3)
        return every.reshape(channels * factor**2, channels + 1, 1, 1)

    made, new = f"{name}.kernels", f"{name}.convolution"
    return (
        Compute((f"{name}.weight", f"{name}.bias", *parts), made, (channels * factor**2, channels + 1, 1, 1), kernels),
        Split(made, (f"{new}.weight", f"{new}.bias"), axis=1, shares=(channels, 1)),
        Flatten(f"{new}.bias"),
    )
