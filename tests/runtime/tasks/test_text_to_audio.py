"""Text to audio, against upstream's pipeline on the same weights and the same noise."""

from __future__ import annotations

import json
import wave
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from support import oracle, tiny_artifacts
from support.command_line import good, refused

import precast
from precast.export.heads import TEXT_TO_SPECTROGRAM, VOCODER
from precast.runtime.errors import ArtifactError, InputError
from precast.runtime.fields import Fields
from precast.runtime.spectrogram import Frames
from precast.runtime.speech import Alignment

TEXTS = ["Hello, my dog is cute", "kick", "A much longer text, which is read aloud for longer than the others."]


@pytest.fixture(scope="module")
def speak() -> Any:
    return precast.pipeline("text-to-speech", tiny_artifacts.speaker())


@pytest.fixture(scope="module")
def upstreams() -> Any:
    source = tiny_artifacts.speaker_checkpoint()
    model = transformers.VitsModel.from_pretrained(source, attn_implementation="eager").eval()
    return transformers.pipeline(
        "text-to-speech", model=model, tokenizer=transformers.VitsTokenizer.from_pretrained(source)
    )


class Noise:
    """The runtime's own, drawn where upstream draws its."""

    def __init__(self, patch: pytest.MonkeyPatch, seed: int) -> None:
        self.generator = np.random.default_rng(seed)
        patch.setattr(torch, "randn", lambda *shape: self.drawn(*shape[1:])[None])
        patch.setattr(torch, "randn_like", lambda like: self.drawn(like.shape[2], like.shape[1]).T[None])

    def drawn(self, *shape: int) -> torch.Tensor:
        return torch.from_numpy(self.generator.standard_normal(shape, np.float32))


@pytest.mark.parametrize("given", [{}, {"speaker_id": 2}, {"speaking_rate": 0.2, "speaker_id": 0}], ids=str)
def test_speech_is_upstreams(
    speak: Any, upstreams: Any, given: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    for seed, text in enumerate(TEXTS):
        found = speak(text, forward_params={**given, "seed": seed})
        with monkeypatch.context() as patch:
            Noise(patch, seed)
            expected = upstreams(text, forward_params=given)
        assert found["sampling_rate"] == expected["sampling_rate"] == 16000
        assert found["audio"].dtype == np.float32 and np.abs(found["audio"]).max() > 0.01
        np.testing.assert_allclose(found["audio"], expected["audio"], rtol=0, atol=1e-4)
        same = speak(text, seed=seed, **given)
        np.testing.assert_array_equal(same["audio"], found["audio"])


def test_many_texts_are_said_as_each_alone(speak: Any) -> None:
    every = speak(TEXTS, batch_size=2)
    assert isinstance(every, list) and len(every) == 3
    for text, found in zip(TEXTS, every, strict=True):
        np.testing.assert_array_equal(found["audio"], speak(text_inputs=text)["audio"])
    assert [one["audio"].shape for one in speak(iter(TEXTS))] == [one["audio"].shape for one in every]


def test_a_batch_is_upstreams(upstreams: Any, speak: Any) -> None:
    """Of the model itself, without noise: rows are as long as they are, and a vocoder hears what fills them up."""
    model, tokenizer = speak.model, speak.tokenizer
    inputs = tokenizer(TEXTS, padding=True, return_tensors="np")
    found = model(**inputs, noise_scale=0, noise_scale_duration=0, speaker_id=1)
    theirs = upstreams.model
    scales = theirs.noise_scale, theirs.noise_scale_duration
    theirs.noise_scale, theirs.noise_scale_duration = 0, 0
    with torch.no_grad():
        expected = theirs(**{name: torch.from_numpy(value) for name, value in inputs.items()}, speaker_id=1)
    theirs.noise_scale, theirs.noise_scale_duration = scales
    np.testing.assert_array_equal(found.sequence_lengths, expected.sequence_lengths)
    assert len(set(found.sequence_lengths)) == 3 and max(found.sequence_lengths) == found.waveform.shape[1]
    np.testing.assert_allclose(found.waveform, expected.waveform, rtol=0, atol=1e-4)
    np.testing.assert_allclose(found.spectrogram, expected.spectrogram, rtol=1e-4, atol=1e-4)


def test_a_seed_is_one_saying(speak: Any) -> None:
    model, ids = speak.model, speak.tokenizer("hello there", return_tensors="np")["input_ids"]
    first, again, other = (model(ids, seed=seed).waveform for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert first.shape != other.shape or not np.array_equal(first, other)
    assert model(ids).waveform.tobytes() == first.tobytes()
    # Row i is said as with seed + i, and one whose seed nobody knows as none of these.
    rows = model(np.concatenate((ids, ids)))
    np.testing.assert_array_equal(rows.sequence_lengths, [first.shape[1], other.shape[1]])
    assert any(model(ids, seed=None).waveform.shape != first.shape for _ in range(20))
    quiet = {"noise_scale": 0, "noise_scale_duration": 0}
    np.testing.assert_array_equal(model(ids, seed=0, **quiet).waveform, model(ids, seed=1, **quiet).waveform)
    slow, fast = (model(ids, speaking_rate=rate, **quiet).waveform.shape[1] for rate in (0.1, 10))
    assert slow > 4 * fast


def test_frames_may_be_given_instead_of_a_text(speak: Any) -> None:
    latents = np.random.default_rng(0).standard_normal((1, 9, 12), np.float32)
    made = speak.model(latents=latents, speaker_id=0)
    assert made.waveform.shape == (1, 9 * 6)
    noise = np.zeros((1, 2, 3), np.float32)
    given = speak.model(input_ids=[[1, 2, 3]], duration_noise=noise, noise_scale=0)
    assert (
        given.waveform.tobytes() == speak.model([[1, 2, 3]], noise_scale=0, noise_scale_duration=0).waveform.tobytes()
    )


def test_what_cannot_be_said_is_refused(speak: Any) -> None:
    for text in ("", "?!", "\u4f60\u597d"):
        with pytest.raises(InputError, match="text-to-audio needs at least one token; received a text that makes none"):
            speak(text)
    with pytest.raises(InputError, match="needs a text, or a list of them"):
        speak()
    with pytest.raises(InputError, match="speaker_id must be 0 to 2; received 3"):
        speak("hello", speaker_id=3)
    with pytest.raises(InputError, match="speaker_id must be an integer of at least 0; received -1"):
        speak("hello", speaker_id=-1)
    with pytest.raises(InputError, match="speaking_rate is above 0; received 0"):
        speak("hello", speaking_rate=0)
    with pytest.raises(InputError, match="heard for more than 1048576 frames"):
        speak("hello", speaking_rate=1e-9)
    with pytest.raises(InputError, match="'speaker_embeddings' is not one of this model's"):
        speak("hello", speaker_embeddings=np.zeros((1, 512), np.float32))
    with pytest.raises(InputError, match="generate_kwargs are of models that generate"):
        speak("hello", generate_kwargs={"do_sample": True})
    with pytest.raises(InputError, match="input_ids is what the text becomes"):
        speak("hello", forward_params={"input_ids": [[1]]})
    with pytest.raises(InputError, match="This model makes sound itself; leave vocoder out"):
        precast.pipeline("text-to-speech", tiny_artifacts.speaker(), vocoder=tiny_artifacts.speaker())


def test_a_vocoder_makes_sound_of_spectrograms(speak: Any) -> None:
    spectrograms = tiny_artifacts.plain("fastspeech2_conformer", TEXT_TO_SPECTROGRAM)
    vocoder = tiny_artifacts.plain("speecht5_hifigan", VOCODER)
    given = {"tokenizer": speak.tokenizer, "vocoder": vocoder}
    found = precast.pipeline("text-to-speech", spectrograms, **given)("hello there")
    theirs: Any = oracle.upstream("fastspeech2_conformer", TEXT_TO_SPECTROGRAM)[1]
    loud: Any = oracle.upstream("speecht5_hifigan", VOCODER)[1]
    ids = speak.tokenizer("hello there", return_tensors="np")["input_ids"]
    with torch.no_grad():
        expected = theirs(torch.from_numpy(ids))
        sound = loud(expected.spectrogram)[0]
    np.testing.assert_allclose(found["audio"], sound, rtol=0, atol=1e-4)
    assert found["sampling_rate"] == 16000
    made = precast.AutoModelForTextToSpectrogram.from_pretrained(spectrograms)(ids)
    np.testing.assert_allclose(made.spectrogram, expected.spectrogram, rtol=1e-4, atol=1e-4)
    loaded = precast.pipeline(
        "text-to-speech", spectrograms, **{**given, "vocoder": precast.load(vocoder)}, sampling_rate=8
    )
    assert loaded("hello there")["sampling_rate"] == 8
    with pytest.raises(InputError, match=r"needs a vocoder beside this model.*Pass the artifact of one"):
        precast.pipeline("text-to-speech", spectrograms, tokenizer=speak.tokenizer)
    with pytest.raises(InputError, match="vocoder is the artifact of a model that makes waveforms; received Model"):
        precast.pipeline("text-to-speech", spectrograms, **{**given, "vocoder": precast.load(spectrograms)})


@pytest.fixture(scope="module")
def recite() -> Any:
    vocoder = tiny_artifacts.plain("speecht5_hifigan", VOCODER)
    return precast.pipeline("text-to-speech", tiny_artifacts.reciter(), vocoder=vocoder)


VOICE = np.random.default_rng(1).standard_normal((1, 7), np.float32)


@pytest.mark.parametrize("given", [{}, {"threshold": 0.2}, {"maxlenratio": 2.0, "threshold": 9.0}], ids=str)
def test_a_text_said_frame_by_frame_is_upstreams(recite: Any, given: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tiny_artifacts.reciter_checkpoint()
    model = transformers.SpeechT5ForTextToSpeech.from_pretrained(source, attn_implementation="eager").eval()
    vocoder: Any = oracle.upstream("speecht5_hifigan", VOCODER)[1]
    tokenizer = transformers.SpeechT5Tokenizer.from_pretrained(source)
    theirs = transformers.pipeline("text-to-speech", model=model, tokenizer=tokenizer, vocoder=vocoder)
    for seed, text in enumerate(["Hello, my dog is cute", "So it is"]):
        found = recite(text, forward_params={"speaker_embeddings": VOICE, "seed": seed, **given})
        generator, layers = np.random.default_rng(seed), list[np.ndarray]()

        def kept(like: torch.Tensor, p: float, generator: Any = generator, layers: Any = layers) -> torch.Tensor:
            if not layers:
                layers.extend(generator.random((2, 11)))
            return (torch.from_numpy(layers.pop(0)) < p).float().expand(like.shape)

        with monkeypatch.context() as patch:
            patch.setattr(torch, "bernoulli", kept)
            expected = theirs(text, forward_params={"speaker_embeddings": torch.from_numpy(VOICE), **given})
        assert found["sampling_rate"] == expected["sampling_rate"] == 16000
        np.testing.assert_allclose(found["audio"], expected["audio"], rtol=0, atol=2e-4)
        same = recite(text, speaker_embeddings=VOICE, seed=seed, generate_kwargs=given)
        np.testing.assert_array_equal(same["audio"], found["audio"])


def test_spectrograms_of_a_batch(recite: Any) -> None:
    model, tokenizer = recite.model, recite.tokenizer
    ids = tokenizer(["Hello, my dog is cute", "So"], padding=True, return_tensors="np")
    made = model(**ids, speaker_embeddings=VOICE)
    assert made.spectrogram.shape == (2, made.spectrogram_lengths.max(), 9)
    for row, length in enumerate(made.spectrogram_lengths):
        assert not made.spectrogram[row, length:].any() and made.spectrogram[row, :length].any()
    first = tokenizer("Hello, my dog is cute", return_tensors="np")
    alone = model.generate_speech(first["input_ids"], VOICE)
    np.testing.assert_allclose(alone, made.spectrogram[0, : made.spectrogram_lengths[0]], rtol=1e-4, atol=1e-4)
    sound = model.generate(first["input_ids"], VOICE, vocoder=recite.vocoder)
    assert sound.shape == (6 * len(alone),)
    assert any(
        not np.array_equal(model(**first, speaker_embeddings=VOICE, seed=n).spectrogram[0], alone) for n in (1, 2)
    )
    few = model(**first, speaker_embeddings=VOICE, threshold=9, minlenratio=0.5, maxlenratio=1)
    assert few.spectrogram_lengths[0] == first["input_ids"].shape[1] // 2 * 2


def test_what_cannot_be_recited_is_refused(recite: Any) -> None:
    with pytest.raises(InputError, match="'speaker_embeddings' is needed: the voice to speak in"):
        recite("hello")
    with pytest.raises(InputError, match=r"'speaker_embeddings' is \[batch, 7\]; received shape \(1, 512\)"):
        recite("hello", speaker_embeddings=np.zeros((1, 512), np.float32))
    with pytest.raises(InputError, match="threshold must be a number; received 'x'"):
        recite("hello", speaker_embeddings=VOICE, forward_params={"threshold": "x"})
    with pytest.raises(InputError, match="A text may have 100 tokens here"):
        recite("hello" * 30, speaker_embeddings=VOICE)
    with pytest.raises(InputError, match="vocoder is a loaded model that makes waveforms"):
        recite.model.generate([[5, 6]], VOICE, vocoder="hifigan")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"kept": [2]}, r"processing\.frames\.kept must be two counts"),
        ({"dropout": 1}, r"processing\.frames\.dropout must be a number from 0 to below 1"),
        ({"more": 1}, r"processing\.frames\.more is not a field"),
    ],
)
def test_wrong_frames_are_refused(recite: Any, changed: dict[str, Any], message: str) -> None:
    said = dict(recite.model.artifact.reading("frames"))
    with pytest.raises(ArtifactError, match=message):
        Frames.read(Fields({**said, **changed}, "processing.frames"))


def test_what_speaks_hears_nothing(recite: Any) -> None:
    """Though released checkpoints of one that does come with what hears."""
    assert recite.model.feature_extractor is None
    reads = precast.AutoProcessor.from_pretrained(tiny_artifacts.reciter())
    assert reads("hello")["input_ids"] == recite.tokenizer("hello")["input_ids"]


def test_the_class_is_upstreams() -> None:
    model = precast.AutoModelForTextToWaveform.from_pretrained(tiny_artifacts.speaker())
    assert model.tasks == ("text-to-waveform",) and model.sampling_rate == 16000
    report: Any = precast.verify(tiny_artifacts.speaker())
    assert {entry["status"] for entry in report["variants"].values()} == {"verified"}


def test_on_the_command_line(speak: Any, tmp_path: Path) -> None:
    artifact = tiny_artifacts.speaker()
    found = json.loads(good("run", "text-to-speech", artifact, "hello", "--json"))
    assert found["sampling_rate"] == 16000
    np.testing.assert_allclose(found["audio"], speak("hello")["audio"], rtol=0, atol=1e-6)
    shown = good("run", "text-to-speech", artifact, "hello", "--save", str(tmp_path / "hello.wav"))
    assert shown.startswith(f"audio: {len(found['audio'])}: ") and shown.endswith("sampling_rate: 16000\n")
    with wave.open(str(tmp_path / "hello.wav")) as file:
        assert (file.getnchannels(), file.getframerate(), file.getsampwidth()) == (1, 16000, 2)
        levels = np.frombuffer(file.readframes(file.getnframes()), "<i2")
    np.testing.assert_allclose(levels / 32767, speak("hello")["audio"], rtol=0, atol=1e-4)
    good("run", "text-to-speech", artifact, "one", "two", "--save", str(tmp_path / "said"), "--param", "seed=3")
    assert sorted(path.name for path in (tmp_path / "said").iterdir()) == ["1.wav", "2.wav"]
    assert "--save writes .wav here" in refused(
        "run", "text-to-speech", artifact, "a", "--save", str(tmp_path / "a.mp3")
    )


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"rounds": "down"}, "processing.alignment.rounds must be one of nearest, up"),
        ({"stretch": 0}, "processing.alignment.stretch must be a number above 0"),
        ({"more": 1}, "processing.alignment.more is not a field"),
    ],
)
def test_a_wrong_alignment_is_refused(speak: Any, changed: dict[str, Any], message: str) -> None:
    said = dict(speak.model.artifact.reading("alignment"))
    with pytest.raises(ArtifactError, match=message):
        Alignment.read(Fields({**said, **changed}, "processing.alignment"))
