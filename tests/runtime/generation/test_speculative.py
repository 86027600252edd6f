"""Speculative decoding gives what plain decoding gives, whoever guesses and however well."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.torch_engine import (
    TorchEngine,
    random_prompts,
    served,
    tiny_bart,
    tiny_gpt2,
    tiny_llama,
    tiny_t5,
    upstream,
)

from precast.runtime.errors import InputError
from precast.runtime.generation.api import generate
from precast.runtime.generation.conversation import Conversation
from precast.runtime.generation.speculative import DraftModel, PromptLookup

MAKERS = {"gpt2": tiny_gpt2, "llama": tiny_llama, "bart": tiny_bart, "t5": tiny_t5}


@cache
def upstream_model(name: str, seed: int = 0) -> Any:
    return MAKERS[name](seed)


def repeating_prompts(count: int) -> list[list[int]]:
    """Prompts with something to look up."""
    draw = np.random.default_rng(3)
    return [draw.integers(3, 9, draw.integers(3, 24)).tolist() for _ in range(count)]


LOOKUP = {"prompt_lookup_num_tokens": 5, "max_matching_ngram_size": 3}


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_prompt_lookup_is_greedy_search(name: str) -> None:
    model = upstream_model(name)
    accepted = 0
    for prompt in repeating_prompts(20):
        expected = upstream(model, [prompt], max_new_tokens=24)
        found = generate(served(model), [prompt], max_new_tokens=24, return_dict_in_generate=True, **LOOKUP)
        assert np.array_equal(found.sequences, expected)
        assert 0 <= found.acceptance.accepted <= found.acceptance.drafted
        accepted += found.acceptance.accepted
    assert accepted > 20, "these prompts repeat themselves, so some guesses must have been right"


def test_prompt_lookup_takes_fewer_steps_by_what_it_accepts() -> None:
    model = upstream_model("gpt2")
    ours = served(model)
    prompt = [5, 6, 7, 8] * 5
    found = generate(
        ours, [prompt], max_new_tokens=30, min_new_tokens=30, return_dict_in_generate=True, output_scores=True, **LOOKUP
    )
    feeds = ours.engine().feeds
    assert found.acceptance.accepted > 0
    assert len(feeds) == found.timings.steps == 30 - found.acceptance.accepted
    assert len(found.scores) == 30
    assert 0 < found.acceptance.rate <= 1
    plain = generate(
        ours, [prompt], max_new_tokens=30, min_new_tokens=30, return_dict_in_generate=True, output_scores=True
    )
    for one, other in zip(found.scores, plain.scores, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-4)


@pytest.mark.parametrize("name", MAKERS)
def test_a_draft_model_changes_nothing(name: str) -> None:
    """A bad draft (other weights), a perfect one (the same), each with schedules and thresholds."""
    model = upstream_model(name)
    ids, mask = random_prompts(31, rows=6)
    for row, keep in zip(ids, mask, strict=True):
        prompt = [row[keep != 0].tolist()]
        expected = upstream(model, prompt, max_new_tokens=18)
        for seed, settings_ in (
            (0, {"assistant_confidence_threshold": 0.0}),
            (5, {"assistant_confidence_threshold": 0.0, "num_assistant_tokens": 3}),
            (5, {"num_assistant_tokens_schedule": "heuristic", "num_assistant_tokens": 4}),
        ):
            draft = served(upstream_model(name, seed))
            found = generate(
                served(model), prompt, max_new_tokens=18, assistant_model=draft, return_dict_in_generate=True,
                **settings_,
            )  # fmt: skip
            assert np.array_equal(found.sequences, expected)
            if seed == 0 and len(expected[0]) > len(prompt[0]) + 3:
                # Everything is right but where the text ended within the guess.
                assert found.acceptance.accepted > 0
                assert found.timings.steps < found.new_tokens[0]


def test_an_engine_may_draft_too() -> None:
    model = upstream_model("llama")
    expected = upstream(model, [[5, 6, 7]], max_new_tokens=12)
    assert np.array_equal(
        generate(served(model), [[5, 6, 7]], max_new_tokens=12, assistant_model=TorchEngine(model)), expected
    )


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    st.lists(st.integers(3, 8), min_size=1, max_size=14),
    st.integers(1, 7),
    st.integers(1, 4),
    st.integers(1, 14),
    st.sampled_from([{}, {"repetition_penalty": 1.4}, {"no_repeat_ngram_size": 3}, {"min_new_tokens": 4}]),
    st.sampled_from([{}, {"do_sample": True, "temperature": 1.4, "seed": 3}]),
    st.sampled_from([None, 1, 2, 5]),
)
def test_whatever_is_asked_for_guessing_changes_nothing(
    prompt: list[int], tokens: int, ngram: int, budget: int, shape: Any, draw: Any, rollback: int | None
) -> None:
    model = upstream_model("llama")
    asked = {
        "max_new_tokens": max(budget, shape.get("min_new_tokens", 1)),
        "eos_token_id": [2, 33, 10],
        **shape,
        **draw,
    }
    plain = generate(served(model), [prompt], **asked)
    looked_up = generate(
        served(model, rollback=rollback), [prompt], prompt_lookup_num_tokens=tokens, max_matching_ngram_size=ngram,
        **asked,
    )  # fmt: skip
    assert np.array_equal(looked_up, plain)
    drafted = generate(
        served(model, rollback=rollback), [prompt], assistant_model=served(upstream_model("llama", 5)),
        num_assistant_tokens=tokens, assistant_confidence_threshold=0.2, **asked,
    )  # fmt: skip
    assert np.array_equal(drafted, plain)


def test_criteria_and_streams_go_token_by_token() -> None:
    model = upstream_model("gpt2")
    prompt = [5, 6, 7, 8] * 5

    class Streamer:
        def __init__(self) -> None:
            self.values: list[Any] = []
            self.ended = False

        def put(self, value: Any) -> None:
            self.values.append(value.tolist())

        def end(self) -> None:
            self.ended = True

    streams = [Streamer(), Streamer()]
    outputs = [
        generate(
            served(model), [prompt], max_new_tokens=20, streamer=stream,
            stopping_criteria=lambda tokens, scores: tokens.shape[1] >= 31, **lookup,
        )
        for stream, lookup in zip(streams, ({}, LOOKUP), strict=True)
    ]  # fmt: skip
    assert outputs[0].shape == (1, 31) and np.array_equal(*outputs)
    assert streams[0].values == streams[1].values == [[prompt], *([token] for token in outputs[0][0, 20:].tolist())]
    assert streams[0].ended and streams[1].ended


def test_a_draft_model_whose_state_goes_one_way_still_drafts_one_token() -> None:
    model = upstream_model("llama")
    found = generate(
        served(model), [[5, 6, 7]], max_new_tokens=12, min_new_tokens=12, return_dict_in_generate=True,
        assistant_model=served(model, rollback=0), assistant_confidence_threshold=0.0,
    )  # fmt: skip
    assert found.acceptance.drafted == found.acceptance.rounds == found.acceptance.accepted > 0


def test_speculation_within_a_conversation() -> None:
    model = upstream_model("gpt2")
    past = Conversation()
    prompt = [5, 6, 7, 8] * 3
    ours = served(model)
    for _ in range(3):
        found = generate(ours, [prompt], max_new_tokens=9, past=past, **LOOKUP)
        assert np.array_equal(found, upstream(model, [prompt], max_new_tokens=9))
        prompt = [*found[0].tolist(), 5, 6]
    assert past.reused > 20


def test_speculation_that_cannot_be() -> None:
    model = upstream_model("llama")
    with pytest.raises(InputError, match="needs a model that can take tokens back; this one cannot"):
        generate(served(model, rollback=0), [[5, 6, 5, 6]], max_new_tokens=9, min_new_tokens=9, **LOOKUP)
    with pytest.raises(InputError, match=r"one prompt and gives one return; received 2 prompts with\s+1 returns"):
        generate(served(model), [[5], [6]], **LOOKUP)
    with pytest.raises(InputError, match="received 1 prompts with 2 returns"):
        generate(served(model), [[5]], do_sample=True, num_return_sequences=2, **LOOKUP)
    with pytest.raises(InputError, match="has the vocabulary of the model it drafts for, 40 tokens; this one has 50"):
        generate(served(model), [[5]], assistant_model=served(tiny_llama(0, vocab=50)))
    with pytest.raises(InputError, match="assistant_model is a model or its engine; received str"):
        generate(served(model), [[5]], assistant_model="small")
    with pytest.raises(InputError, match="at least 1; received 0 and 2"):
        PromptLookup(0, 2)
    with pytest.raises(InputError, match="num_assistant_tokens is at least 1; received 0"):
        DraftModel(TorchEngine(model), tokens=0)
    with pytest.raises(InputError, match="num_assistant_tokens_schedule is constant, heuristic or"):
        DraftModel(TorchEngine(model), schedule="linear")


# Prompt lookup itself


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.lists(st.integers(0, 3), min_size=1, max_size=30), st.integers(1, 6), st.integers(1, 4), st.integers(1, 6))
def test_lookup_finds_the_first_longest_match(tokens: list[int], count: int, ngram: int, limit: int) -> None:
    expected: list[int] = []
    for size in range(min(ngram, len(tokens) - 1), 0, -1):
        starts = [n for n in range(len(tokens) - size) if tokens[n : n + size] == tokens[-size:]]
        if starts:
            expected = tokens[starts[0] + size :][: min(count, limit)]
            break
    assert PromptLookup(count, ngram).propose(np.array(tokens), limit) == expected
