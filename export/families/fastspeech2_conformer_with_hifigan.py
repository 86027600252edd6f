"""FastSpeech 2 with the vocoder that makes sound of its spectrograms. https://arxiv.org/abs/2006.04558"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from precast.export import heads
from precast.export.blocks.vocoder import Vocoder, VocoderSpec, vocoder_names
from precast.export.components import Composite
from precast.export.families import Family, fastspeech2_conformer, speecht5_hifigan
from precast.export.spec import Spec as Base
from precast.export.spec import hf
from precast.export.weights import Rule, Within
from precast.runtime.errors import ConfigError

__all__ = ["FAMILY", "Spec"]

_INERT = frozenset({"model_type", "tie_word_embeddings"})


@dataclass(frozen=True, kw_only=True)
class Spec(Base):
    model: fastspeech2_conformer.Spec = hf(
        "model_config", default={}, spec=fastspeech2_conformer.Spec, inert=fastspeech2_conformer.INERT | _INERT
    )
    vocoder: VocoderSpec = hf("vocoder_config", default={}, spec=VocoderSpec, inert=_INERT)

    def __post_init__(self) -> None:
        bins = self.model.num_mel_bins, self.vocoder.model_in_dim
        if bins[0] != bins[1]:
            raise ConfigError(
                "'num_mel_bins' of model_config and 'model_in_dim' of vocoder_config are one number; received "
                f"{bins[0]} and {bins[1]}"
            )


def _compose(spec: Spec, absent: frozenset[str]) -> nn.Module:
    text = fastspeech2_conformer.Text(spec.model)
    return Composite({"text": text, "speech": fastspeech2_conformer.Speech(spec.model, Vocoder(spec.vocoder))})


def _weights(spec: Spec) -> tuple[Rule, ...]:
    return (
        Within("model.", fastspeech2_conformer.NAMES, to=""),
        Within("vocoder.", vocoder_names(spec.vocoder), to="speech.vocoder."),
    )


FAMILY = Family(
    spec=Spec,
    heads={heads.TEXT_TO_WAVEFORM: _compose},
    weights=_weights,
    inert=_INERT,
    tiny={"model_config": fastspeech2_conformer.FAMILY.tiny, "vocoder_config": speecht5_hifigan.FAMILY.tiny},
)
