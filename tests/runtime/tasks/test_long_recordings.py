"""Recordings that are read as they are heard: what comes in blocks is what whole ones are, and few of it is held."""

from __future__ import annotations

import tracemalloc
import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import tiny_sounds
from support.recordings import encoded, recording

import precast
from precast.runtime.errors import InputError
from precast.runtime.processors import audio, audio_steps
from precast.runtime.processors.audio import open_recording
from precast.runtime.processors.audio_steps import LogMel
from precast.runtime.recognition.base import Part, SoundRow, Windows
from precast.runtime.recognition.passing import PassingFeatures
from precast.runtime.tasks import base

RATE = 16000
TASK = "automatic-speech-recognition"
GREEDY: dict[str, Any] = {"num_beams": 1, "max_new_tokens": 12}
MEL = LogMel(bins=8, window=40, step=16, rate=RATE, highest=8000.0)


def cut(sound: np.ndarray, places: Sequence[int]) -> list[np.ndarray]:
    return np.split(sound, sorted(place % (len(sound) + 1) for place in places))


def whole(mel: LogMel, sound: np.ndarray) -> np.ndarray:
    """As the paper says it, of all samples at once."""
    padded = np.pad(sound.astype(np.float64), mel.window // 2, mode="reflect")
    frames = np.lib.stride_tricks.sliding_window_view(padded, mel.window)[:: mel.step][: len(sound) // mel.step or 1]
    power = np.abs(np.fft.rfft(frames * np.hanning(mel.window + 1)[:-1])) ** 2
    bank = audio_steps._slaney_bank(mel.bins, mel.window // 2 + 1, mel.rate, mel.highest)
    made = np.log10(np.maximum(power @ bank, 1e-10)).T
    return ((np.maximum(made, made.max() - 8.0) + 4.0) / 4.0).astype(np.float32)


@settings(deadline=None, max_examples=60)
@given(
    st.integers(21, 900),
    st.lists(st.integers(0, 900), max_size=6),
    st.lists(st.tuples(st.integers(0, 60), st.integers(0, 30)), max_size=6),
    st.integers(1, 9),
    st.sampled_from([(40, 16), (41, 16), (40, 50)]),
)
def test_features_in_blocks_are_the_whole(
    samples: int, places: list[int], asked: list[tuple[int, int]], block: int, shape: tuple[int, int]
) -> None:
    mel = MEL._replace(window=shape[0], step=shape[1])
    sound = recording(samples, samples)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(audio_steps, "_BLOCK", block)
        found = PassingFeatures(lambda: mel.levels(cut(sound, places)))
        expected = mel(sound)
        assert found.shape == expected.shape
        np.testing.assert_allclose(expected, whole(mel, sound), rtol=0, atol=1e-6)
        for start, size in asked:  # forwards, and back again
            np.testing.assert_array_equal(found[:, start : start + size], expected[:, start : start + size])


@settings(deadline=None, max_examples=60)
@given(
    st.integers(1, 300),
    st.lists(st.integers(0, 300), max_size=6),
    st.integers(4, 40),
    st.integers(0, 19),
    st.integers(0, 19),
)
def test_parts_of_blocks_are_those_of_the_whole(
    samples: int, places: list[int], length: int, left: int, right: int
) -> None:
    sound = np.arange(samples, dtype=np.float32)
    windows = Windows(length, left, right)
    if length <= left + right:
        with pytest.raises(InputError, match="longer than both strides together"):
            windows.parts([sound], 1, 1)
        return
    expected = []
    for start in range(0, samples, length - left - right):
        size, last = min(length, samples - start), start + length >= samples
        part = Part(size, 0 if start == 0 else left, 0 if last else right)
        if size > part.left:
            expected.append((part, sound[start : start + size].tolist()))
        if last:
            break
    found = [(part, heard.tolist()) for part, heard in windows.parts(cut(sound, places), 1, 1)]
    assert found == expected


CALLS: list[tuple[str, int, dict[str, Any]]] = [
    ("speller", 6, {"chunk_length_s": 0.5, "stride_length_s": [0.05, 0.15], "return_timestamps": "char"}),
    ("writer", 70, {"return_timestamps": True, "return_language": True, "generate_kwargs": GREEDY}),
    ("writer", 50, {"chunk_length_s": 20, "return_timestamps": True, "generate_kwargs": GREEDY}),
]


@pytest.mark.parametrize(("kind", "seconds", "call"), CALLS)
def test_a_file_is_what_its_samples_are(
    kind: str, seconds: int, call: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At another rate, in blocks of two seconds, and few rows at once."""
    ours = precast.pipeline(TASK, getattr(tiny_sounds, kind)())
    (tmp_path / "a.flac").write_bytes(encoded(recording(seconds * 8000), 8000, format="FLAC"))
    samples = open_recording(tmp_path / "a.flac", RATE)
    expected = ours(samples, **call)
    monkeypatch.setattr(audio, "_BLOCK", 16_000)
    monkeypatch.setattr(base, "_HELD", 1)
    content = (tmp_path / "a.flac").read_bytes()
    for given_ in (tmp_path / "a.flac", {"bytes": content}):
        assert ours(given_, **call) == expected


def _noise(seconds: int) -> Iterator[np.ndarray]:
    rng = np.random.default_rng(0)
    for _ in range(seconds):
        yield rng.standard_normal(RATE).astype(np.float32)


def _peak(seconds: int) -> tuple[int, int]:
    """Bytes held at most where features, and parts, of so much sound are asked for one after the other."""
    mel = LogMel(bins=80, window=400, step=160, rate=RATE, highest=8000.0)
    tracemalloc.start()
    try:
        features = PassingFeatures(lambda: mel.levels(_noise(seconds)))
        assert features.shape == (80, seconds * 100)
        for start in range(0, seconds * 100, 300):
            features[:, start : start + 300]
        first = tracemalloc.get_traced_memory()[1]
        del features
        tracemalloc.reset_peak()
        assert sum(part.samples - part.left for part, _ in Windows(3, 0.5, 0.5).parts(_noise(seconds), RATE, 320)) > 0
        return first, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_memory_does_not_grow_with_a_recording(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audio_steps, "_BLOCK", 256)
    _peak(2)  # what is made once
    for short, long in zip(_peak(8), _peak(64), strict=True):
        assert long < 1.1 * short


def test_rows_are_made_as_they_are_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a list of recordings, too: each is answered as soon as it has been heard."""
    ours = precast.pipeline(TASK, tiny_sounds.speller(), chunk_length_s=0.5)
    monkeypatch.setattr(base, "_HELD", 1)
    alive: weakref.WeakSet[Row] = weakref.WeakSet()
    most = 0
    make = ours.recogniser._row

    def row(sound: np.ndarray, part: Part | None) -> Row:
        nonlocal most
        made = Row(make(sound, part))
        made.part = part
        alive.add(made)
        most = max(most, len(alive))
        return made

    expected = ours([recording(160_000), recording(20_000)], token_budget=100)
    monkeypatch.setattr(ours.recogniser, "_row", row)
    assert ours([recording(160_000), recording(20_000)], token_budget=100) == expected
    assert 4 <= most <= 8  # of 28 and 4: rows of 25 tokens


class Row(SoundRow):
    """One that can be looked for."""

    __hash__ = object.__hash__  # type: ignore[assignment]

    def __eq__(self, other: object) -> bool:
        return self is other


def test_what_an_address_holds_is_fetched_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    contents = {"http://a/talk.flac": encoded(recording(900), format="FLAC"), "http://a/notes": b"Once upon a time"}

    def fetched(address: str, *, noun: str) -> bytes:
        asked.append(address)
        return contents[address]

    monkeypatch.setattr(audio, "fetched", fetched)
    for given_ in ("http://a/talk.flac", {"path": "http://a/talk.flac"}):
        asked.clear()
        kept = audio.at_hand(given_)
        for _ in range(2):
            np.testing.assert_array_equal(
                open_recording(kept, RATE), open_recording(contents["http://a/talk.flac"], RATE)
            )
        assert asked == ["http://a/talk.flac"]
    with pytest.raises(InputError, match="'http://a/notes' is no recording"):
        open_recording(audio.at_hand("http://a/notes"), RATE)
    sound = recording(9)
    assert audio.at_hand(sound) is sound and audio.at_hand("talk.wav") == "talk.wav"


def test_one_that_becomes_shorter_is_named() -> None:
    lengths = iter((3000, 2000))
    features = PassingFeatures(lambda: MEL.levels([recording(next(lengths))]))
    with pytest.raises(InputError, match="became shorter while it was heard"):
        features[:, 0:180]
