"""Recordings as what models hear: each class of upstream's, files of each kind, other rates, and what is none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.recordings import encoded, recording
from support.tokenizer_samples import write_json
from transformers import (
    ASTFeatureExtractor,
    ClapFeatureExtractor,
    ClvpFeatureExtractor,
    Speech2TextFeatureExtractor,
    SpeechT5FeatureExtractor,
    Wav2Vec2FeatureExtractor,
    WhisperFeatureExtractor,
)

import precast
from precast.export.audio_kinds import KINDS
from precast.export.audio_reading import audio_reading
from precast.export.processor_files import FILES
from precast.runtime.errors import ArtifactError, ConfigError, InputError, UnsupportedModelError
from precast.runtime.processors import audio
from precast.runtime.processors.audio import FeatureExtractor, open_recording
from precast.runtime.processors.audio_resampling import resampled, resampled_blocks

RATE = 16000
UPSTREAM: dict[str, Any] = {
    "ASTFeatureExtractor": ASTFeatureExtractor,
    "ClvpFeatureExtractor": ClvpFeatureExtractor,
    "Speech2TextFeatureExtractor": Speech2TextFeatureExtractor,
    "SpeechT5FeatureExtractor": SpeechT5FeatureExtractor,
    "Wav2Vec2FeatureExtractor": Wav2Vec2FeatureExtractor,
    "WhisperFeatureExtractor": WhisperFeatureExtractor,
}


def ours(said: dict[str, Any], model_type: str = "wav2vec2") -> FeatureExtractor:
    """By way of the artifact's JSON, as a loaded model has it."""
    return FeatureExtractor.from_data(json.loads(json.dumps(audio_reading({FILES[1]: said}.get, model_type))))


SETTINGS: list[tuple[str, dict[str, Any]]] = [
    *[(name, {}) for name in UPSTREAM],
    ("Wav2Vec2FeatureExtractor", {"do_normalize": False, "return_attention_mask": True}),
    ("Wav2Vec2FeatureExtractor", {"return_attention_mask": True, "sampling_rate": 8000}),
    ("WhisperFeatureExtractor", {"feature_size": 128}),
    ("WhisperFeatureExtractor", {"chunk_length": 3, "feature_size": 17, "n_fft": 320, "hop_length": 110}),
    ("ASTFeatureExtractor", {"num_mel_bins": 33, "max_length": 70, "mean": 0.1, "std": 0.3}),
    ("ASTFeatureExtractor", {"do_normalize": False}),
    ("Speech2TextFeatureExtractor", {"num_mel_bins": 41, "feature_size": 41, "normalize_vars": False}),
    ("Speech2TextFeatureExtractor", {"do_ceptral_normalize": False}),
    ("SpeechT5FeatureExtractor", {"do_normalize": True}),
    ("ClvpFeatureExtractor", {"mel_norms": [1.5 - number / 100 for number in range(80)], "default_audio_length": 2}),
    ("ClvpFeatureExtractor", {"feature_size": 23, "n_fft": 512, "hop_length": 200, "sampling_rate": 16000}),
]


@pytest.mark.filterwarnings("ignore:At least one mel filter has all zero values")  # as released ones have
@pytest.mark.parametrize(("name", "said"), SETTINGS)
def test_features_are_upstreams(name: str, said: dict[str, Any]) -> None:
    """Within 1e-4, which is what upstream's own float32 leaves where it is 80 dB below the loudest."""
    theirs = UPSTREAM[name](**said)
    mine = ours({**theirs.to_dict(), "feature_extractor_type": name})
    assert mine.sampling_rate == theirs.sampling_rate
    for seed, samples in enumerate((401, 1840, 16001, 47321)):
        if samples == 401 and name.startswith("Speech2Text"):
            continue  # one frame has no deviation, as is tested below
        sound = recording(samples, seed, loud=0.99 if seed % 2 else 0.05)
        expected = theirs(sound, sampling_rate=theirs.sampling_rate, return_tensors="np")
        found = mine(sound, sampling_rate=theirs.sampling_rate)
        assert set(found) <= set(expected) <= {*found, "attention_mask"}
        for key, values in found.items():
            assert values.shape == expected[key].shape
            np.testing.assert_allclose(values, expected[key], rtol=0, atol=1e-4)
        assert found[mine.port].dtype == np.float32


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("Wav2Vec2FeatureExtractor", {"return_attention_mask": True}),
        ("Speech2TextFeatureExtractor", {}),
        ("WhisperFeatureExtractor", {}),
    ],
)
def test_a_batch_is_upstreams(name: str, said: dict[str, Any]) -> None:
    theirs = UPSTREAM[name](**said)
    mine = ours({**theirs.to_dict(), "feature_extractor_type": name})
    sounds = [recording(samples, samples) for samples in (5000, 16000, 9001)]
    padding = {} if name.startswith("Whisper") else {"padding": True}
    expected = theirs(sounds, sampling_rate=RATE, return_tensors="np", **padding)
    found = mine(sounds, sampling_rate=RATE)
    assert set(found) == set(expected)
    for key, values in found.items():
        np.testing.assert_allclose(values, expected[key], rtol=0, atol=1e-4)
    if mine.masked:
        with pytest.raises(InputError, match=r"have one length where padding=False; these differ"):
            mine(sounds, padding=False)


@pytest.mark.filterwarnings("ignore:At least one mel filter has all zero values")
@pytest.mark.parametrize("truncation", ["fusion", "rand_trunc"])
@pytest.mark.parametrize("padding", ["repeatpad", "repeat", "pad"])
def test_spectrograms_of_parts_are_upstreams(truncation: str, padding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where chance takes what is in the middle, as it is here."""
    monkeypatch.setattr(np.random, "choice", lambda given: given[len(given) // 2])
    monkeypatch.setattr(np.random, "randint", lambda least, end: (end - 1) // 2)
    said = {"sampling_rate": 8000, "max_length_s": 1, "hop_length": 80, "fft_window_size": 512, "frequency_min": 50}
    said |= {"frequency_max": 3900, "truncation": truncation, "padding": padding}
    theirs = ClapFeatureExtractor(**said)
    mine = ours({**theirs.to_dict(), "feature_extractor_type": "ClapFeatureExtractor"})
    sounds = [recording(samples, samples) for samples in (1500, 3001, 8000, 8001, 8100, 8400, 21000)]
    expected = [theirs(one, sampling_rate=8000, return_tensors="np")["input_features"] for one in sounds]
    np.testing.assert_allclose(mine(sounds, 8000).input_features, np.concatenate(expected), rtol=0, atol=1e-4)


def test_the_silence_behind_a_short_recording_is_masked() -> None:
    theirs = WhisperFeatureExtractor()
    mine = ours({**theirs.to_dict(), "feature_extractor_type": "WhisperFeatureExtractor"})
    sounds = [recording(samples, samples) for samples in (5000, 16001, 480_000, 500_000)]
    expected = theirs(sounds, sampling_rate=RATE, return_tensors="np", return_attention_mask=True)
    found = mine(sounds, sampling_rate=RATE, return_attention_mask=True)
    np.testing.assert_array_equal(found.attention_mask, expected["attention_mask"])


def test_the_class_of_a_checkpoint_without_one_is_its_models() -> None:
    for kind in KINDS.values():
        for model_type in kind.models:
            assert ours({}, model_type).port == kind.port


def test_processor_config_holds_them_too(tmp_path: Path) -> None:
    said = {"feature_extractor": {"feature_extractor_type": "WhisperFeatureExtractor", "feature_size": 20}}
    write_json(tmp_path / "config.json", {"model_type": "whisper"})
    write_json(tmp_path / "processor_config.json", said)
    found = precast.AutoFeatureExtractor.from_pretrained(tmp_path)
    assert found(recording(16000)).input_features.shape == (1, 20, 3000)
    assert type(precast.AutoProcessor.from_pretrained(tmp_path)) is FeatureExtractor


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"sampling_rate": 0}, "sampling_rate must be an integer from 1000 to 768000"),
        ({"sampling_rate": 16000.5}, "sampling_rate must be an integer"),
        ({"sampling_rate": True}, "sampling_rate must be an integer"),
        ({"feature_size": 2}, "feature_size must be an integer from 1 to 1"),
        ({"do_normalize": "yes"}, "do_normalize must be true, false or null"),
        ({"feature_extractor_type": "WhisperFeatureExtractor", "n_fft": 1 << 40}, "n_fft must be an integer"),
        ({"feature_extractor_type": "WhisperFeatureExtractor", "chunk_length": -1}, "chunk_length must be an integer"),
        ({"feature_extractor_type": "ASTFeatureExtractor", "std": 0}, "std must be a number above 0"),
        ({"feature_extractor_type": "ClapFeatureExtractor", "truncation": "no"}, "truncation must be fusion or rand_"),
        (
            {"feature_extractor_type": "ClapFeatureExtractor", "frequency_max": 0},
            "frequency_max must be a number above",
        ),
        ({"feature_extractor_type": 3}, "feature_extractor_type must be a non-empty string"),
    ],
)
def test_settings_of_the_wrong_type_are_refused(said: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ours(said)


def test_what_no_step_does_is_refused() -> None:
    with pytest.raises(UnsupportedModelError, match=r"names UnivNetFeatureExtractor, which is not known; known are"):
        ours({"feature_extractor_type": "UnivNetFeatureExtractor"})
    with pytest.raises(UnsupportedModelError, match=r"came without preprocessor_config.json"):
        audio_reading({}.get, "wav2vec2")
    with pytest.raises(UnsupportedModelError, match=r"bert has none of its own here"):
        ours({}, "bert")
    with pytest.raises(UnsupportedModelError, match=r"adds noise"):
        ours({"feature_extractor_type": "WhisperFeatureExtractor", "dither": 0.1})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rate": 3}, "rate must be an integer from 1000"),
        ({"steps": [{"op": "reverse"}]}, "op must be one of"),
        ({"steps": [{"op": "standardise"}, {"op": "length", "samples": 3}]}, "steps must be in the order"),
        ({"steps": [{"op": "standardise"}] * 2}, "steps must be in the order"),
        ({"steps": [{"op": "frames", "number": 3}]}, "one spectrum at most, and filter_bank where"),
        ({"steps": [{"op": "length", "samples": 1 << 60}]}, "samples must be an integer from 1"),
        ({"steps": [{"op": "length", "samples": 8, "by": 3}]}, "by is not a field"),
        ({"masked": "yes"}, "masked must be true or false"),
    ],
)
def test_what_an_artifact_lists_is_held_to_the_rules(change: dict[str, Any], message: str) -> None:
    good = {"port": "input_values", "rate": RATE, "masked": False, "steps": []}
    assert FeatureExtractor.from_data(good).steps == ()
    with pytest.raises(ArtifactError, match=message):
        FeatureExtractor.from_data({**good, **change})


# What is given

FORMATS = [
    ({"subtype": "PCM_16"}, 1e-4),
    ({"subtype": "PCM_U8"}, 1e-2),
    ({"subtype": "PCM_24"}, 1e-6),
    ({"subtype": "FLOAT"}, 0),
    ({"subtype": "DOUBLE"}, 0),
    ({"format": "FLAC"}, 1e-4),
    ({"format": "OGG"}, 0.1),
    ({"format": "MP3"}, None),
]


@pytest.mark.parametrize(("how", "near"), FORMATS)
def test_files_of_each_kind_are_read(how: dict[str, str], near: float | None, tmp_path: Path) -> None:
    sound = recording(20000)
    content = encoded(sound, **how)
    path = tmp_path / "sound"
    path.write_bytes(content)
    found = open_recording(content, RATE)
    for same in (path, str(path), {"path": str(path)}, {"bytes": content, "path": None}):
        np.testing.assert_array_equal(open_recording(same, RATE), found)
    assert found.dtype == np.float32 and found.ndim == 1
    if near is not None:
        np.testing.assert_allclose(found, sound, rtol=0, atol=near)
    else:  # it begins and ends elsewhere
        assert abs(len(found) - len(sound)) < 3000


def test_channels_are_averaged() -> None:
    both = np.stack([recording(9000, 1), recording(9000, 2)])
    expected = both.mean(axis=0)
    np.testing.assert_allclose(open_recording(encoded(both.T, subtype="FLOAT"), RATE), expected, atol=1e-7)
    np.testing.assert_array_equal(open_recording(both, RATE), expected)
    np.testing.assert_array_equal(open_recording({"raw": both, "sampling_rate": RATE}, RATE), expected)


@pytest.mark.parametrize("rate", [8000, 11025, 22050, 44100, 48000, 96000, 16001])
def test_other_rates_are_upstreams(rate: int) -> None:
    """As torchaudio resamples, which its pipelines call; computed here by its formula, in float64."""
    sound = recording(rate // 16 + 7)
    expected = _by_the_formula(sound, rate, RATE)
    found = open_recording({"array": sound, "sampling_rate": rate}, RATE)
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-6)
    np.testing.assert_allclose(open_recording(encoded(sound, rate, subtype="FLOAT"), RATE), expected, rtol=0, atol=2e-6)


def _by_the_formula(sound: np.ndarray, old: int, new: int) -> np.ndarray:
    band = min(old, new) * 0.99
    made = np.arange(-(-len(sound) * new // old)) / new
    have = np.arange(len(sound)) / old
    out = np.empty(len(made))
    for place in range(0, len(made), 512):
        time = np.clip((have - made[place : place + 512, None]) * band, -6, 6)
        out[place : place + 512] = (np.sinc(time) * np.cos(time * np.pi / 12) ** 2) @ sound * band / old
    return out


@settings(deadline=None, max_examples=30)
@given(st.lists(st.integers(0, 3000), max_size=6), st.sampled_from([8000, 44100, 48000, 16001]))
def test_blocks_are_the_whole(cuts: list[int], rate: int) -> None:
    sound = recording(3000)
    made = list(resampled_blocks(np.split(sound, sorted(cuts)), rate, RATE))
    np.testing.assert_array_equal(np.concatenate(made), resampled(sound, rate, RATE))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("nowhere.wav", "There is no recording 'nowhere.wav': no such file"),
        (b"Once upon a time", "16 bytes is no recording that soundfile reads .*WAV, FLAC, OGG and MP3.*ffmpeg"),
        (b"\x00\x00\x00\x18ftypmp42\x00\x00\x00\x00mp42isom" * 9, "is no recording that soundfile reads"),
        (encoded(np.zeros((100, 8))), "has 8 channels, and 2 are the most"),
        (encoded(np.zeros(0)), "is empty; a recording has one sample at least"),
        (np.zeros(0, np.float32), "the array is empty"),
        (np.zeros(9, np.int16), "holds floats from -1 to 1; received int16. Divide samples of 16 bits by 32768"),
        (np.zeros((900, 2), np.float32), r"received \[900, 2\]. Turn \[S, channels\] around"),
        (np.zeros((1, 1, 9), np.float32), r"received \[1, 1, 9\]"),
        (np.asarray([0, np.nan]), "the array holds NaN or infinity"),
        (encoded(np.asarray([0.0, np.inf]), subtype="FLOAT"), "holds NaN or infinity"),
        ({"array": np.zeros(9)}, '"sampling_rate" too'),
        ({"array": np.zeros(9), "sampling_rate": 0}, "sampling rate is an integer from 1000 to 768000 .*received 0"),
        ({"array": np.zeros(9), "sampling_rate": "16000"}, "received '16000'"),
        ({"array": np.zeros(9), "sampling_rate": True}, "received True"),
        ({"sound": 3}, 'holds "array" .* received sound'),
        (3, "received int: 3"),
        (encoded(np.zeros(100), 10), "sampling rate is an integer from 1000"),
    ],
)
def test_what_is_no_recording(value: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        open_recording(value, RATE)


def test_what_is_cut_off_is_named(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(InputError, match=r"is no recording that soundfile reads"):
        open_recording(tmp_path / "folder", RATE)
    whole = encoded(recording(9000), format="FLAC")
    with pytest.raises(InputError, match=r"cannot be read|is no recording"):
        open_recording(whole[: len(whole) // 2], RATE)


def test_too_long_ones_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audio, "LONGEST", 1)
    assert len(open_recording(np.zeros(RATE), RATE)) == RATE
    with pytest.raises(InputError, match=r"hours at most here; this one is longer"):
        open_recording(np.zeros(RATE + 1), RATE)


@pytest.mark.parametrize("name", ["WhisperFeatureExtractor", "ASTFeatureExtractor", "Speech2TextFeatureExtractor"])
def test_less_than_a_frame_is_refused(name: str) -> None:
    mine = ours({"feature_extractor_type": name})
    if name.startswith("Whisper"):
        assert mine(np.ones(1, np.float32)).input_features.shape == (1, 80, 3000)
        with pytest.raises(InputError, match=r"more than 200 samples here"):
            mine.heard(np.ones(200, np.float32), whole=True)
        return
    with pytest.raises(InputError, match=r"400 samples at least here"):
        mine(recording(399))
    if name.startswith("Speech2Text"):
        with pytest.raises(InputError, match=r"The 1 frames .* too short, or silent"):
            mine(recording(400))
        with pytest.raises(InputError, match=r"too short, or silent"):
            mine(np.zeros(16000))


def test_arguments_are_refused_by_name() -> None:
    mine = ours({})
    with pytest.raises(InputError, match=r"take no arguments; received truncation"):
        mine(recording(900), truncation=True)
    with pytest.raises(InputError, match=r"return_tensors can be 'np' here"):
        mine(recording(900), return_tensors="pt")
    with pytest.raises(InputError, match=r"hears 16000 samples a second; received sampling_rate=8000"):
        mine(recording(900), sampling_rate=8000)
    with pytest.raises(InputError, match=r"at least one recording"):
        mine([])


def test_lists_of_numbers_are_one_recording() -> None:
    sound = recording(900)
    np.testing.assert_array_equal(ours({})(sound.tolist()).input_values, ours({})(sound).input_values)
    assert ours({})([sound, sound]).input_values.shape == (2, 900)


def test_soundfile_is_named_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "soundfile", None)
    with pytest.raises(precast.PrecastError, match=r'pip install "precast\[audio\]"'):
        open_recording("talk.flac", RATE)


def test_whole_recordings_are_heard_as_upstream_hears_them() -> None:
    """Beyond the length of one window, as long transcription does."""
    sound = recording(16000 * 4, 3)
    said = {"chunk_length": 1, "feature_size": 20}
    expected = WhisperFeatureExtractor(**said)(
        sound, sampling_rate=RATE, return_tensors="np", truncation=False, padding="longest"
    )["input_features"][0]
    found = ours({"feature_extractor_type": "WhisperFeatureExtractor", **said}).heard(sound, whole=True)
    assert found.shape == expected.shape == (20, 400)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)
