"""Speech in stages: texts to waveforms as upstream's Bark, token by token, in voices of its own and of the checkpoint;
its pipeline; and what cannot be said."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from support import tiny_artifacts

import precast
from precast.export.exporter import export_model
from precast.export.stages import stages
from precast.runtime.bench.artifact import bench
from precast.runtime.bench.session import Plan
from precast.runtime.errors import CheckpointError, ConfigError, InputError

# Of upstream, which is told tokens by itself.
pytestmark = pytest.mark.filterwarnings("ignore:Passing `generation_config` together")

TEXTS = ["Hello, my dog is cute", "kick", "A much longer text, which is read aloud for longer than all of the others."]
GREEDY: dict[str, Any] = {"do_sample": False, "temperature": 1.0}


@pytest.fixture(scope="module")
def model() -> Any:
    return precast.load(tiny_artifacts.storyteller())


@pytest.fixture(scope="module")
def theirs() -> Any:
    source = tiny_artifacts.storyteller_checkpoint()
    return transformers.BarkModel.from_pretrained(source, attn_implementation="eager").eval()


@pytest.fixture(scope="module")
def processor() -> Any:
    return transformers.BarkProcessor.from_pretrained(tiny_artifacts.storyteller_checkpoint())


def said(theirs: Any, processor: Any, texts: list[str], voice: str | None, **options: Any) -> Any:
    """Upstream's of the same texts."""
    inputs = processor(texts, voice_preset=voice, max_length=60)
    with torch.no_grad():
        made = theirs.generate(**inputs, **options)
    return made if isinstance(made, tuple) else made.numpy()


@pytest.mark.parametrize("voice", [None, "v2/en_speaker_0", "de_speaker_3"])
@pytest.mark.parametrize("texts", [TEXTS[:1], TEXTS], ids=["one", "three"])
def test_waveforms_are_upstreams(model: Any, theirs: Any, processor: Any, texts: list[str], voice: str | None) -> None:
    inputs = model.tokenizer(texts, padding=True, add_special_tokens=False, return_tensors="np")
    ids = {name: inputs[name] for name in ("input_ids", "attention_mask")}
    found = model.generate(**ids, history_prompt=voice, **GREEDY)
    expected = said(theirs, processor, texts, voice, **GREEDY)
    assert found.dtype == np.float32 and np.abs(found).max() > 0.01
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
    found, lengths = model.generate(**ids, voice_preset=voice, return_output_lengths=True, **GREEDY)
    expected, theirs_lengths = said(theirs, processor, texts, voice, return_output_lengths=True, **GREEDY)
    assert lengths == theirs_lengths
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
    assert model(**ids, voice_preset=voice, **GREEDY).sequence_lengths.tolist() == lengths


@pytest.mark.parametrize(
    "options",
    [
        {"semantic_num_beams": 3, "coarse_num_beams": 2},
        {"semantic_repetition_penalty": 1.7, "coarse_no_repeat_ngram_size": 3},
        {"semantic_max_new_tokens": 13},
        {"semantic_max_new_tokens": 2, "semantic_min_new_tokens": 2},
        {"min_eos_p": 0.02},
        {"semantic_min_eos_p": 0.01, "semantic_min_new_tokens": 9},
    ],
    ids=lambda options: next(iter(options)),
)
def test_options_reach_their_stages(model: Any, theirs: Any, processor: Any, options: dict[str, Any]) -> None:
    inputs = model.tokenizer(TEXTS[:2], padding=True, add_special_tokens=False, return_tensors="np")
    ids = {name: inputs[name] for name in ("input_ids", "attention_mask")}
    plain, found = model.generate(**ids, **GREEDY), model.generate(**ids, **GREEDY, **options)
    expected = said(theirs, processor, TEXTS[:2], None, **GREEDY, **options)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
    assert found.shape != plain.shape or not np.allclose(found, plain, atol=1e-3)


def test_a_pipeline_is_upstreams(model: Any, theirs: Any, processor: Any) -> None:
    speak = precast.pipeline("text-to-speech", model)
    other = transformers.pipeline("text-to-speech", model=theirs, processor=processor, tokenizer=processor.tokenizer)
    for text in TEXTS:
        found, expected = speak(text, generate_kwargs=GREEDY), other(text, generate_kwargs=GREEDY)
        assert found["sampling_rate"] == expected["sampling_rate"] == 600
        np.testing.assert_allclose(found["audio"], np.squeeze(expected["audio"]), rtol=0, atol=1e-5)
    same = speak(TEXTS, forward_params=GREEDY, voice_preset="de_speaker_3")
    voices = np.load(model.artifact.path / "speaker_embeddings.npz")
    parts = {name: voices[f"de_speaker_3|{name}"] for name in ("semantic_prompt", "coarse_prompt", "fine_prompt")}
    for text, one in zip(TEXTS, same, strict=True):
        alone = speak(text, forward_params={**GREEDY, "history_prompt": parts})
        np.testing.assert_array_equal(one["audio"], alone["audio"])


def test_a_processor_is_upstreams(model: Any, processor: Any) -> None:
    found = precast.AutoProcessor.from_pretrained(tiny_artifacts.storyteller())
    assert {*found.available_voice_presets, "missing"} == {*processor.available_voice_presets}
    for options in ({}, {"voice_preset": "de_speaker_3", "max_length": 60}):
        for texts in (TEXTS[0], TEXTS):
            ours, expected = found(texts, **options), processor(texts, **options)
            assert ours.keys() == expected.keys() and ours["input_ids"].shape[1] == options.get("max_length", 256)
            for name in ("input_ids", "attention_mask"):
                np.testing.assert_array_equal(ours[name], expected[name])
            for part, array in ours.get("history_prompt", {}).items():
                np.testing.assert_array_equal(array, expected["history_prompt"][part])
    spoken = model.generate(**found(TEXTS[0], "de_speaker_3"), **GREEDY)
    ids = model.tokenizer(TEXTS[0], add_special_tokens=False, return_tensors="np")["input_ids"]
    np.testing.assert_array_equal(spoken, model.generate(ids, voice_preset="de_speaker_3", **GREEDY))
    with pytest.raises(InputError, match="voice 'en' is none of this artifact's"):
        found("Hello", "en")


def test_a_seed_is_one_saying(model: Any) -> None:
    """As the checkpoint says it is drawn, in every stage."""
    ids = model.tokenizer(TEXTS[0], add_special_tokens=False, return_tensors="np")["input_ids"]
    first, again, other = (model(ids, seed=seed).waveform for seed in (0, 0, 1))
    assert first.tobytes() == again.tobytes() == model(ids).waveform.tobytes()
    assert first.shape != other.shape or not np.array_equal(first, other)
    rows = model(np.concatenate((ids, ids)))
    assert len(set(rows.sequence_lengths.tolist())) == 2 or not np.array_equal(*rows.waveform)
    # What is drawn last alone differs.
    quiet = {
        "semantic_do_sample": False,
        "coarse_do_sample": False,
        "semantic_temperature": 1.0,
        "coarse_temperature": 1.0,
    }
    drawn = [model(ids, seed=seed, **quiet).waveform for seed in (0, 1)]
    still = [model(ids, seed=seed, **quiet, fine_temperature=None).waveform for seed in (0, 1)]
    assert drawn[0].shape == drawn[1].shape and not np.array_equal(*drawn)
    np.testing.assert_array_equal(*still)
    cold = model(ids, **quiet, fine_temperature=1e-4).waveform
    np.testing.assert_allclose(cold, still[0], rtol=0, atol=1e-6)


def test_it_is_verified_and_knows_its_voices(model: Any) -> None:
    report: Any = precast.verify(model.path)
    assert {entry["status"] for entry in report["variants"].values()} == {"verified"}
    assert model.voices == ("de_speaker_3", "v2/en_speaker_0") and model.sampling_rate == 600


def test_what_cannot_be_said_is_refused(model: Any) -> None:
    ids = np.array([[5, 6, 7]])
    good = dict(model._brought["de_speaker_3"])
    for options, message in (
        ({"voice_preset": "en"}, "voice 'en' is none of this artifact's; it has 2: de_speaker_3, v2/en_speaker_0"),
        ({"voice_preset": "x", "history_prompt": {}}, "two names of one argument"),
        ({"history_prompt": {"semantic_prompt": [1]}}, "received one without coarse_prompt, fine_prompt"),
        (
            {"history_prompt": {**good, "coarse_prompt": np.zeros((3, 4), int)}},
            r"coarse_prompt is an array .* \[2, T\]",
        ),
        ({"history_prompt": {**good, "fine_prompt": np.full((4, 4), 16)}}, "fine_prompt must be 0 to 15; received 16"),
        ({"history_prompt": {**good, "semantic_prompt": np.ones(3)}}, "semantic_prompt is an array of integers"),
        ({"max_new_tokens": 3}, "max_new_tokens is decided .* Give semantic_max_new_tokens"),
        ({"coarse_max_new_tokens": 3}, "coarse_max_new_tokens is decided"),
        ({"num_return_sequences": 2}, "num_return_sequences is decided"),
        ({"fine_do_sample": True}, "takes fine_temperature alone; received do_sample"),
        ({"fine_temperature": 0}, "temperature is above 0, or None"),
        ({"min_eos_p": 0.0}, "min_eos_p is a probability above 0"),
        ({"tempo": 2}, "generate\\(\\) has no argument 'tempo'"),
        ({"min_eos_p": 1e-9}, "says nothing of this text: it ends at once"),
        ({"seed": -1}, "seed must be an integer of at least 0"),
    ):
        with pytest.raises(InputError, match=message):
            model.generate(ids, **options)
    with pytest.raises(InputError, match="input_ids must be 0 to 1007; received 1008"):
        model(np.array([[1008]]))
    with pytest.raises(InputError, match="input 'input_ids' is needed"):
        model.generate()
    with pytest.raises(InputError, match="speaks in stages"):
        bench(str(model.path), grid=[(1, 8)], threads=[1], plan=Plan(launches=1, seconds=0.01, warm=0.01))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (None, "generation_config.json is needed beside this model"),
        ({"semantic_config": {"text_pad_token": 1032}}, "semantic_config.text_pad_token must be 0 to 1031"),
        ({"semantic_config": {"eos_token_id": 3}}, "semantic_config.eos_token_id must be 20 to 23"),
        ({"semantic_config": {"semantic_rate_hz": 0}}, "semantic_config.semantic_rate_hz must be a number above 0"),
        ({"coarse_acoustics_config": {"n_coarse_codebooks": 3}}, "n_coarse_codebooks must be 2, got 3"),
        ({"coarse_acoustics_config": {"max_coarse_history": 60}}, "add up to 84 of 80 positions"),
        ({"fine_acoustics_config": {"n_fine_codebooks": 8}}, "n_fine_codebooks must be 4 to 4"),
        ({"fine_acoustics_config": {"max_fine_input_length": 81}}, "max_fine_input_length must be 1 to 80"),
        ({"codebook_size": 17}, "codebook_size must be 1 to 16"),
        ({"semantic_config": {"guidance_scale": 3}}, "guidance_scale is not supported"),
    ],
    ids=str,
)
def test_stages_that_do_not_fit_are_not_exported(tmp_path: Path, changed: Any, message: str) -> None:
    source = tiny_artifacts.storyteller_checkpoint()
    said = precast.load(tiny_artifacts.storyteller()).artifact.reading("stages")

    class Checkpoint:
        id = "here"

        def read_json(self, name: str) -> Any:
            if changed is None:
                return None
            stated = json.loads((source / "generation_config.json").read_text("utf-8"))
            for key, value in changed.items():
                stated[key] = {**stated[key], **value} if isinstance(value, dict) else value
            return stated

    with pytest.raises(ConfigError, match=message):
        stages({key: value for key, value in said.items() if key != "voices"}, Checkpoint(), None)  # type: ignore[arg-type]


def test_a_damaged_voice_is_named(tmp_path: Path) -> None:
    source = tmp_path / "checkpoint"
    shutil.copytree(tiny_artifacts.storyteller_checkpoint(), source)
    path = source / "speaker_embeddings" / "de_speaker_3_fine_prompt.npy"
    np.save(path, np.zeros((3, 5), np.int64))
    with pytest.raises(CheckpointError, match=r"voice 'de_speaker_3': fine_prompt is an array of integers \[4, T\]"):
        export_model(source, tmp_path / "out")
    path.write_bytes(b"nothing")
    with pytest.raises(CheckpointError, match=r"voice 'de_speaker_3': .*must be an \.npy file"):
        export_model(source, tmp_path / "out")
