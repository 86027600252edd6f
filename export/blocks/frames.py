"""Rows of frames, and the convolutions that make them of samples and run along them: [B, F, C]."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import reduce

import torch
from torch import Tensor, nn

from precast.export.blocks.activations import Activation
from precast.export.blocks.norms import LayerNorm
from precast.export.operators import convolution
from precast.runtime.ports import Dim, Port

__all__ = ["ChannelNorm", "ConvolvedPositions", "FrameLayer", "Frames", "PaddedConvolution", "Shorten", "gated"]


class PaddedConvolution(nn.Conv1d):
    """A convolution with zeros at both ends of the rows, [B, C, F] -> [B, D, F'].

    Args:
        pads: how many; None: so many that a stride of 1 keeps the length, of an even kernel the odd one in front.
    """

    def __init__(
        self,
        channels: int,
        out: int,
        kernel: int,
        *,
        stride: int = 1,
        dilation: int = 1,
        groups: int = 1,
        pads: tuple[int, int] | None = None,
        bias: bool = True,
    ) -> None:
        super().__init__(channels, out, kernel, stride, dilation=dilation, groups=groups, bias=bias)
        self.pads = (kernel // 2, (kernel - 1) // 2) if pads is None else pads

    def forward(self, x: Tensor) -> Tensor:
        # Not torch's own: how it lays out one frame is not how it lays out several, and a trace would be of several.
        steps, gaps = (tuple(map(int, pair)) for pair in (self.stride, self.dilation))
        return convolution(x, self.weight, self.bias, strides=steps, pads=self.pads, dilations=gaps, groups=self.groups)


class ChannelNorm(LayerNorm):
    """Layer normalisation over the channels of each frame, [B, C, F] -> [B, C, F]."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.transpose(1, 2)).transpose(1, 2)


class FrameLayer(nn.Module):
    """act(norm(convolution(x))), [B, C, S] -> [B, D, S'], without padding.

    Args:
        norm: of the D channels, or None.
    """

    def __init__(
        self, channels: int, out: int, kernel: int, stride: int, *, bias: bool, norm: nn.Module | None, act: Activation
    ) -> None:
        super().__init__()
        self.kernel, self.stride, self.act = kernel, stride, act
        self.conv = nn.Conv1d(channels, out, kernel, stride, bias=bias)
        self.norm = norm

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return self.act(x if self.norm is None else self.norm(x))


class Frames(nn.Module):
    """Samples [B, S] -> frames [B, F, C], by convolutions one after the other. https://arxiv.org/abs/1904.05862

    A frame is made of ``reach`` samples, the next one of those ``stride`` further on.
    """

    def __init__(self, layers: Iterable[FrameLayer]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.reach = self.stride = 1
        for layer in self.layers:
            assert isinstance(layer, FrameLayer)
            self.reach += (layer.kernel - 1) * self.stride
            self.stride *= layer.stride

    def ports(self) -> tuple[Port, ...]:
        """A recording, and which of its samples are real."""
        shape = ("batch", "samples")
        return (
            Port("input_values", "float32", shape, "waveform"),
            Port("attention_mask", "int64", shape, "sample_mask", default=1),
        )

    def bounds(self) -> Mapping[str, Dim]:
        return {"samples": Dim(self.samples(1))}

    def samples(self, frames: int) -> int:
        """How many of them make so many frames."""
        return self.reach + (frames - 1) * self.stride

    def forward(self, samples: Tensor) -> Tensor:
        return rows(reduce(lambda x, layer: layer(x), self.layers, samples.unsqueeze(1)))

    def real(self, mask: Tensor, frames: int) -> Tensor:
        """Which of so many frames are made of real samples alone, [B, F] of a mask of samples [B, S] whose padding is
        at the right."""
        ends = self.reach + self.stride * torch.arange(frames, device=mask.device)
        return (ends <= mask.sum(-1, keepdim=True)).to(mask.dtype)


class ConvolvedPositions(nn.Module):
    """act(conv(norm(x))): where a frame stands, as its neighbours tell, [B, F, H] -> [B, F, H].

    Args:
        norm: of the channels in front of the convolution [B, H, F], or None. after: of what it made, or None.
    """

    def __init__(
        self,
        size: int,
        kernel: int,
        groups: int,
        act: Activation,
        norm: nn.Module | None = None,
        after: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.act, self.norm, self.after = act, norm, after
        self.conv = PaddedConvolution(size, size, kernel, groups=groups)

    def forward(self, x: Tensor) -> Tensor:
        x = x.transpose(1, 2)
        x = self.conv(x if self.norm is None else self.norm(x)).transpose(1, 2)
        return self.act(x if self.after is None else self.after(x))


class Shorten(nn.Module):
    """Fewer frames: convolutions whose output gates itself, each with one zero at both ends, behind a projection and a
    norm of it where the size changes; [B, F, H] -> [B, F', D].

    Args:
        layers: of the convolutions.
    """

    def __init__(self, size: int, out: int, *, kernel: int, stride: int, layers: int) -> None:
        super().__init__()
        self.kernel, self.stride = kernel, stride
        self.proj = None if size == out else nn.Linear(size, out)
        self.norm = None if size == out else LayerNorm(out, 1e-5)
        self.layers = nn.ModuleList(
            PaddedConvolution(out, 2 * out, kernel, stride=stride, pads=(1, 1)) for _ in range(layers)
        )

    def frames(self, count: int) -> int:
        """How many of them make so many."""
        for _ in self.layers:
            count = max(1, (count - 1) * self.stride + self.kernel - 2)
        return count

    def real(self, mask: Tensor) -> Tensor:
        """Which frames are real, [B, F'], of those that go in, [B, F]."""
        return reduce(lambda mask, _: mask[:, :: self.stride], self.layers, mask)

    def forward(self, x: Tensor) -> Tensor:
        if self.proj is not None and self.norm is not None:
            x = self.norm(self.proj(x))
        return rows(reduce(lambda x, layer: gated(layer(x)), self.layers, x.transpose(1, 2)))


def rows(x: Tensor) -> Tensor:
    """Channels as rows of frames, [B, C, F] -> [B, F, C]; laid out anew, for of a view torch asks whether F is 1."""
    return x.transpose(1, 2).clone(memory_format=torch.contiguous_format)


def gated(x: Tensor) -> Tensor:
    """The first half of the channels, each times the sigmoid of its own of the second, [B, 2 * C, F] -> [B, C, F].
    https://arxiv.org/abs/1612.08083"""
    half = x.shape[1] // 2
    return x[:, :half] * torch.sigmoid(x[:, half:])
