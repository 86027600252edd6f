"""Codecs: components that make codes of a recording, and a recording of codes. https://arxiv.org/abs/2107.03312"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from precast.export.operators import nearest
from precast.export.signatures import Component
from precast.export.skeletons.seanet import shortest
from precast.runtime.catalogue import CATALOGUE
from precast.runtime.ports import Dim, Out, Port

__all__ = ["Codebooks", "Decoder", "Encoder"]

# Frames of the longest recordings that parity tries, each of which waits for the one before it; and what it counts
# samples in.
_FRAMES, _STEP = 64, 160


class Codebooks(nn.Module):
    """Tables [Q, K, D], each of what the ones before it leave of a vector."""

    def __init__(self, count: int, codes: int, size: int) -> None:
        super().__init__()
        self.tables = nn.Parameter(torch.empty(count, codes, size))

    def encoded(self, x: Tensor) -> Tensor:
        """Of vectors [B, D, F] the nearest row of each table, [B, Q, F]."""
        rest, codes = x.transpose(1, 2), []
        for number in range(self.tables.shape[0]):
            found, rest = nearest(rest, self.tables[number])
            codes.append(found)
        return torch.stack(codes, dim=1)

    def decoded(self, codes: Tensor) -> Tensor:
        """The sum of the rows [B, Q, F] of the first tables, [B, D, F]."""
        _, count, size = self.tables.shape
        places = torch.arange(codes.shape[1], device=codes.device)[:, None] * count
        return F.embedding(codes + places, self.tables.view(-1, size)).sum(dim=1).transpose(1, 2)


class Encoder(Component):
    """Recordings [B, C, S] of which some samples are real [B, S] -> {"audio_codes": [B, Q, F], "audio_scales": [B, 1]};
    the latter, how loud they are, where they are made equally loud.

    Args:
        layers: samples to vectors of frames. hop: samples of a frame. most: of a recording; None: any number.
    """

    def __init__(
        self, layers: nn.Sequential, codebooks: Codebooks, *, channels: int, hop: int, most: int | None, scaled: bool
    ) -> None:
        super().__init__()
        self.layers, self.codebooks, self.channels, self.scaled = layers, codebooks, channels, scaled
        self.samples, self.hop = Dim((shortest(layers, hop) - 1) * hop + 1, most), hop

    def ports(self) -> tuple[Port, ...]:
        return (
            Port("input_values", "float32", ("batch", self.channels, "samples"), "waveform"),
            Port("padding_mask", "int64", ("batch", "samples"), "sample_mask", default=1),
        )

    def outs(self) -> tuple[Out, ...]:
        codes = Out("audio_codes", ("batch", self.codebooks.tables.shape[0], "frames"), "codes", dtype="int64")
        return codes, *((Out("audio_scales", ("batch", 1), "features"),) if self.scaled else ())

    def bounds(self) -> dict[str, Dim]:
        return {"samples": self.samples}

    def largest(self) -> int:
        return max(8, _FRAMES * self.hop // _STEP)

    def forward(self, input_values: Tensor, padding_mask: Tensor) -> dict[str, Tensor]:
        x = input_values * padding_mask[:, None].to(input_values.dtype)
        if not self.scaled:
            return {"audio_codes": self.codebooks.encoded(self.layers(x))}
        mono = x.sum(dim=1) / self.channels
        scales = torch.sqrt((mono * mono).mean(dim=-1, keepdim=True)) + 1e-8
        return {"audio_codes": self.codebooks.encoded(self.layers(x / scales[:, None])), "audio_scales": scales}


class Decoder(Component):
    """Codes of the first codebooks [B, Q, F], and how loud their recordings are [B, 1] -> {"audio_values": [B, C, S]},
    all samples of all frames.

    Args:
        layers: vectors of frames to samples.
    """

    def __init__(self, layers: nn.Sequential, codebooks: Codebooks, *, channels: int, scaled: bool) -> None:
        super().__init__()
        self.layers, self.codebooks, self.channels, self.scaled = layers, codebooks, channels, scaled
        self.frames = Dim(shortest(layers))

    def ports(self) -> tuple[Port, ...]:
        count, codes, _ = self.codebooks.tables.shape
        shape = ("batch", "quantizers" if count > 1 else 1, "frames")
        scales = Port("audio_scales", "float32", ("batch", 1), "features", source="encoder")
        own = Port("audio_codes", "int64", shape, "codes", below=codes, source="encoder")
        return own, *((scales,) if self.scaled else ())

    def outs(self) -> tuple[Out, ...]:
        [values] = CATALOGUE["audio-tokenization"].outs
        return (values._replace(shape=("batch", self.channels, "decoded")),)

    def largest(self) -> int:
        return _FRAMES

    def bounds(self) -> dict[str, Dim]:
        return {"frames": self.frames, "quantizers": Dim(most=self.codebooks.tables.shape[0])}

    def forward(self, audio_codes: Tensor, audio_scales: Tensor | None = None) -> dict[str, Tensor]:
        made = self.layers(self.codebooks.decoded(audio_codes))
        return {"audio_values": made if audio_scales is None else made * audio_scales[:, None]}
