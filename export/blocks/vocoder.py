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
from precast.export.weights import Ignore, Rename, Rule, Unsqueeze, WeightNorm
from precast.runtime.errors import ConfigError

__all__ = [
    "GENERATOR_NAMES",
    "Generator",
    "GeneratorSpec",
    "Vocoder",
    "VocoderSpec",
    "counts",
    "same",
    "vocoder_names",
]


def same(channels: int, out: int, kernel: int, *, dilation: int = 1, groups: int = 1, bias: bool = True) -> nn.Conv1d:
    """A convolution [B, C, T] -> [B, D, T] of an odd kernel."""
    return nn.Conv1d(
        channels, out, kernel, padding=dilation * (kernel // 2), dilation=dilation, groups=groups, bias=bias
    )


def _row(channels: int, out: int, kernel: int, *, dilation: int = 1, bias: bool = True) -> nn.Conv2d:
    """The same of maps of one row, [B, C, 1, T] -> [B, D, 1, T]: for these ONNX Runtime has the faster kernels."""
    return nn.Conv2d(
        channels, out, (1, kernel), padding=(0, dilation * (kernel // 2)), dilation=(1, dilation), bias=bias
    )


def counts(value: Any) -> tuple[int, ...]:
    """What a list of config.json says, each 1 or more."""
    if not value or any(type(one) is not int or one < 1 for one in value):
        raise ValueError("it is a list of numbers, 1 or more")
    return tuple(value)


def _tables(value: Any) -> tuple[tuple[int, ...], ...]:
    return tuple(map(counts, value))


@dataclass(frozen=True, kw_only=True)
class GeneratorSpec(Base):
    """Sizes of the generator; defaults are those of its first version, as upstream's."""

    upsample_initial_channel: int = hf(default=512)
    upsample_rates: tuple[int, ...] = hf(default=(8, 8, 2, 2), read=counts)
    upsample_kernel_sizes: tuple[int, ...] = hf(default=(16, 16, 4, 4), read=counts)
    resblock_kernel_sizes: tuple[int, ...] = hf(default=(3, 7, 11), read=counts)
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
    """Pairs of convolutions, each with its input added, [B, C, 1, T] -> [B, C, 1, T]."""

    def __init__(self, channels: int, kernel: int, dilations: tuple[int, ...], slope: float) -> None:
        super().__init__()
        self.slope = slope
        self.convs1 = nn.ModuleList(_row(channels, channels, kernel, dilation=dilation) for dilation in dilations)
        self.convs2 = nn.ModuleList(_row(channels, channels, kernel) for _ in dilations)

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
        self.conv_pre = _row(channels, width, 7)
        self.upsampler, self.resblocks = nn.ModuleList(), nn.ModuleList()
        for rate, kernel in zip(spec.upsample_rates, spec.upsample_kernel_sizes, strict=True):
            pads = (0, (kernel - rate) // 2)
            self.upsampler.append(nn.ConvTranspose2d(width, width // 2, (1, kernel), (1, rate), pads))
            width //= 2
            for size, dilations in zip(spec.resblock_kernel_sizes, spec.resblock_dilation_sizes, strict=True):
                self.resblocks.append(_Residual(width, size, dilations, self.slope))
        self.conv_post = _row(width, 1, 7, bias=bias)
        self.voice = voice

    def forward(self, x: Tensor, speaker: Tensor | None = None) -> Tensor:
        x = self.conv_pre(x[:, :, None])
        if self.voice is not None:
            x = x + self.voice(speaker)[..., None]
        for number, enlarge in enumerate(self.upsampler):
            x = enlarge(F.leaky_relu(x, self.slope))
            blocks = self.resblocks[number * self.kernels : (number + 1) * self.kernels]
            made = blocks[0](x)
            for block in blocks[1:]:
                made = made + block(x)
            x = made / self.kernels
        return torch.tanh(self.conv_post(F.leaky_relu(x)))[:, 0, 0]


@dataclass(frozen=True, kw_only=True)
class VocoderSpec(GeneratorSpec):
    """Of one that stands for itself."""

    model_in_dim: int = hf(default=80)
    normalize_before: bool = hf(default=True)


class Vocoder(nn.Module):
    """Spectrograms [B, T, C] -> waveforms [B, T * hop]."""

    def __init__(self, spec: VocoderSpec) -> None:
        super().__init__()
        self.generator = Generator(spec, spec.model_in_dim)
        self.mean, self.scale = (
            nn.Parameter(torch.empty(spec.model_in_dim)) if spec.normalize_before else None for _ in range(2)
        )

    def forward(self, spectrogram: Tensor) -> Tensor:
        if self.mean is not None and self.scale is not None:
            spectrogram = (spectrogram - self.mean) / self.scale
        return self.generator(spectrogram.transpose(1, 2))


# Behind its prefix: kernels of rows are those of maps.
GENERATOR_NAMES: tuple[Rule, ...] = (
    WeightNorm("*"),
    *(Unsqueeze(f"{name}.weight", 1, axis=2) for name in ("conv_*", "upsampler.{}", "resblocks.*")),
)


def vocoder_names(spec: VocoderSpec) -> tuple[Rule, ...]:
    """Behind its prefix, too."""
    kept = () if spec.normalize_before else (Ignore("mean"), Ignore("scale"))
    return (
        *kept,
        *GENERATOR_NAMES,
        *(Rename(f"{name}*", f"generator.{name}*") for name in ("conv_pre.", "conv_post.", "upsampler.", "resblocks.")),
    )
