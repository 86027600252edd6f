"""Recordings said in another voice, and written by the same family, against upstream's models on the same weights and
with the same units left out."""

from __future__ import annotations

import wave
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from support import oracle, tiny_artifacts, tiny_sounds
from support.command_line import good, refused
from support.recordings import encoded, recording

import precast
from precast.export.heads import VOCODER
from precast.runtime.errors import InputError

RATE = 16000
VOICE = np.random.default_rng(1).standard_normal((1, 7), np.float32)
SOUNDS = [recording(samples, samples) for samples in (1000, 2200)]


@pytest.fixture(scope="module")
def vocoder() -> Path:
    return tiny_artifacts.plain("speecht5_hifigan", VOCODER)


@pytest.fixture(scope="module")
def convert(vocoder: Path) -> Any:
    return precast.pipeline("voice-conversion", tiny_sounds.converter(), vocoder=vocoder)


@pytest.fixture(scope="module")
def upstreams() -> Any:
    source = tiny_sounds.converter_checkpoint()
    model = transformers.SpeechT5ForSpeechToSpeech.from_pretrained(source, attn_implementation="eager").eval()
    return model, transformers.SpeechT5FeatureExtractor.from_pretrained(source)


def leave_out(patch: pytest.MonkeyPatch, seed: int) -> None:
    """Upstream leaves out what the runtime does."""
    generator, layers = np.random.default_rng(seed), list[np.ndarray]()

    def kept(like: torch.Tensor, p: float) -> torch.Tensor:
        if not layers:
            layers.extend(generator.random((2, 11)))
        return (torch.from_numpy(layers.pop(0)) < p).float().expand(like.shape)

    patch.setattr(torch, "bernoulli", kept)


@pytest.mark.parametrize("given", [{}, {"threshold": 0.9, "minlenratio": 1.0}], ids=str)
def test_what_is_heard_is_said_as_upstream_says_it(
    convert: Any, upstreams: Any, given: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, extractor = upstreams
    loud: Any = oracle.upstream("speecht5_hifigan", VOCODER)[1]
    said = convert(SOUNDS, speaker_embeddings=VOICE, seed=3, forward_params=given)
    for sound, found in zip(SOUNDS, said, strict=True):
        heard = extractor(sound, sampling_rate=RATE, return_tensors="pt")
        with monkeypatch.context() as patch:
            leave_out(patch, 3)
            expected = model.generate_speech(**heard, speaker_embeddings=torch.from_numpy(VOICE), vocoder=loud, **given)
        assert found["sampling_rate"] == RATE
        np.testing.assert_allclose(found["audio"], expected.detach(), rtol=0, atol=2e-4)


def test_the_model_itself_converts(convert: Any, upstreams: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch whose rows are filled up, one voice for all; and in nobody's voice, which upstream takes for zeros."""
    model, (theirs, _) = convert.model, upstreams
    samples = np.zeros((2, 2200), np.float32)
    samples[0, :1000], samples[1] = SOUNDS
    mask = (np.arange(2200) < np.array([[1000], [2200]])).astype(np.int64)
    given = {"input_values": samples, "attention_mask": mask}
    found = model(**given, speaker_embeddings=VOICE, maxlenratio=2.0)
    with monkeypatch.context() as patch:
        leave_out(patch, 0)
        inputs = {name: torch.from_numpy(value) for name, value in given.items()}
        voices = torch.from_numpy(VOICE.repeat(2, axis=0))
        expected, lengths = theirs.generate_speech(
            **inputs, speaker_embeddings=voices, maxlenratio=2.0, return_output_lengths=True
        )
    assert found.spectrogram_lengths.tolist() == lengths
    np.testing.assert_allclose(found.spectrogram, expected.detach(), rtol=1e-4, atol=1e-4)
    nobody = model.generate_speech(samples[1:], maxlenratio=1.0)
    zeros = model.generate_speech(input_values=samples[1:], speaker_embeddings=np.zeros((1, 7)), maxlenratio=1.0)
    np.testing.assert_array_equal(nobody, zeros)
    assert model.tasks == ("voice-conversion",) and nobody.shape[1] == 9
    sound = model.generate(samples[1:], VOICE, mask[1:], vocoder=convert.vocoder, maxlenratio=1.0)
    assert sound.ndim == 1 and np.isfinite(sound).all()


def test_what_cannot_be_converted_is_refused(convert: Any, tmp_path: Path) -> None:
    sound = SOUNDS[0]
    with pytest.raises(InputError, match="voice-conversion needs speaker_embeddings: the voice to speak in"):
        convert(sound)
    with pytest.raises(InputError, match=r"'speaker_embeddings' is \[batch, 7\]; received shape \(1, 512\)"):
        convert(sound, speaker_embeddings=np.zeros((1, 512), np.float32))
    with pytest.raises(InputError, match=r"'speaker_embeddings' has 2 dimensions; received shape \(7,\)"):
        convert(sound, speaker_embeddings=VOICE[0])
    with pytest.raises(InputError, match="speaker_embeddings"):
        convert(sound, speaker_embeddings=[[1.0, 2.0], [1.0]])
    with pytest.raises(InputError, match="'speaker_embeddings' holds NaN or infinity"):
        convert(sound, speaker_embeddings=VOICE * np.nan)
    with pytest.raises(InputError, match=r"samples is 184 at least; received 183"):
        convert(sound[:183], speaker_embeddings=VOICE)
    with pytest.raises(InputError, match="every recording has 184 samples at least; the attention_mask of row 0"):
        convert.model(sound[None], attention_mask=np.arange(1000)[None] < 99, speaker_embeddings=VOICE)
    (tmp_path / "talk.txt").write_text("This is no recording.")
    with pytest.raises(InputError, match=r"talk\.txt"):
        convert(tmp_path / "talk.txt", speaker_embeddings=VOICE)
    with pytest.raises(InputError, match=r"speaker_embeddings cannot be read from .*nobody\.npy: No such file"):
        convert(sound, speaker_embeddings=tmp_path / "nobody.npy")
    with pytest.raises(InputError, match=r"a \.npy file of one \(numpy\.save\); .*talk\.txt is none"):
        convert(sound, speaker_embeddings=tmp_path / "talk.txt")
    with pytest.raises(InputError, match="input_values is what the recording becomes"):
        convert(sound, speaker_embeddings=VOICE, forward_params={"input_values": sound[None]})
    with pytest.raises(InputError, match="needs a recording, or a list of them"):
        convert()
    with pytest.raises(InputError, match="voice-conversion needs a vocoder beside this model"):
        precast.pipeline("voice-conversion", tiny_sounds.converter())


def test_on_the_command_line(convert: Any, vocoder: Path, tmp_path: Path) -> None:
    (tmp_path / "talk.wav").write_bytes(encoded(SOUNDS[0], subtype="FLOAT"))
    np.save(tmp_path / "voice.npy", VOICE)
    given = ["--param", f"vocoder={vocoder}", "--param", f"speaker_embeddings={tmp_path / 'voice.npy'}"]
    artifact, out = tiny_sounds.converter(), tmp_path / "said.wav"
    good("run", "voice-conversion", artifact, tmp_path / "talk.wav", *given, "--save", out)
    with wave.open(str(out)) as file:
        levels = np.frombuffer(file.readframes(file.getnframes()), "<i2")
    expected = convert(SOUNDS[0], speaker_embeddings=VOICE)["audio"]
    np.testing.assert_allclose(levels / 32767, expected, rtol=0, atol=1e-4)
    (tmp_path / "talk.txt").write_text("This is no recording.")
    assert "talk.txt" in refused("run", "voice-conversion", artifact, tmp_path / "talk.txt", *given)
    said = ["run", "text-to-speech", tiny_artifacts.reciter(), "So it is", *given, "--save", tmp_path / "read.wav"]
    good(*said)
    assert (tmp_path / "read.wav").stat().st_size > 100


# What is written of what is heard


@pytest.mark.parametrize("call", [{"max_new_tokens": 25}, {"num_beams": 1, "max_new_tokens": 40}], ids=str)
def test_what_is_written_is_upstreams(call: dict[str, Any]) -> None:
    """Greedily, and with five beams, which is how the pipeline searches."""
    ours = precast.pipeline("automatic-speech-recognition", tiny_sounds.listener())
    theirs = transformers.pipeline("automatic-speech-recognition", str(tiny_sounds.listener_checkpoint()))
    sounds = [recording(samples, samples) for samples in (5000, 16000, 9001)]
    found = ours(sounds, **call)
    assert found == [theirs(sound.copy(), generate_kwargs=call) for sound in sounds]
    assert len({one["text"] for one in found}) == 3


def test_the_processor_hears_writes_and_reads() -> None:
    sound = SOUNDS[1]
    theirs = transformers.SpeechT5Processor.from_pretrained(tiny_sounds.listener_checkpoint())
    for place in (tiny_sounds.listener(), tiny_sounds.listener_checkpoint()):
        ours = precast.AutoProcessor.from_pretrained(place)
        expected = theirs(audio=sound, sampling_rate=RATE, return_tensors="np")
        found = ours(audio=sound, sampling_rate=RATE)
        for name, values in expected.items():
            np.testing.assert_allclose(found[name], values, rtol=0, atol=1e-6)
        assert ours(text="so it is")["input_ids"] == theirs(text="so it is")["input_ids"]
        ids = theirs(text=["so it is", "no"])["input_ids"]
        assert ours.batch_decode(ids, skip_special_tokens=True) == theirs.batch_decode(ids, skip_special_tokens=True)
    model = precast.AutoModelForSpeechSeq2Seq.from_pretrained(tiny_sounds.listener())
    assert model.generate(**found, max_new_tokens=4).shape[0] == 1


def test_what_cannot_be_written_is_refused(tmp_path: Path) -> None:
    ours = precast.pipeline("automatic-speech-recognition", tiny_sounds.listener())
    with pytest.raises(InputError, match=r"samples is 184 at least; received 100"):
        ours(SOUNDS[0][:100])
    (tmp_path / "talk.txt").write_text("This is no recording.")
    with pytest.raises(InputError, match=r"talk\.txt"):
        ours(tmp_path / "talk.txt")
    with pytest.raises(InputError, match="return_timestamps needs a model that tells the time"):
        ours(SOUNDS[0], return_timestamps=True)
    with pytest.raises(InputError, match="return_language needs a model that tells languages apart"):
        ours(SOUNDS[0], return_language=True, generate_kwargs={"max_new_tokens": 2, "num_beams": 1})
