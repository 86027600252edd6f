"""Recordings compared with any labels: the same as upstream's pipeline on the same weights."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import transformers
from support import tiny_artifacts, tiny_sounds
from support.recordings import recording

import precast
from precast.runtime.errors import InputError, UnsupportedTaskError

RATE = 8000
LABELS = ["a dog", "two cats", "the sea at night"]
TASK = "zero-shot-audio-classification"

pytestmark = pytest.mark.filterwarnings("ignore:At least one mel filter has all zero values")


@pytest.fixture(scope="module", params=[False, True], ids=["unfused", "fused"])
def both(request: pytest.FixtureRequest) -> tuple[Any, Any]:
    """Ours, and upstream's of the same checkpoint."""
    theirs = transformers.pipeline(TASK, str(tiny_sounds.compared_checkpoint(request.param)))
    return precast.pipeline(TASK, tiny_sounds.compared(request.param)), theirs


def test_scores_are_upstreams(both: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Also of longer recordings, where chance takes what is in the middle."""
    ours, theirs = both
    monkeypatch.setattr(np.random, "choice", lambda given: given[len(given) // 2])
    monkeypatch.setattr(np.random, "randint", lambda least, end: (end - 1) // 2)
    sounds = [recording(samples, samples) for samples in (3000, 8000, 20011)]
    for asked in ({"candidate_labels": LABELS}, {"candidate_labels": LABELS[:2], "hypothesis_template": "no {}"}):
        for found, sound in zip(ours(sounds, **asked), sounds, strict=True):
            expected = theirs(sound, **asked)
            assert [entry["label"] for entry in found] == [entry["label"] for entry in expected]
            scores = [[entry["score"] for entry in made] for made in (found, expected)]
            np.testing.assert_allclose(*scores, rtol=0, atol=1e-5)
    assert ours(sounds[0], "a dog, two cats") == ours(audios=sounds[0], candidate_labels=["a dog", "two cats"])
    assert [ours(sound, LABELS)[0] for sound in sounds] == [
        pytest.approx(found[0], abs=1e-6) for found in ours(sounds, LABELS, batch_size=2)
    ]


def test_features_are_upstreams(both: tuple[Any, Any]) -> None:
    ours, theirs = both
    sound = recording(5000)
    mine = ours.model.get_audio_features(**ours.model.feature_extractor(sound, RATE)).pooler_output
    given = theirs.feature_extractor(sound, sampling_rate=RATE, return_tensors="pt")
    with torch.no_grad():
        expected = theirs.model.get_audio_features(**given).pooler_output
    np.testing.assert_allclose(mine, expected, rtol=0, atol=1e-5)
    tokens = theirs.tokenizer(LABELS, padding=True, return_tensors="pt")
    with torch.no_grad():
        expected = theirs.model.get_text_features(**tokens).pooler_output
    found = ours.model.get_text_features(**{name: value.numpy() for name, value in tokens.items()}).pooler_output
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


def test_a_set_of_labels_is_encoded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model = precast.load(tiny_sounds.compared(fused=False))
    read: list[str] = []
    for name, part in model.flow.parts.items():
        run = part.runner.run
        monkeypatch.setattr(part.runner, "run", lambda given, run=run, name=name: (read.append(name), run(given))[1])
    ask = precast.pipeline(TASK, model, candidate_labels=LABELS)
    for seed in range(3):
        ask(recording(4000, seed))
    assert read.count("text") == 1 and read.count("audio") == 3


def test_what_cannot_be_compared_is_refused(both: tuple[Any, Any]) -> None:
    ours, _ = both
    sound = recording(3000)
    with pytest.raises(InputError, match="needs a recording, or a list of them"):
        ours()
    for labels in ([], None):
        with pytest.raises(InputError, match="at least one label: pass candidate_labels"):
            ours(sound, labels)
    with pytest.raises(InputError, match=r"An array of a recording is \[S\].*received \[40, 30, 3\]"):
        ours(np.zeros((40, 30, 3), np.float32), LABELS)
    with pytest.raises(InputError, match="more than 256 samples here"):
        precast.load(tiny_sounds.compared(fused=True)).feature_extractor.steps[1](sound[:256])
    with pytest.raises(UnsupportedTaskError, match=f"'{TASK}' needs an artifact exported for {TASK}"):
        precast.pipeline(TASK, tiny_artifacts.pictures("clip"))
    with pytest.raises(UnsupportedTaskError, match="get_image_features needs a model with a tower for it"):
        ours.model.get_image_features(pixel_values=np.zeros((1, 3, 8, 8), np.float32))
