"""EnCodec: a recording as rows of codes, and recordings of such. https://arxiv.org/abs/2210.13438

Two components: ``encoder`` makes codes of a recording, of every codebook, ``decoder`` a recording of codes of the first
ones, as many as a call gives. What comes in chunks (48 kHz) is a call a chunk."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from precast.export import heads
from precast.export.components import Composite
from precast.export.families import Family
from precast.export.skeletons.codec import Codebooks, Decoder, Encoder
from precast.export.skeletons.seanet import down, up
from precast.export.spec import Spec as PlainSpec
from precast.export.spec import hf
from precast.export.weights import Compute, Ignore, Rename, Rule, Stack, Tie, WeightNorm
from precast.runtime.errors import ConfigError

__all__ = ["FAMILY", "STATISTICS", "Spec", "layer_weights"]


@dataclass(frozen=True, kw_only=True)
class Spec(PlainSpec):
    """Defaults are those of EnCodec at 24 kHz."""

    target_bandwidths: tuple[float, ...] = hf(default=(1.5, 3.0, 6.0, 12.0, 24.0), read=tuple)
    sampling_rate: int = hf(default=24_000)
    audio_channels: int = hf(default=1)
    normalize: bool = hf(default=False)
    chunk_length_s: float | None = hf(default=None)
    hidden_size: int = hf(default=128)
    num_filters: int = hf(default=32)
    num_residual_layers: int = hf(default=1)
    upsampling_ratios: tuple[int, ...] = hf(default=(8, 5, 4, 2), read=tuple)
    norm_type: str = hf(default="weight_norm", only=("weight_norm", "time_group_norm"))
    kernel_size: int = hf(default=7)
    last_kernel_size: int = hf(default=7)
    residual_kernel_size: int = hf(default=3)
    dilation_growth_rate: int = hf(default=2)
    use_causal_conv: bool = hf(default=True)
    pad_mode: str = hf(default="reflect", only=("reflect",))
    compress: int = hf(default=2)
    num_lstm_layers: int = hf(default=2)
    trim_right_ratio: float = hf(default=1.0)
    codebook_size: int = hf(default=1024)
    codebook_dim: int | None = hf(default=None)
    use_conv_shortcut: bool = hf(default=True)

    def __post_init__(self) -> None:
        if self.codebook_dim not in (None, self.hidden_size):
            raise ConfigError(f"'codebook_dim' {self.codebook_dim} must be 'hidden_size' {self.hidden_size}")
        if not self.use_causal_conv and self.trim_right_ratio != 1:
            raise ConfigError("'trim_right_ratio' is 1 where 'use_causal_conv' is false")

    @property
    def hop(self) -> int:
        """Samples of a frame."""
        return math.prod(self.upsampling_ratios)

    @property
    def quantizers(self) -> int:
        """Codebooks: as many as the widest bandwidth has bits for."""
        bits = -(-self.sampling_rate // self.hop) * math.ceil(math.log2(self.codebook_size))
        return int(1000 * self.target_bandwidths[-1] // bits)


def _codec(spec: Spec, absent: frozenset[str]) -> nn.Module:
    said: dict[str, Any] = {"channels": spec.audio_channels, "scaled": spec.normalize}
    books = [Codebooks(spec.quantizers, spec.codebook_size, spec.hidden_size) for _ in range(2)]
    most = None if spec.chunk_length_s is None else int(spec.chunk_length_s * spec.sampling_rate)
    encoder = Encoder(nn.Sequential(*down(spec)), books[0], hop=spec.hop, most=most, **said)
    return Composite({"encoder": encoder, "decoder": Decoder(nn.Sequential(*up(spec)), books[1], **said)})


def _gates(weight: Tensor) -> Tensor:
    """Torch has the gate of the output last, ONNX second."""
    return weight.unflatten(0, (4, -1))[[0, 3, 1, 2]].flatten(0, 1)[None]


def layer_weights(spec: Spec) -> tuple[Rule, ...]:
    """Of layers on either side of the codes."""
    size = spec.num_filters << len(spec.upsampling_ratios)
    cells: list[Rule] = []
    for cell in range(spec.num_lstm_layers):
        for old, new in (("ih", "weight"), ("hh", "recurrent")):
            names = f"*.lstm.weight_{old}_l{cell}", f"*.layers.{cell}.{new}"
            cells.append(Compute(names[:1], names[1], (1, 4 * size, size), _gates))
        biases = f"*.lstm.bias_ih_l{cell}", f"*.lstm.bias_hh_l{cell}"
        cells.append(
            Compute(biases, f"*.layers.{cell}.bias", (1, 8 * size), lambda *both: torch.cat([*map(_gates, both)], 1))
        )
    return (
        WeightNorm("*.conv"),
        Rename("*.conv.*", "*.*"),
        *cells,
    )


# Of training.
STATISTICS = tuple(Ignore(f"quantizer.layers.{{}}.codebook.{name}") for name in ("cluster_size", "embed_avg", "inited"))


def _weights(spec: Spec) -> tuple[Rule, ...]:
    return (
        *layer_weights(spec),
        *STATISTICS,
        Stack("quantizer.layers.{}.codebook.embed", "encoder.codebooks.tables"),
        Tie("decoder.codebooks.tables", "encoder.codebooks.tables"),
    )


_TINY = {"hidden_size": 12, "num_filters": 3, "upsampling_ratios": [3, 2], "codebook_size": 16, "num_lstm_layers": 2}
_TINY |= {"sampling_rate": 600, "target_bandwidths": [0.4, 1.2], "kernel_size": 5, "last_kernel_size": 3}

FAMILY = Family(
    spec=Spec,
    heads={heads.AUDIO_TOKENIZATION: _codec},
    weights=_weights,
    inert=frozenset({"overlap"}),
    tiny=_TINY,
    variations=(
        # As at 48 kHz: two channels, equally loud, in chunks, of which both sides are seen.
        {"audio_channels": 2, "normalize": True, "chunk_length_s": 1.0, "overlap": 0.01, "use_causal_conv": False}
        | {"norm_type": "time_group_norm", "num_residual_layers": 2, "use_conv_shortcut": False, "num_filters": 4}
        | {"codebook_size": 32, "num_lstm_layers": 1, "residual_kernel_size": 4, "compress": 1},
        # One codebook; transposed convolutions cut at both ends.
        {"trim_right_ratio": 0.3, "dilation_growth_rate": 3, "num_residual_layers": 2, "target_bandwidths": [0.4]}
        | {"upsampling_ratios": [3], "sampling_rate": 300, "num_lstm_layers": 1},
    ),
)
