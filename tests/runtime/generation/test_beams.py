"""Beam search against upstream's `generate`; groups of beams against what Transformers 4 gave."""

from __future__ import annotations

import json
from functools import cache
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from support import DATA
from support.torch_engine import random_prompts, served, tiny_bart, tiny_gpt2, tiny_llama, tiny_t5, upstream

from precast.runtime.errors import InputError
from precast.runtime.generation.api import generate
from precast.runtime.generation.beams import log_softmax, top

MAKERS = {"gpt2": tiny_gpt2, "llama": tiny_llama, "bart": tiny_bart, "t5": tiny_t5}
ENDS = [2, 10, 23, 33]
"""Tokens the tiny models like to say, so that beams end at many lengths."""


@cache
def upstream_model(name: str) -> Any:
    return MAKERS[name]()


CASES: dict[str, dict[str, Any]] = {
    "plain": {"num_beams": 3, "max_new_tokens": 14},
    "several ends": {"num_beams": 4, "max_new_tokens": 14, "eos_token_id": ENDS},
    "long is good": {"num_beams": 4, "max_new_tokens": 12, "eos_token_id": ENDS, "length_penalty": 2.5},
    "short is good": {"num_beams": 4, "max_new_tokens": 12, "eos_token_id": ENDS, "length_penalty": -1.0},
    "no penalty": {"num_beams": 4, "max_new_tokens": 12, "eos_token_id": [2, 33], "length_penalty": 0.0},
    "early": {"num_beams": 4, "max_new_tokens": 14, "eos_token_id": ENDS, "early_stopping": True},
    "never": {"num_beams": 4, "max_new_tokens": 14, "eos_token_id": ENDS, "early_stopping": "never"},
    "never, negative": {
        "num_beams": 3, "max_new_tokens": 14, "eos_token_id": ENDS, "early_stopping": "never", "length_penalty": -0.5,
    },
    "returns": {"num_beams": 5, "num_return_sequences": 5, "max_new_tokens": 10, "eos_token_id": ENDS},
    "returns early": {
        "num_beams": 4, "num_return_sequences": 3, "max_new_tokens": 10, "eos_token_id": ENDS, "early_stopping": True,
    },
    "forced": {"num_beams": 4, "max_new_tokens": 9, "forced_bos_token_id": 7, "forced_eos_token_id": 2},
    "n-grams": {"num_beams": 3, "max_new_tokens": 14, "no_repeat_ngram_size": 2},
    "summaries": {
        "num_beams": 4, "max_length": 24, "min_length": 16, "no_repeat_ngram_size": 3, "length_penalty": 2.0,
        "early_stopping": True, "forced_eos_token_id": 2, "eos_token_id": [2, 33],
    },
    "repetition": {"num_beams": 3, "max_new_tokens": 12, "repetition_penalty": 1.5, "eos_token_id": ENDS},
    "bad words": {"num_beams": 3, "max_new_tokens": 12, "bad_words_ids": [[33], [10, 10]], "min_new_tokens": 4},
    "no end": {"num_beams": 3, "max_new_tokens": 6, "eos_token_id": None},
    "one token": {"num_beams": 3, "num_return_sequences": 3, "max_new_tokens": 1},
}  # fmt: skip


LEAVING = {"several ends", "early", "never", "returns early", "short is good"}


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("case", CASES)
def test_beam_search_is_upstreams(name: str, case: str) -> None:
    model, ours = upstream_model(name), served(upstream_model(name))
    ids, mask = random_prompts(11, rows=20)
    if "no_repeat_ngram_size" in CASES[case] and not model.config.is_encoder_decoder:
        mask = np.ones_like(mask)  # upstream takes padding for text: two of it are an n-gram
    asked = {**CASES[case], "return_dict_in_generate": True, "output_scores": True}
    expected = upstream(model, ids, mask, **asked)
    # With scores every beam stays to the end; without them decided prompts leave.
    for keeps in (True, False) if case in LEAVING else (True,):
        asked["output_scores"] = keeps
        found = generate(ours, ids, attention_mask=mask, **asked)
        assert np.array_equal(found.sequences, expected.sequences)
        assert np.array_equal(found.beam_indices, expected.beam_indices)
        np.testing.assert_allclose(found.sequences_scores, expected.sequences_scores, atol=1e-5, rtol=1e-6)
        if keeps:
            assert len(found.scores) == len(expected.scores)
            for step, scores in enumerate(found.scores):
                np.testing.assert_allclose(scores, expected.scores[step], atol=1e-4)


def test_a_prompt_is_processed_once_and_a_decided_one_costs_nothing() -> None:
    ours = served(upstream_model("gpt2"))
    ids, mask = random_prompts(11, rows=6)
    generate(ours, ids, attention_mask=mask, **CASES["early"])
    feeds = [len(feed) for feed in ours.engine().feeds]
    assert feeds[:2] == [6, 24] and feeds == sorted(feeds[:1]) + sorted(feeds[1:], reverse=True) and feeds[-1] < 24


def test_prompts_together_are_as_alone() -> None:
    ours = served(upstream_model("bart"))
    ids, mask = random_prompts(12, rows=8)
    asked = {**CASES["returns"], "return_dict_in_generate": True}
    together = generate(ours, ids, attention_mask=mask, **asked)
    for row in range(8):
        alone = generate(ours, ids[row : row + 1], attention_mask=mask[row : row + 1], **asked)
        part = slice(row * 5, row * 5 + 5)
        assert together.new_tokens[part] == alone.new_tokens
        assert together.finish_reasons[part] == alone.finish_reasons
        assert np.array_equal(together.sequences[part, : alone.sequences.shape[1]], alone.sequences)
        np.testing.assert_allclose(together.sequences_scores[part], alone.sequences_scores, atol=1e-5)


def test_the_callers_functions_see_beams_as_upstreams_do() -> None:
    model, ours = upstream_model("gpt2"), served(upstream_model("gpt2"))
    ids, mask = random_prompts(13, rows=5)

    def stops(tokens: Any, scores: Any, **_: Any) -> Any:
        return (tokens[:, -1] == 10) | (tokens[:, -1] == 27)

    asked = {"num_beams": 3, "max_new_tokens": 10, "return_dict_in_generate": True, "output_scores": True}
    given_to: list[tuple[int, ...]] = []

    def dearer(tokens: Any, scores: Any) -> Any:
        given_to.append(tuple(scores.shape))
        scores[:, 14] -= 2.0
        return scores

    expected = upstream(model, ids, mask, stopping_criteria=[stops], logits_processor=[dearer], **asked)
    theirs = given_to.copy()
    given_to.clear()
    found = generate(ours, ids, attention_mask=mask, stopping_criteria=[stops], logits_processor=dearer, **asked)
    assert given_to == theirs
    assert np.array_equal(found.sequences, expected.sequences) and "stop" in found.finish_reasons
    np.testing.assert_allclose(found.sequences_scores, expected.sequences_scores, atol=1e-5)


def test_prefix_function_sees_the_prompt_of_each_beam() -> None:
    model, ours = upstream_model("bart"), served(upstream_model("bart"))
    ids, mask = random_prompts(14, rows=4)

    def allowed(row: int, tokens: Any) -> list[int]:
        return [2, *range(5 + 4 * row, 15 + 4 * row)]

    asked = {"num_beams": 3, "max_new_tokens": 8, "prefix_allowed_tokens_fn": allowed}
    assert np.array_equal(
        generate(ours, ids, attention_mask=mask, **asked), upstream(model, ids, mask, **asked)
    )  # fmt: skip


def test_time_ends_a_beam_search_with_what_it_has() -> None:
    ours = served(upstream_model("llama"))
    output = generate(
        ours, [[5, 6]], num_beams=3, max_new_tokens=9, min_new_tokens=9, max_time=1e-9, return_dict_in_generate=True
    )
    assert output.new_tokens == [1] and output.finish_reasons == ["time"]


# Beam sampling: upstream's generator cannot be matched, its distribution can


def test_beam_sampling_is_reproducible_whatever_the_batch() -> None:
    ours = served(upstream_model("llama"))
    asked = {"num_beams": 3, "do_sample": True, "temperature": 1.8, "max_new_tokens": 8}
    together = generate(ours, [[5, 6], [7, 8], [9, 3]], seed=[4, 5, 6], **asked)
    back = generate(ours, [[9, 3], [5, 6]], seed=[6, 4], **asked)
    assert np.array_equal(together[[2, 0], : back.shape[1]], back)
    assert len({tuple(generate(ours, [[5, 6]], seed=n, **asked)[0].tolist()) for n in range(8)}) > 2


def test_beam_sampling_draws_without_replacement_as_upstream() -> None:
    model, ours = upstream_model("llama"), served(upstream_model("llama"))
    # One new token: the sequence returned is the likelier of the first two drawn (of four) without replacement.
    asked = {"num_beams": 2, "do_sample": True, "temperature": 2.5, "top_k": 6, "max_new_tokens": 1}
    many = 1500
    torch.manual_seed(0)
    expected = upstream(model, np.full((many, 2), 5), **asked)[:, -1]
    found = generate(ours, np.full((many, 2), 5), seed=1, **asked)[:, -1]
    counts = [np.bincount(ids, minlength=40) / many for ids in (expected, found)]
    # Both are estimates: six standard errors of their difference, seeds fixed.
    assert (np.abs(counts[0] - counts[1]) <= 6 * np.sqrt(2 * counts[0] * (1 - counts[0]) / many) + 1e-9).all()


# The pieces


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    arrays(
        np.float32,
        st.tuples(st.integers(1, 3), st.integers(1, 700)),
        elements=st.floats(-50, 50, width=32) | st.just(-np.inf) | st.sampled_from([0.0, 1.0]),
    ),
    st.integers(1, 9),
)
def test_top_is_a_stable_sort(values: Any, count: int) -> None:
    count = min(count, values.shape[1])
    assert np.array_equal(top(values, count), np.argsort(-values, axis=1, kind="stable")[:, :count])


def test_log_softmax_is_torchs() -> None:
    logits = np.random.default_rng(0).normal(0, 30, (4, 500)).astype(np.float32)
    expected = torch.log_softmax(torch.tensor(logits), -1).numpy()
    np.testing.assert_allclose(log_softmax(logits), expected, atol=2e-5)


# Bad input


def test_beams_that_cannot_be() -> None:
    ours = served(upstream_model("llama"))
    with pytest.raises(InputError, match="num_return_sequences must be at most num_beams; got 3 and 2"):
        generate(ours, [[5]], num_beams=2, num_return_sequences=3)
    with pytest.raises(InputError, match="multiple of num_beam_groups"):
        generate(ours, [[5]], num_beams=3, num_beam_groups=2, diversity_penalty=1.0)
    with pytest.raises(InputError, match="cannot be streamed"):
        generate(ours, [[5]], num_beams=3, streamer=SimpleNamespace(put=print, end=print))
    with pytest.raises(InputError, match="A draft model speculates for one sequence"):
        generate(ours, [[5]], num_beams=3, assistant_model=ours)


# Groups of beams: recorded from Transformers 4.49, which was the last line to have them

RECORDED = json.loads((DATA / "diverse_beams.json").read_text(encoding="utf-8"))["cases"]


@pytest.mark.parametrize("name", ["gpt2", "bart"])
@pytest.mark.parametrize("case", RECORDED)
def test_groups_of_beams_are_those_of_transformers_4(name: str, case: str) -> None:
    asked, recorded = RECORDED[case]["arguments"], RECORDED[case][name]
    ids, mask = random_prompts(21, rows=20)
    if name == "bart" or "repetition_penalty" in asked:
        mask = np.ones_like(mask)  # what 4.49 took for text, and for sources on this torch, too
    ours = served(upstream_model(name))
    found = generate(
        ours, ids, attention_mask=mask, return_dict_in_generate=True, output_scores=True, **asked
    )  # fmt: skip
    tokens = found.sequences[:, 9 if name == "gpt2" else 1 :]
    # It wrote the first end token wherever a beam had ended, whichever it had ended with.
    ends = asked.get("eos_token_id", [2])
    assert np.where(np.isin(tokens, ends), ends[0], tokens).tolist() == recorded["ids"]
    np.testing.assert_allclose(found.sequences_scores, recorded["scores"], atol=2e-5)
    assert len(found.scores) == max(found.new_tokens)


def test_groups_say_different_things() -> None:
    ours = served(upstream_model("llama"))
    asked = {"num_beams": 4, "num_return_sequences": 4, "max_new_tokens": 6, "min_new_tokens": 6}
    diverse = generate(ours, [[5, 6]], num_beam_groups=4, diversity_penalty=100.0, **asked)
    assert len(set(diverse[:, 2].tolist())) == 4, "a penalty this large gives every group a first token of its own"
