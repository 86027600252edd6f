"""What Whisper's answers begin with, times among their words, and how sure they are, against upstream's own."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support import tiny_artifacts
from support.tiny_artifacts import SPEECH
from transformers import GenerationMixin
from transformers.generation.logits_process import WhisperTimeStampLogitsProcessor

import precast
from precast.export.heads import SPEECH_SEQ2SEQ
from precast.runtime.backends.base import Array
from precast.runtime.errors import ConfigError, InputError
from precast.runtime.generation.alignment import token_frames
from precast.runtime.generation.config import GenerationConfig
from precast.runtime.generation.history import History
from precast.runtime.generation.speech import SPEECH_KEYS, Speech
from precast.runtime.generation.timestamps import Timestamps

END, START, FIRST, VOCAB = SPEECH["eos_token_id"], SPEECH["decoder_start_token_id"], 79, 99


@pytest.fixture(scope="module")
def model() -> Any:
    return precast.load(tiny_artifacts.recogniser(), threads=1)


@pytest.fixture(scope="module")
def upstream() -> Any:
    return tiny_artifacts.recogniser_checkpoint()[1]


def heard(rows: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal((rows, 10, 60), dtype=np.float32)


ROWS = st.lists(st.integers(0, VOCAB - 1) | st.integers(FIRST, VOCAB - 1), max_size=6)


@settings(max_examples=200, deadline=None)
@given(st.lists(ROWS, min_size=1, max_size=4), st.sampled_from([None, 0, 6]), st.integers(0, 2**32 - 1), st.booleans())
def test_times_are_where_upstream_lets_them_be(rows: list[list[int]], latest: int | None, seed: int, ban: bool) -> None:
    """Rows of different length behind prompts of different length here, one by one there."""
    draw = np.random.default_rng(seed)
    logits = (3 * draw.standard_normal((len(rows), VOCAB))).astype(np.float32)
    if ban:
        logits[:, draw.integers(0, VOCAB, 30)] = -np.inf
    prompts = [[START] * (1 + index % 3) for index in range(len(rows))]
    history = History(prompts, room=20)
    for index, row in enumerate(rows):
        history.extend(index, row)
    ours = logits.copy()
    Timestamps(FIRST, END, latest)(ours, history)
    config = SimpleNamespace(
        no_timestamps_token_id=FIRST - 1, eos_token_id=END, bos_token_id=END, max_initial_timestamp_index=latest
    )
    for index, (prompt, row) in enumerate(zip(prompts, rows, strict=True)):
        theirs = WhisperTimeStampLogitsProcessor(config, begin_index=len(prompt))  # type: ignore[arg-type]
        wanted = theirs(torch.tensor([[*prompt, *row]]), torch.from_numpy(logits[index : index + 1].copy()))[0]
        np.testing.assert_array_equal(ours[index], wanted.numpy())


ASKED: list[dict[str, Any]] = [
    {},
    {"language": "de"},
    {"language": "French"},
    {"language": "<|en|>", "task": "translate"},
    {"task": "translate"},
    {"task": "transcribe", "return_timestamps": True},
    {"language": ["en", "German", "fr"], "task": "transcribe"},
    {"return_timestamps": True},
]


@pytest.mark.parametrize("asked", ASKED, ids=str)
@pytest.mark.parametrize("beams", [1, 3])
def test_answers_are_upstream_s(model: Any, upstream: Any, asked: dict[str, Any], beams: int) -> None:
    """Languages found out, tasks, times and bans: what upstream writes down, and what it begins with."""
    features = heard(3, seed=4)
    got = model.generate(features, num_beams=beams, max_new_tokens=20, **asked)
    begin = _begun(upstream, features, asked)
    length = begin.shape[1]
    np.testing.assert_array_equal(got[:, :length], begin)
    with torch.no_grad():
        # Without a split at times, which is the pipeline's.
        wanted = upstream.generate(
            torch.from_numpy(features), num_beams=beams, max_new_tokens=20, force_unique_generate_call=True, **asked
        )
    assert [_words(row) for row in got[:, length:].tolist()] == [_words(row) for row in wanted[:, length:].tolist()]
    if asked.get("return_timestamps"):
        assert (got[:, length] >= FIRST).all() and (got[:, length] <= FIRST + 6).all()


def _begun(upstream: Any, features: Array, asked: dict[str, Any]) -> Array:
    config, _ = upstream._prepare_generation_config(None)
    upstream._set_return_timestamps(asked.get("return_timestamps"), is_shortform=True, generation_config=config)
    upstream._set_language_and_task(asked.get("language"), asked.get("task"), None, config)
    tokens = upstream._retrieve_init_tokens(
        torch.from_numpy(features), batch_size=len(features), generation_config=config, config=upstream.config,
        num_segment_frames=60, kwargs={},
    )  # fmt: skip
    return np.asarray(tokens)


def _words(row: list[int]) -> list[int]:
    return row[: row.index(END)] if END in row else row


def test_the_encoder_runs_once_where_a_language_is_found_out(model: Any) -> None:
    runner, calls = model.flow.parts["encoder"].runner, []
    run = runner.run
    try:
        runner.run = lambda inputs: calls.append(len(inputs["input_features"])) or run(inputs)
        whole = model.generate(heard(2), num_beams=2, max_new_tokens=6)
        encoded = model.encoder_outputs(heard(2))
        assert encoded.rows == 2 and calls == [2, 2]
        np.testing.assert_array_equal(model.generate(encoder_outputs=encoded, num_beams=2, max_new_tokens=6), whole)
        warm = model.generate(encoder_outputs=encoded, do_sample=True, temperature=0.8, seed=0, max_new_tokens=6)
        out = model(encoder_outputs=encoded, decoder_input_ids=whole)
    finally:
        runner.run = run
    assert calls == [2, 2] and warm.shape[0] == 2
    again = model(heard(2), decoder_input_ids=whole)
    for name in again:
        np.testing.assert_array_equal(out[name], again[name])


@pytest.mark.parametrize("how", [{}, {"do_sample": True, "temperature": 0.6, "seed": 3}, {"return_timestamps": True}])
def test_how_sure_an_answer_is(model: Any, upstream: Any, how: dict[str, Any]) -> None:
    """The mean over an answer's tokens, its end included, is what upstream compares with ``logprob_threshold``."""
    asked = {"return_dict_in_generate": True, "output_scores": True, "output_logprobs": True, **how}
    out = model.generate(heard(4, seed=2), max_new_tokens=14, **asked)
    assert out.logprobs.shape == (4, len(out.scores)) and (out.logprobs <= 0).all()
    for row in range(4):
        count = out.new_tokens[row]
        tokens = torch.from_numpy(out.sequences[row, -len(out.scores) :][:count])
        scores = [torch.from_numpy(step[row]) for step in out.scores[:count]]
        wanted = upstream._retrieve_avg_logprobs(scores, tokens, how.get("temperature", 0.0))
        np.testing.assert_allclose(out.logprobs[row, :count].mean(), wanted.item(), rtol=1e-5)
        assert not out.logprobs[row, count:].any()


def test_whether_anybody_speaks(model: Any, upstream: Any) -> None:
    """What upstream compares with ``no_speech_threshold``: a token's probability behind the first one."""
    encoded = model.encoder_outputs(heard(2))
    logits = model(encoder_outputs=encoded, decoder_input_ids=[[START]] * 2)["logits"][:, 0]
    speech = GenerationConfig.from_checkpoint(model.generation_config, model.config).speech
    assert speech.no_speech_token_id == 77 and speech.timestamp_begin == FIRST
    likely = np.exp(logits - logits.max(-1, keepdims=True))
    with torch.no_grad():
        asked = {"input_features": torch.from_numpy(heard(2)), "decoder_input_ids": torch.tensor([[START]] * 2)}
        theirs = upstream(**asked).logits[:, 0].softmax(-1)
    np.testing.assert_allclose((likely / likely.sum(-1, keepdims=True))[:, 77], theirs[:, 77].numpy(), rtol=1e-4)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"language": "Klingon"}, "language 'Klingon' is not one that this model knows"),
        ({"language": "germn"}, "'germn' is not one .* Closest: german"),
        ({"language": ["en"]}, r"one a recording \(2\); received 1"),
        ({"language": 3}, "language must be a language, or a list"),
        ({"task": "sing"}, "has no task 'sing'; it has: "),
        ({"return_timestamps": 1}, "return_timestamps must be True or False"),
        ({"encoder_outputs": {}}, "encoder_outputs stands in place of input_features"),
        ({"output_logprobs": True}, "output_logprobs come with the dict of results"),
        ({"output_logprobs": True, "num_beams": 2, "return_dict_in_generate": True}, "has sequences_scores"),
    ],
    ids=str,
)
def test_what_cannot_be_asked_is_refused(model: Any, asked: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        model.generate(heard(2), **asked)


def test_what_another_model_made_is_refused(model: Any) -> None:
    other = precast.load(tiny_artifacts.recogniser(), threads=1)
    with pytest.raises(InputError, match=r"gave; received Encoded of another model"):
        model.generate(encoder_outputs=other.encoder_outputs(heard(1)))
    with pytest.raises(InputError, match=r"gave; received dict\."):
        model(encoder_outputs={}, decoder_input_ids=[[1]])
    with pytest.raises(InputError, match="decoder_input_ids has 2 rows, encoder_outputs 1"):
        model(encoder_outputs=model.encoder_outputs(heard(1)), decoder_input_ids=[[1], [2]])
    reads = precast.load(tiny_artifacts.language_model(), threads=1)
    for call in (lambda: reads.encoder_outputs(heard(1)), lambda: reads.generate(encoder_outputs=other)):
        with pytest.raises(InputError, match="has a decoder only"):
            call()
    with pytest.raises(InputError, match="this checkpoint names no languages"):
        reads.generate([[5]], language="en")
    with pytest.raises(InputError, match="has no no_timestamps_token_id"):
        reads.generate([[5]], return_timestamps=True)


def test_a_model_of_one_language_is_asked_for_none() -> None:
    """As openai/whisper-tiny.en says it."""
    speech = Speech.read({"is_multilingual": False, "no_timestamps_token_id": 78, "forced_decoder_ids": [[1, 78]]})
    assert speech.begin(START, 2) == [[START, 78]] * 2
    assert speech.merged({"return_timestamps": True}).begin(START, 1) == [[START]]
    for asked in ({"language": "en"}, {"task": "transcribe"}):
        with pytest.raises(InputError, match="knows one language"):
            speech.merged(asked)


@pytest.mark.parametrize(
    "stated",
    [
        {"alignment_heads": [[1]]},
        {"alignment_heads": [[1, -2]]},
        {"forced_decoder_ids": [[2, 5]]},
        {"forced_decoder_ids": [[1, "a"]]},
        {"forced_decoder_ids": 5},
        {"lang_to_id": {"en": -1}},
        {"task_to_id": [1]},
        {"no_timestamps_token_id": True},
        {"return_timestamps": "word"},
        {"no_speech_threshold": "high"},
        {"task": ""},
    ],
    ids=str,
)
def test_what_a_checkpoint_says_wrongly_is_named(stated: dict[str, Any]) -> None:
    [name] = stated
    with pytest.raises(ConfigError, match=rf"generation_config\.json: {name} must be .*; correct the file"):
        GenerationConfig.from_checkpoint(stated, {})


def test_nulls_say_nothing_and_config_json_fills_gaps() -> None:
    config = GenerationConfig.from_checkpoint(dict.fromkeys(SPEECH_KEYS), {"forced_decoder_ids": [[1, 5]]})
    assert config.speech == Speech()
    config = GenerationConfig.from_checkpoint({}, {"forced_decoder_ids": [[1, None], [2, 6]], "median_filter_width": 9})
    assert config.speech == Speech(forced_decoder_ids=(None, 6), median_filter_width=9)
    assert GenerationConfig.from_checkpoint(None, {"forced_decoder_ids": [[1, 5]]}).speech.forced_decoder_ids == (5,)


def test_where_each_token_was_heard_is_upstream_s(model: Any, upstream: Any) -> None:
    """A pass over the finished tokens gives what upstream gathers of its steps."""
    features = heard(3, seed=7)
    encoded = model.encoder_outputs(features)
    tokens = model.generate(encoder_outputs=encoded, max_new_tokens=9, min_new_tokens=9)
    got = model.alignments(tokens, encoded)
    with torch.no_grad():
        asked = {"input_features": torch.from_numpy(features), "decoder_input_ids": torch.from_numpy(tokens)}
        every = upstream(**asked, output_attentions=True).cross_attentions
    wanted = np.stack([every[layer][:, head].numpy() for layer, head in SPEECH["alignment_heads"]], axis=1)
    assert got.shape == wanted.shape == (3, 3, tokens.shape[1], 30)
    np.testing.assert_allclose(got, wanted, atol=1e-5)
    np.testing.assert_allclose(got.sum(-1), 1, atol=1e-5)
    np.testing.assert_array_equal(model.alignments(tokens, encoded, heads=[(1, 0)])[:, 0], got[:, 1])
    for given_wrongly, message in (
        ({"heads": [(2, 0)]}, r"of 2 layers with 4 heads each, one at least; received \[\[2, 0\]\]"),
        ({"heads": [(0, 4)]}, "of 2 layers with 4 heads"),
        ({"heads": []}, "one at least; received"),
        ({"sequences": tokens[:2]}, "sequences has 2 rows, encoder_outputs 3"),
        ({"sequences": tokens + 99}, "must be 0 to 98"),
        ({"encoder_outputs": {}}, "received dict"),
    ):
        with pytest.raises(InputError, match=message):
            model.alignments(**{"sequences": tokens, "encoder_outputs": encoded, **given_wrongly})


@pytest.mark.parametrize("beams", [1, 3])
def test_times_of_tokens_are_upstream_s(model: Any, upstream: Any, beams: int) -> None:
    features = heard(3, seed=8)
    begin = [[START, 71, 75, 78]] * 3
    encoded = model.encoder_outputs(features)
    arguments: dict[str, Any] = {"max_new_tokens": 12, "min_new_tokens": 12, "num_beams": beams}
    tokens = model.generate(encoder_outputs=encoded, decoder_input_ids=begin, **arguments)
    with torch.no_grad():
        made = GenerationMixin.generate(
            upstream, torch.from_numpy(features), decoder_input_ids=torch.tensor(begin), output_attentions=True,
            return_dict_in_generate=True, **arguments,
        )  # fmt: skip
    np.testing.assert_array_equal(made.sequences.numpy(), tokens)
    wanted = upstream._extract_token_timestamps(made, SPEECH["alignment_heads"], num_input_ids=4).numpy()
    weights = model.alignments(tokens[:, :-1], encoded)
    for row in range(3):
        got = token_frames(weights[row, :, 4:]) * 0.02
        np.testing.assert_allclose(got, wanted[row, 4:-1], atol=1e-6)


def test_times_of_one_token_and_of_few_frames() -> None:
    draw = np.random.default_rng(0)
    assert token_frames(draw.random((2, 1, 9), dtype=np.float32)).tolist() == [0]
    found = token_frames(draw.random((2, 5, 2), dtype=np.float32))
    assert found[0] == 0 and (np.diff(found) >= 0).all()
    # Each token is heard where it stands out.
    plain = np.full((1, 3, 12), 0.01, np.float32)
    for token in range(3):
        plain[0, token, 4 * token : 4 * token + 4] = 1
    assert token_frames(plain, width=3).tolist() == [0, 4, 8]
    for shape, width in (((2, 0, 9), 7), ((5, 9), 7), ((2, 5, 9), 4)):
        with pytest.raises(InputError, match="width is an odd number; received"):
            token_frames(np.zeros(shape, np.float32), width)


def test_a_model_that_does_not_say_it_is_named() -> None:
    other = precast.load(tiny_artifacts.plain("speech_to_text", SPEECH_SEQ2SEQ), threads=1)
    encoded = other.encoder_outputs(np.zeros((1, 9, 10), np.float32))
    with pytest.raises(InputError, match="names no alignment_heads"):
        other.alignments([[2, 3]], encoded)
    with pytest.raises(InputError, match="does not say where a token was heard"):
        other.alignments([[2, 3]], encoded, heads=[(0, 0)])
