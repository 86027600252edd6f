"""Upstream's feature extractor classes as steps that an artifact lists: each class is declared, an unknown one refused.

A new class is an entry of `KINDS`; one whose steps are not `precast.runtime.processors.audio_steps` needs new steps.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from precast.export.settings import switch, value_or
from precast.runtime.errors import UnsupportedModelError
from precast.runtime.fields import Fields, is_number
from precast.runtime.processors.audio import RATES
from precast.runtime.processors.audio_steps import (
    MOST_BINS,
    MOST_FFT,
    MOST_FRAMES,
    Centre,
    Channels,
    Fill,
    FilterBank,
    Frames,
    Length,
    LogBands,
    LogMel,
    MelDecibels,
    Normalise,
    Standardise,
    Step,
    are_norms,
)

__all__ = ["KINDS", "AudioKind", "rate_of"]

_MOST_SECONDS = 3600  # that a model hears at once
_WHISPER_HIGHEST = _CANDIDATES_HIGHEST = 8000.0  # Hz of their filters, whatever the rate


@dataclass(frozen=True, kw_only=True)
class AudioKind:
    """A class of upstream's.

    Args:
        models: ``model_type`` of checkpoints that name no class and get this one.
        steps: made of its settings and its sampling rate.
        port: the input it fills.
        rate: samples a second where its settings do not say it.
        masked: what ``return_attention_mask`` is by default; None: there is no mask of what it makes.
    """

    models: tuple[str, ...]
    steps: Callable[[Fields, int], tuple[Step, ...]]
    port: str = "input_values"
    rate: int = 16000
    masked: bool | None = None


def rate_of(fields: Fields, default: int = 16000) -> int:
    """Samples a second."""
    return _whole(fields, "sampling_rate", default, least=RATES[0], most=RATES[1])


def _waveform(fields: Fields, rate: int, standardised: bool = True) -> tuple[Step, ...]:
    _whole(fields, "feature_size", 1, most=1)
    return (Standardise(),) if switch(fields, "do_normalize", standardised) else ()


def _whisper(fields: Fields, rate: int) -> tuple[Step, ...]:
    _undithered(fields)
    seconds = _whole(fields, "chunk_length", 30, most=_MOST_SECONDS)
    spectrum = LogMel(
        bins=_whole(fields, "feature_size", 80, most=MOST_BINS),
        window=_whole(fields, "n_fft", 400, most=MOST_FFT),
        step=_whole(fields, "hop_length", 160, most=MOST_FFT),
        rate=rate,
        highest=_WHISPER_HIGHEST,
    )
    return Length(seconds * rate), spectrum


def _spectrogram(fields: Fields, rate: int) -> tuple[Step, ...]:
    bank = FilterBank(_whole(fields, "num_mel_bins", 128, most=MOST_BINS), "hann", 1.0, rate)
    frames = Frames(_whole(fields, "max_length", 1024, most=MOST_FRAMES))
    mean = value_or(fields, "mean", "a number", is_number, -4.2677393)
    deviation = value_or(fields, "std", "a number above 0", lambda v: is_number(v) and v > 0, 4.5689974)
    normal = (Normalise(float(mean), 2.0 * deviation),) if switch(fields, "do_normalize", True) else ()
    return (bank, frames, *normal)


def _clap(fields: Fields, rate: int) -> tuple[Step, ...]:
    """What upstream chooses by chance of long recordings is what is in the middle here."""
    samples = _whole(fields, "max_length_s", 10, most=_MOST_SECONDS) * rate
    bins, step = _whole(fields, "feature_size", 64, most=MOST_BINS), _whole(fields, "hop_length", 480, most=MOST_FFT)
    window = _whole(fields, "fft_window_size", 1024, most=MOST_FFT)
    lowest = value_or(fields, "frequency_min", "a number from 0 on", lambda v: is_number(v) and v >= 0, 0)
    rule = f"a number above frequency_min, {lowest}"
    highest = value_or(fields, "frequency_max", rule, lambda v: is_number(v) and v > lowest, 14000)
    fused = value_or(fields, "truncation", "fusion or rand_trunc", lambda v: v in ("fusion", "rand_trunc"), "fusion")
    how = value_or(
        fields, "padding", "repeatpad, repeat or pad", lambda v: v in ("repeatpad", "repeat", "pad"), "repeatpad"
    )
    if fused == "fusion" and bins != 64:
        raise UnsupportedModelError(f"its feature extractor shrinks spectrograms of 64 bins, and has {bins}")
    return (
        Fill(samples, how, middle=fused != "fusion"),
        MelDecibels(bins, window, step, rate, float(lowest), float(highest), "htk" if fused == "fusion" else "slaney"),
        Channels(samples // step + 1, fused == "fusion"),
    )


def _candidates(fields: Fields, rate: int) -> tuple[Step, ...]:
    seconds = _whole(fields, "default_audio_length", 6, most=_MOST_SECONDS)
    bins = _whole(fields, "feature_size", 80, most=MOST_BINS)
    rule = f"a list of {bins} numbers other than 0, or null"
    norms = value_or(fields, "mel_norms", rule, lambda v: are_norms(v, bins), [])
    window = _whole(fields, "n_fft", 1024, most=MOST_FFT)
    step = _whole(fields, "hop_length", 256, most=MOST_FFT)
    bands = LogBands(bins, window, step, rate, _CANDIDATES_HIGHEST, tuple(map(float, norms)))
    return Length(seconds * rate), bands


def _centred(fields: Fields, rate: int) -> tuple[Step, ...]:
    _undithered(fields)
    bank = FilterBank(_whole(fields, "num_mel_bins", 80, most=MOST_BINS), "povey", float(1 << 15), rate)
    means, deviations = (switch(fields, key, True) for key in ("normalize_means", "normalize_vars"))
    return (bank, Centre(means, deviations)) if switch(fields, "do_ceptral_normalize", True) else (bank,)


def _undithered(fields: Fields) -> None:
    if value_or(fields, "dither", "a number", is_number, 0) != 0:
        raise UnsupportedModelError("its feature extractor adds noise (dither), with which no two answers are the same")


def _whole(fields: Fields, key: str, default: int, *, least: int = 1, most: int) -> int:
    value: int = value_or(
        fields,
        key,
        f"an integer from {least} to {most}, or null",
        lambda v: type(v) is int and least <= v <= most,
        default,
    )
    return value


KINDS: Mapping[str, AudioKind] = {
    "Wav2Vec2FeatureExtractor": AudioKind(
        models=(
            "data2vec-audio",
            "hubert",
            "moonshine",
            "sew",
            "sew-d",
            "unispeech",
            "unispeech-sat",
            "wav2vec2",
            "wav2vec2-conformer",
            "wavlm",
        ),
        steps=_waveform,
        masked=False,
    ),
    "SpeechT5FeatureExtractor": AudioKind(
        models=("speecht5",), steps=partial(_waveform, standardised=False), masked=True
    ),
    "WhisperFeatureExtractor": AudioKind(models=("whisper",), steps=_whisper, port="input_features"),
    "ClapFeatureExtractor": AudioKind(models=("clap",), steps=_clap, port="input_features", rate=48000),
    "ClvpFeatureExtractor": AudioKind(models=("clvp",), steps=_candidates, port="input_features", rate=22050),
    "ASTFeatureExtractor": AudioKind(models=("audio-spectrogram-transformer",), steps=_spectrogram),
    "Speech2TextFeatureExtractor": AudioKind(
        models=("speech_to_text",), steps=_centred, port="input_features", masked=True
    ),
}
