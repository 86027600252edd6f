"""A wav2vec 2.0 that has learned to spell tones: what is heard is right, and not just what upstream hears."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
import transformers
from support import trained_tones
from support.trained_tones import LETTERS, melody
from support.workers import once

import precast
from precast.export.exporter import export_model


def texts(count: int) -> list[str]:
    """Letters and single spaces between them, no two equal tones in a row."""
    rng = np.random.default_rng(99)
    made = []
    while len(made) < count:
        text = "".join(rng.choice([*LETTERS, " "], 12)).strip()
        if "  " not in text:
            made.append(text)
    return made


def spell(precision: str) -> Any:
    make = partial(export_model, trained_tones.checkpoint(), precision=precision)
    return precast.pipeline("automatic-speech-recognition", once(f"artifact-trained-tones-{precision}", make))


def right(found: list[str], expected: list[str]) -> float:
    """The share of letters that are: of texts of one length, those in their places."""
    pairs = [
        pair for one, other in zip(found, expected, strict=True) for pair in zip(one.ljust(99), other, strict=False)
    ]
    return sum(one == other for one, other in pairs) / len(pairs)


def test_tones_are_spelled_as_they_are() -> None:
    said = texts(24)
    sounds = [melody(text, seed=10**6 + number) for number, text in enumerate(said)]
    found = [one["text"] for one in spell("fp32")(sounds)]
    upstream = transformers.pipeline("automatic-speech-recognition", str(trained_tones.checkpoint()))
    assert found == [upstream(sound.copy())["text"] for sound in sounds]
    assert right(found, said) > 0.9, "too little was learned for this to show anything"


def test_words_are_where_they_sound() -> None:
    text = "ACEG BDFH"
    sound = melody(text, seed=10**7)
    first, second = spell("fp32")(sound, return_timestamps="word")["chunks"]
    assert [first["text"], second["text"]] == text.split()
    middle = len(sound) / 16000 / 2
    assert first["timestamp"][1] < middle + 0.1 < second["timestamp"][0] + 0.25
    assert second["timestamp"][1] <= len(sound) / 16000


@pytest.mark.parametrize("seconds", [0.8, 1.4])
def test_windows_spell_what_the_whole_does(seconds: float) -> None:
    said = texts(6)
    sounds = [melody(text, seed=10**6 + number) for number, text in enumerate(said)]
    windows = [one["text"] for one in spell("fp32")(sounds, chunk_length_s=seconds, stride_length_s=0.25)]
    assert right(windows, said) > 0.8


def test_eight_bits_spell_as_well() -> None:
    said = texts(24)
    sounds = [melody(text, seed=10**6 + number) for number, text in enumerate(said)]
    shares = {
        precision: right([one["text"] for one in spell(precision)(sounds)], said) for precision in ("fp32", "int8")
    }
    assert shares["int8"] >= 0.99 * shares["fp32"]
