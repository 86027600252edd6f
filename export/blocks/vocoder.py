"""From a spectrogram to a waveform: HiFi-GAN's generator. https://arxiv.org/abs/2010.05646"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from precast.export.spec import Spec as Base
from precast.export.spec import hf
from precast.runtime.errors import ConfigError

__all__ = ["Generator", "GeneratorSpec", "same"]


def same(channels: int, out: int, kernel: int, *, dilation: int = 1, groups: int = 1, bias: bool = True) -> nn.Conv1d:
    """A convolution [B, C, T] -> [B, D, T] of an odd kernel."""
    return nn.Conv1d(
        channels, out, kernel, padding=dilation * (kernel // 2), dilation=dilation, groups=groups, bias=bias
    )


def _numbers(value: Any) -> tuple[int, ...]:
    if not value or any(type(one) is not int or one < 1 for one in value):
        raise ValueError("it is a list of numbers, 1 or more")
    return tuple(value)


def _tables(value: Any) -> tuple[tuple[int, ...], ...]:
    return tuple(map(_numbers, value))


@dataclass(frozen=True, kw_only=True)
class GeneratorSpec(Base):
    """Sizes of the generator; defaults are those of its first version, as upstream's."""

    upsample_initial_channel: int = hf(default=512)
    upsample_rates: tuple[int, ...] = hf(default=(8, 8, 2, 2), read=_numbers)
    upsample_kernel_sizes: tuple[int, ...] = hf(default=(16, 16, 4, 4), read=_numbers)
    resblock_kernel_sizes: tuple[int, ...] = hf(default=(3, 7, 11), read=_numbers)
    resblock_dilation_sizes: tuple[tuple[int, ...], ...] = hf(default=((1, 3, 5),) * 3, read=_tables)
    leaky_relu_slope: float = hf(default=0.1)
    sampling_rate: int = hf(default=16000)

    def __post_init__(self) -> None:
        pairs = ("upsample_rates", "upsample_kernel_sizes"), ("resblock_kernel_sizes", "resblock_dilation_sizes")
        for one, other in pairs:
            counts = len(getattr(self, one)), len(getattr(self, other))
            if counts[0] != counts[1]:
                raise ConfigError(
                    f"{one!r} and {other!r} are lists of one length; received {counts[0]} and {counts[1]}"
                )
        if any(kernel % 2 == 0 for kernel in self.resblock_kernel_sizes):
            raise ConfigError(f"'resblock_kernel_sizes' are odd; received {list(self.resblock_kernel_sizes)}")
        grown = zip(self.upsample_rates, self.upsample_kernel_sizes, strict=True)
        if any(kernel < rate or (kernel - rate) % 2 for rate, kernel in grown):
            raise ConfigError(
                "'upsample_kernel_sizes' are as large as 'upsample_rates', or larger by an even number; received "
                f"{list(self.upsample_kernel_sizes)} and {list(self.upsample_rates)}"
            )

    @property
    def hop(self) -> int:
        """Samples that a frame becomes."""
        return math.prod(self.upsample_rates)


class _Residual(nn.Module):
    """Pairs of convolutions, each with its input added, [B, C, T] -> [B, C, T]."""

    def __init__(self, channels: int, kernel: int, dilations: tuple[int, ...], slope: float) -> None:
        super().__init__()
        self.slope = slope
        self.convs1 = nn.ModuleList(same(channels, channels, kernel, dilation=dilation) for dilation in dilations)
        self.convs2 = nn.ModuleList(same(channels, channels, kernel) for _ in dilations)

    def forward(self, x: Tensor) -> Tensor:
        for first, second in zip(self.convs1, self.convs2, strict=True):
            x = x + second(F.leaky_relu(first(F.leaky_relu(x, self.slope)), self.slope))
        return x


class Generator(nn.Module):
    """Frames [B, C, T] -> waveforms [B, T * hop], each number between -1 and 1.

    Args:
        channels: of a frame. bias: of the last convolution.
        voice: what makes of who speaks what is added in front of the first enlargement, [B, W, 1], or None.
    """

    def __init__(
        self, spec: GeneratorSpec, channels: int, *, bias: bool = True, voice: nn.Module | None = None
    ) -> None:
        super().__init__()
        width, self.slope = spec.upsample_initial_channel, spec.leaky_relu_slope
        self.kernels = len(spec.resblock_kernel_sizes)
        self.conv_pre = same(channels, width, 7)
        self.upsampler, self.resblocks = nn.ModuleList(), nn.ModuleList()
        for rate, kernel in zip(spec.upsample_rates, spec.upsample_kernel_sizes, strict=True):
            self.upsampler.append(nn.ConvTranspose1d(width, width // 2, kernel, rate, (kernel - rate) // 2))
            width //= 2
            for size, dilations in zip(spec.resblock_kernel_sizes, spec.resblock_dilation_sizes, strict=True):
                self.resblocks.append(_Residual(width, size, dilations, self.slope))
        self.conv_post = same(width, 1, 7, bias=bias)
        self.voice = voice

    def forward(self, x: Tensor, speaker: Tensor | None = None) -> Tensor:
        x = self.conv_pre(x)
        if self.voice is not None:
            x = x + self.voice(speaker)
        for number, enlarge in enumerate(self.upsampler):
            x = enlarge(F.leaky_relu(x, self.slope))
            blocks = self.resblocks[number * self.kernels : (number + 1) * self.kernels]
            made = blocks[0](x)
            for block in blocks[1:]:
                made = made + block(x)
            x = made / self.kernels
        return torch.tanh(self.conv_post(F.leaky_relu(x)))[:, 0]
