"""HiFi-GAN as a model of its own: a waveform of a spectrogram. https://arxiv.org/abs/2010.05646"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from precast.export import heads
from precast.export.blocks.vocoder import Vocoder, VocoderSpec, counts, vocoder_names
from precast.export.families import Family
from precast.export.signatures import Component
from precast.export.spec import hf
from precast.export.weights import Rename, Rule
from precast.runtime.catalogue import CATALOGUE
from precast.runtime.ports import Out, Port

__all__ = ["FAMILY", "Spec"]


@dataclass(frozen=True, kw_only=True)
class Spec(VocoderSpec):
    """Defaults are SpeechT5's, as upstream's."""

    upsample_rates: tuple[int, ...] = hf(default=(4, 4, 4, 4), read=counts)
    upsample_kernel_sizes: tuple[int, ...] = hf(default=(8, 8, 8, 8), read=counts)


class _Model(Component):
    """{"waveform": [B, T * hop]} of a spectrogram [B, T, C]."""

    def __init__(self, spec: VocoderSpec) -> None:
        super().__init__()
        self.vocoder, self.bins = Vocoder(spec), spec.model_in_dim

    def ports(self) -> tuple[Port, ...]:
        return (Port("spectrogram", "float32", ("batch", "spoken", self.bins), "features"),)

    def outs(self) -> tuple[Out, ...]:
        return CATALOGUE["vocoder"].outs

    def largest(self) -> int:
        return 128  # a second or two

    def forward(self, spectrogram: Tensor) -> dict[str, Tensor]:
        return {"waveform": self.vocoder(spectrogram)}


def _compose(spec: VocoderSpec, absent: frozenset[str]) -> nn.Module:
    return _Model(spec)


def _weights(spec: VocoderSpec) -> tuple[Rule, ...]:
    return (*vocoder_names(spec), Rename("*", "vocoder.*"))


_TINY: Mapping[str, Any] = {"model_in_dim": 9, "upsample_initial_channel": 16, "upsample_rates": [3, 2]}

FAMILY = Family(
    spec=Spec,
    heads={heads.VOCODER: _compose},
    weights=_weights,
    tiny={**_TINY, "upsample_kernel_sizes": [7, 4], "resblock_kernel_sizes": [3, 5]}
    | {"resblock_dilation_sizes": [[2], [1, 3]]},
    variations=(
        {"normalize_before": False, "model_in_dim": 7, "upsample_rates": [5], "upsample_kernel_sizes": [5]}
        | {"resblock_kernel_sizes": [3], "resblock_dilation_sizes": [[1]], "leaky_relu_slope": 0.2},
    ),
)
