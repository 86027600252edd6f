"""Generation over sound: an encoder-decoder that hears is called and generates as upstream's does, and refuses what it
cannot hear by name."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from support import oracle, tiny_artifacts
from support.prompts import ended
from transformers import GenerationMixin

import precast
from precast.export.heads import SEQ2SEQ_LM, SPEECH_SEQ2SEQ
from precast.runtime.backends.base import Array
from precast.runtime.errors import InputError
from precast.runtime.generation.streaming import stream_tokens

EOS = 2


@pytest.fixture(scope="module")
def model() -> Any:
    return precast.load(tiny_artifacts.plain("whisper", SPEECH_SEQ2SEQ), threads=1)


@pytest.fixture(scope="module")
def upstream() -> Any:
    return oracle.upstream("whisper", SPEECH_SEQ2SEQ, {})[1]


def heard(rows: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal((rows, 10, 60), dtype=np.float32)


def test_a_call_gives_logits_and_the_encoder_s_states(model: Any, upstream: Any) -> None:
    features, ids = heard(3), np.random.default_rng(1).integers(3, 99, (3, 7))
    mask = np.ones_like(ids)
    mask[0, :3], mask[1, 5:] = 0, 0  # padding on either side
    assert model.input_names == ("input_features", "decoder_input_ids", "decoder_attention_mask")
    out = model(features, decoder_input_ids=ids, decoder_attention_mask=mask)
    assert list(out) == list(model.output_names) == ["logits", "encoder_last_hidden_state"]
    for row, real in enumerate(mask.astype(bool)):
        with torch.no_grad():
            alone = torch.from_numpy(features[row : row + 1]), torch.from_numpy(ids[row, real])[None]
            expected = upstream(input_features=alone[0], decoder_input_ids=alone[1])
        np.testing.assert_allclose(out["logits"][row, real], expected.logits[0].numpy(), atol=1e-4)
        states = expected.encoder_last_hidden_state[0].numpy()
        np.testing.assert_allclose(out["encoder_last_hidden_state"][row], states, atol=1e-4)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"num_beams": 3},
        {"num_beams": 4, "num_return_sequences": 2, "length_penalty": 0.5},
        {"suppress_tokens": [5]},
    ],
    ids=str,
)
def test_tokens_are_upstream_s(model: Any, upstream: Any, options: dict[str, Any]) -> None:
    features = heard(6)
    arguments = {"max_new_tokens": 12, **options}
    got = model.generate(input_features=features, **arguments)
    np.testing.assert_array_equal(model.generate(features, **arguments), got)
    with torch.no_grad():
        wanted = GenerationMixin.generate(upstream, input_features=torch.from_numpy(features), **arguments)
    for ours, theirs in zip(got.tolist(), wanted.tolist(), strict=True):
        assert ended(ours[1:], EOS) == ended(theirs[1:], EOS)


def test_what_is_asked_for_begins_the_answer(model: Any, upstream: Any) -> None:
    """Rows that begin with prompts of different length, padded on the left, as alone."""
    features, prompts = heard(2), [[2, 7, 8, 9], [2, 11]]
    got = model.generate(features, decoder_input_ids=prompts, max_new_tokens=5, return_dict_in_generate=True)
    assert got.prompt_tokens == [4, 2]
    for row, prompt in enumerate(prompts):
        with torch.no_grad():
            asked = torch.tensor(prompt)[None]
            alone = torch.from_numpy(features[row : row + 1])
            wanted = GenerationMixin.generate(upstream, alone, decoder_input_ids=asked, max_new_tokens=5)[0].tolist()
        assert ended(got.sequences[row, 4:].tolist(), EOS) == ended(wanted[len(prompt) :], EOS)


def test_the_encoder_runs_once_and_rows_share_what_it_made(model: Any) -> None:
    runner, calls = model.flow.parts["encoder"].runner, []
    run = runner.run
    try:
        runner.run = lambda inputs: calls.append(inputs["input_features"].shape) or run(inputs)
        model.generate(heard(2), num_beams=4, max_new_tokens=6)
        model.generate(heard(1), do_sample=True, num_return_sequences=5, seed=1, max_new_tokens=4)
    finally:
        runner.run = run
    assert calls == [(2, 10, 60), (1, 10, 60)]


def test_tokens_come_as_they_are_made(model: Any) -> None:
    whole = model.generate(heard(1), max_new_tokens=6)[0, 1:].tolist()
    assert list(stream_tokens(model, heard(1), max_new_tokens=6)) == whole


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, r"generate\(\) needs input_features: .* Pass input_features \[batch, 10, 60\]"),
        ({"input_ids": [[3, 4]]}, r"this model hears: its input is input_features .*; received input_ids"),
        ({"input_values": np.zeros((1, 60))}, "its input is input_features .*; received input_values"),
        ({"inputs": heard(1), "input_features": heard(1)}, "two names of one argument"),
        ({"inputs": heard(1)[:, :, :59]}, r"'input_features' is \[batch, 10, 60\]; received shape \(1, 10, 59\)"),
        ({"inputs": heard(1)[:, :9]}, r"'input_features' is \[batch, 10, 60\]; received shape \(1, 9, 60\)"),
        ({"inputs": heard(1)[0]}, "'input_features' has 3 dimensions"),
        ({"inputs": heard(1)[:0]}, "at least one feature"),
        ({"inputs": np.full((1, 10, 60), np.nan, np.float32)}, "'input_features' holds NaN or infinity"),
        ({"inputs": heard(2), "decoder_input_ids": [[2, 3]]}, "1 rows for 2 prompts"),
        (
            {"inputs": heard(1), "encoder_no_repeat_ngram_size": 2},
            "encoder_no_repeat_ngram_size looks at a text .* none is known",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else ",".join(value),
)
def test_what_cannot_be_heard_is_refused(model: Any, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        model.generate(**arguments)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"input_features": heard(1)}, "needs decoder_input_ids beside input_features"),
        ({"decoder_input_ids": [[2, 3]]}, "'input_features' is needed"),
        ({"input_features": heard(1)[:, :, :58], "decoder_input_ids": [[2]]}, r"is \[batch, 10, 60\]"),
        ({"input_features": heard(2), "decoder_input_ids": [[2]]}, "batch is one size in all inputs"),
        ({"input_features": heard(1) * np.inf, "decoder_input_ids": [[2]]}, "NaN or infinity"),
        ({"input_features": heard(1), "input_ids": [[2]]}, "'input_ids' is not one of this model's|beside"),
    ],
    ids=lambda value: value if isinstance(value, str) else ",".join(value),
)
def test_a_call_refuses_the_same(model: Any, inputs: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        model(**inputs)


def test_models_of_texts_hear_nothing() -> None:
    reads = precast.load(tiny_artifacts.plain("t5", SEQ2SEQ_LM), threads=1)
    with pytest.raises(InputError, match=r"reads texts alone; received input_features. Pass input_ids"):
        reads.generate(input_features=heard(1))
    continues = precast.load(tiny_artifacts.language_model(), threads=1)
    with pytest.raises(InputError, match=r"neither hears nor sees; received input_values. Pass input_ids"):
        continues.generate(input_values=np.zeros((1, 16)))


def test_the_artifact_is_verified_again() -> None:
    assert precast.verify(tiny_artifacts.plain("whisper", SPEECH_SEQ2SEQ))


def test_rows_of_different_length_are_heard_as_upstream_hears_them() -> None:
    """The mask of what is heard is not that of what the decoder reads: convolutions shorten it."""
    model: Any = precast.load(tiny_artifacts.plain("speech_to_text", SPEECH_SEQ2SEQ), threads=1)
    theirs: Any = oracle.upstream("speech_to_text", SPEECH_SEQ2SEQ, {})[1]
    features = np.random.default_rng(5).standard_normal((4, 41, 10), dtype=np.float32)
    mask = (np.arange(41) < np.array([41, 7, 1, 22])[:, None]).astype(np.int64)
    ids = np.array([[2, 5, 6, 7]] * 4)
    given = {"input_features": torch.from_numpy(features), "attention_mask": torch.from_numpy(mask)}
    out = model(features, attention_mask=mask, decoder_input_ids=ids)
    with torch.no_grad():
        wanted = theirs(**given, decoder_input_ids=torch.from_numpy(ids))
        how = {"max_new_tokens": 9, "min_new_tokens": 9, "num_beams": 3}
        tokens = GenerationMixin.generate(theirs, **given, **how).tolist()
    np.testing.assert_allclose(out["logits"], wanted.logits.numpy(), atol=1e-4)
    states = wanted.encoder_last_hidden_state.numpy()
    np.testing.assert_allclose(out["encoder_last_hidden_state"], states, atol=1e-4)
    arguments: dict[str, Any] = {"attention_mask": mask, **how}
    got = model.generate(features, **arguments)
    assert [ended(row[1:], EOS) for row in got.tolist()] == [ended(row[1:], EOS) for row in tokens]
    del arguments["attention_mask"]
    encoded = model.encoder_outputs(features, attention_mask=mask)
    np.testing.assert_array_equal(model.generate(encoder_outputs=encoded, **arguments), got)
    assert not np.array_equal(model.generate(features, **arguments), got), "all is heard where nothing is hidden"
    with pytest.raises(InputError, match=r"the attention_mask of row 1 leaves 0"):
        model.generate(features, attention_mask=mask * [[1], [0], [1], [1]])
    with pytest.raises(InputError, match=r"frames is one size in all inputs"):
        model.generate(features, attention_mask=mask[:, 1:])
    with pytest.raises(InputError, match=r"frames is 800 at most; received 801"):
        model.generate(np.zeros((1, 801, 10), np.float32))
    with pytest.raises(InputError, match=r"frames is 800 at most; received 801"):
        model(np.zeros((1, 801, 10), np.float32), decoder_input_ids=[[2]])


def test_samples_are_heard_as_upstream_hears_them() -> None:
    model: Any = precast.load(tiny_artifacts.plain("moonshine", SPEECH_SEQ2SEQ), threads=1)
    theirs: Any = oracle.upstream("moonshine", SPEECH_SEQ2SEQ, {})[1]
    sound = (0.1 * np.random.default_rng(6).standard_normal((3, 4001))).astype(np.float32)
    mask = (np.arange(4001) < np.array([4001, 895, 2100])[:, None]).astype(np.int64)
    sound *= mask
    assert model.input_names == ("input_values", "attention_mask", "decoder_input_ids", "decoder_attention_mask")
    given = {"input_values": torch.from_numpy(sound), "attention_mask": torch.from_numpy(mask)}
    out = model(sound, attention_mask=mask, decoder_input_ids=[[1, 5, 6]] * 3)
    how: dict[str, Any] = {"max_new_tokens": 8, "min_new_tokens": 8, "num_beams": 2}
    with torch.no_grad():
        wanted = theirs(**given, decoder_input_ids=torch.tensor([[1, 5, 6]] * 3))
        tokens = GenerationMixin.generate(theirs, **given, **how)
    np.testing.assert_allclose(out["logits"], wanted.logits.numpy(), atol=1e-4)
    np.testing.assert_array_equal(model.generate(input_values=sound, attention_mask=mask, **how), tokens.numpy())
    for given_wrongly, message in (
        ({"inputs": sound[:, :894]}, "samples is 895 at least; received 894"),
        ({"inputs": sound, "attention_mask": mask[:, ::-1] * (np.arange(4001) < 800)}, "every recording has 895 sampl"),
        ({"inputs": sound * np.nan}, "NaN or infinity; every sample"),
        ({"input_features": sound}, "its input is input_values .batch, samples."),
    ):
        with pytest.raises(InputError, match=message):
            model.generate(**given_wrongly)
