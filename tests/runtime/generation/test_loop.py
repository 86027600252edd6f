"""Greedy search and sampling through the one loop, against upstream's `generate`."""

from __future__ import annotations

import gc
import re
import threading
import warnings
import weakref
from functools import cache
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from support.torch_engine import random_prompts, served, tiny_bart, tiny_gpt2, tiny_llama, tiny_t5, upstream
from tokenizers import Tokenizer, decoders, models

from precast.runtime.errors import InputError
from precast.runtime.generation.api import generate, prepare
from precast.runtime.generation.config import GenerationConfig

MAKERS = {"gpt2": tiny_gpt2, "llama": tiny_llama, "bart": tiny_bart, "t5": tiny_t5}


@cache
def upstream_model(name: str) -> Any:
    return MAKERS[name]()


def pair(name: str, **engine: Any) -> tuple[Any, Any]:
    return upstream_model(name), served(upstream_model(name), **engine)


GREEDY: dict[str, dict[str, Any]] = {
    "plain": {"max_new_tokens": 16},
    "several ends": {"max_new_tokens": 20, "eos_token_id": [2, 11, 26, 33]},
    "no end": {"max_new_tokens": 6, "eos_token_id": None},
    "total length": {"max_length": 21},
    "default length": {},
    "min length": {"max_new_tokens": 14, "min_length": 15, "eos_token_id": [10, 26, 33]},
    "min new": {"max_new_tokens": 14, "min_new_tokens": 5, "eos_token_id": [10, 26, 33]},
    "n-grams": {"max_new_tokens": 16, "no_repeat_ngram_size": 2},
    "repetition": {"max_new_tokens": 16, "repetition_penalty": 1.7},
    "bad words": {"max_new_tokens": 12, "bad_words_ids": [[10], [33, 33], [26, 26]]},
    "forced": {"max_new_tokens": 7, "forced_bos_token_id": 7, "forced_eos_token_id": 2},
    "suppressed": {"max_new_tokens": 12, "suppress_tokens": [10, 33], "begin_suppress_tokens": [23, 26]},
    "decay": {"max_new_tokens": 16, "exponential_decay_length_penalty": (4, 1.4)},
}


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("case", GREEDY)
def test_greedy_ids_are_upstreams(name: str, case: str) -> None:
    model, ours = pair(name)
    ids, mask = random_prompts(1)
    expected = upstream(model, ids, mask, **GREEDY[case])
    assert np.array_equal(generate(ours, ids, attention_mask=mask, **GREEDY[case]), expected)


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_padding_may_be_on_either_side_or_absent(name: str) -> None:
    model, ours = pair(name)
    ids, mask = random_prompts(2, side="right")
    rows = [row[keep != 0].tolist() for row, keep in zip(ids, mask, strict=True)]
    alone = [upstream(model, [row], max_new_tokens=12)[0, len(row) :] for row in rows]
    right = generate(ours, ids, attention_mask=mask, max_new_tokens=12)
    lists = generate(ours, rows, max_new_tokens=12)
    assert np.array_equal(right[:, :9], ids)
    assert np.array_equal(lists[:, :9], random_left(rows))
    for row, tokens in enumerate(alone):
        assert right[row, 9 : 9 + len(tokens)].tolist() == tokens.tolist()
        assert lists[row, 9 : 9 + len(tokens)].tolist() == tokens.tolist()
    # Without a mask, padding is what equals pad_token_id, as upstream.
    assert np.array_equal(generate(ours, ids, max_new_tokens=12), right)


def random_left(rows: list[list[int]]) -> Any:
    width = max(len(row) for row in rows)
    return np.array([[0] * (width - len(row)) + row for row in rows])


def test_rows_that_ended_cost_nothing() -> None:
    _, ours = pair("gpt2")
    ids, mask = random_prompts(3)
    output = generate(
        ours, ids, attention_mask=mask, max_new_tokens=20, eos_token_id=[10, 27, 14], return_dict_in_generate=True
    )
    feeds = ours.engine().feeds
    lengths = output.new_tokens
    assert len(set(lengths)) > 3 and feeds[0] == mask.sum(1).tolist()
    assert [len(feed) for feed in feeds[1:]] == [sum(n > step for n in lengths) for step in range(1, max(lengths))]
    assert {reason for reason, n in zip(output.finish_reasons, lengths, strict=True) if n < 20} == {"eos"}


@pytest.mark.parametrize("name", ["llama", "bart"])
def test_scores_and_logits_are_upstreams(name: str) -> None:
    model, ours = pair(name)
    ids, mask = random_prompts(4, rows=3)
    asked = {
        "max_new_tokens": 6, "repetition_penalty": 1.3, "min_new_tokens": 6, "return_dict_in_generate": True,
        "output_scores": True, "output_logits": True,
    }  # fmt: skip
    expected = upstream(model, ids, mask, **asked)
    output = generate(ours, ids, attention_mask=mask, **asked)
    assert len(output.scores) == len(output.logits) == 6
    for step in range(6):
        np.testing.assert_allclose(output.scores[step], expected.scores[step], atol=1e-4)
        np.testing.assert_allclose(output["logits"][step], expected.logits[step], atol=1e-4)
    with pytest.raises(KeyError):
        output["past_key_values"]


def test_scores_of_a_row_that_ended_are_certain_of_padding() -> None:
    _, ours = pair("gpt2")
    ids, mask = random_prompts(3)
    output = generate(
        ours, ids, attention_mask=mask, max_new_tokens=8, eos_token_id=[10, 27, 14], return_dict_in_generate=True,
        output_scores=True,
    )  # fmt: skip
    row = int(np.argmin(output.new_tokens))
    assert output.new_tokens[row] < 8
    assert output.scores[-1].shape == (20, 40)
    assert output.scores[-1][row, 0] == 0 and np.isneginf(output.scores[-1][row, 1:]).all()


def test_figures_of_a_run() -> None:
    _, ours = pair("llama")
    output = generate(ours, [[3, 4, 5], [6, 7]], max_new_tokens=4, min_new_tokens=4, return_dict_in_generate=True)
    assert output.prompt_tokens == [3, 2] and output.new_tokens == [4, 4]
    assert output.finish_reasons == ["length", "length"] and output.acceptance is None
    assert output.timings.steps == 4
    assert 0 < output.timings.first_token < output.timings.total and output.timings.per_step > 0


# Lengths


def test_the_models_own_length_bounds_the_answer() -> None:
    _, ours = pair("llama", max_length=12)
    output = generate(ours, [[3, 4, 5], [6, 7]], max_new_tokens=50, eos_token_id=None, return_dict_in_generate=True)
    assert output.new_tokens == [9, 9] and output.finish_reasons == ["model_length"] * 2
    with pytest.raises(InputError, match="holds 12 tokens, prompt and answer together; a prompt has 12 already"):
        generate(ours, [list(range(3, 15))], max_new_tokens=1)


def test_lengths_that_leave_no_room_are_refused() -> None:
    _, ours = pair("llama")
    with pytest.raises(InputError, match=r"The prompt is 9 tokens long .* max_length is 9.* Raise max_length"):
        generate(ours, np.full((1, 9), 5), max_length=9)
    with pytest.raises(InputError, match="max_new_tokens must be"):
        generate(ours, [[3]], max_new_tokens=0)


# Whatever is asked


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    st.lists(st.lists(st.integers(3, 39), min_size=1, max_size=8), min_size=1, max_size=4),
    st.integers(1, 10),
    st.fixed_dictionaries(
        {},
        optional={
            "repetition_penalty": st.sampled_from([0.8, 1.6]),
            "no_repeat_ngram_size": st.integers(1, 3),
            "min_new_tokens": st.integers(1, 6),
            "eos_token_id": st.sampled_from([[2, 10, 33], [2, 7, 27, 34, 16]]),
            "forced_eos_token_id": st.just(2),
            "suppress_tokens": st.just([10, 7]),
        },
    ),
    st.just({})
    | st.fixed_dictionaries(
        {
            "num_beams": st.integers(2, 4),
            "length_penalty": st.sampled_from([-1.0, 0.0, 1.0, 2.0]),
            "early_stopping": st.sampled_from([True, False, "never"]),
        }
    ),
    st.sampled_from(["gpt2", "llama"]),
)
def test_every_row_of_a_batch_is_upstreams_answer_to_it_alone(
    prompts: list[list[int]], budget: int, shape: Any, beams: Any, name: str
) -> None:
    model, ours = pair(name)
    asked = {"max_new_tokens": max(budget, shape.get("min_new_tokens", 0)), **shape, **beams}
    found = generate(ours, prompts, **asked)
    width = max(len(prompt) for prompt in prompts)
    for row, prompt in zip(found, prompts, strict=True):
        alone = upstream(model, [prompt], **asked)[0, len(prompt) :]
        assert row[width : width + len(alone)].tolist() == alone.tolist()
        assert set(row[width + len(alone) :].tolist()) <= {0, 2}


@pytest.mark.parametrize("how", [{}, {"num_beams": 2}, {"do_sample": True}, {"prompt_lookup_num_tokens": 2}])
def test_a_call_leaves_nothing_behind(how: dict[str, Any]) -> None:
    """Sessions go when the call ends, not when the garbage collector comes by: they hold the cache."""
    _, ours = pair("llama")
    engine, opened = ours.engine(), []
    plain = engine.open

    def watched(*arguments: Any) -> Any:
        session = plain(*arguments)
        opened.append(weakref.ref(session))
        return session

    engine.open = watched
    gc.collect()
    gc.disable()
    try:
        for _ in range(3):
            generate(ours, [[5, 6, 7]], max_new_tokens=4, return_dict_in_generate=True, output_scores=True, **how)
        assert len(opened) == 3 and all(session() is None for session in opened)
    finally:
        gc.enable()


# Sampling

SAMPLING = {"do_sample": True, "temperature": 1.5, "top_k": 0, "max_new_tokens": 8}


@settings(max_examples=8, deadline=None, derandomize=True)
@given(st.permutations(range(6)), st.integers(1, 6))
def test_a_requests_draws_do_not_depend_on_the_batch(order: list[int], size: int) -> None:
    _, ours = pair("llama")
    prompts = [[3 + n, 9, 4 + n][: 1 + n % 3] for n in range(6)]
    seeds = [100 + n for n in range(6)]
    whole = generate(ours, prompts, seed=seeds, **SAMPLING)[:, 3:]
    picked = order[:size]
    width = max(len(prompts[n]) for n in picked)
    some = generate(ours, [prompts[n] for n in picked], seed=[seeds[n] for n in picked], **SAMPLING)[:, width:]
    for row, n in enumerate(picked):
        length = min(some.shape[1], whole.shape[1])
        assert some[row, :length].tolist() == whole[n, :length].tolist()


def test_returns_differ_and_more_of_them_change_none() -> None:
    _, ours = pair("llama")
    three = generate(ours, [[5, 6]], seed=7, num_return_sequences=3, **SAMPLING)
    two = generate(ours, [[5, 6]], seed=7, num_return_sequences=2, **SAMPLING)
    assert len({tuple(row) for row in three.tolist()}) == 3
    assert np.array_equal(two, three[:2, : two.shape[1]])
    assert ours.engine().feeds[0] == [2], "the prompt is processed once"
    # One number seeds prompt i with number + i.
    both = generate(ours, [[5, 6], [5, 6]], seed=7, **SAMPLING)
    second = generate(ours, [[5, 6]], seed=8, **SAMPLING)
    assert both[0].tolist() != both[1].tolist()
    assert both[1, : second.shape[1]].tolist() == second[0].tolist()
    with pytest.raises(InputError, match=r"seed is one number, or one a prompt \(1\); received 2"):
        generate(ours, [[5]], seed=[1, 2], **SAMPLING)


def test_draws_follow_the_processed_distribution() -> None:
    model, ours = pair("llama")
    output = generate(
        ours, [[5, 6]], do_sample=True, temperature=2.0, top_k=8, max_new_tokens=1, num_return_sequences=4000, seed=1
    )
    logits = model(torch.tensor([[5, 6]])).logits[0, -1] / 2.0
    kept = torch.topk(logits, 8)
    share = np.zeros(40)
    share[kept.indices.numpy()] = torch.softmax(kept.values, -1).detach().numpy()
    found = np.bincount(output[:, -1], minlength=40) / 4000
    # Six standard errors; the seed is fixed.
    assert (np.abs(found - share) <= 6 * np.sqrt(share * (1 - share) / 4000)).all()


# The caller's functions


def test_logits_processors_and_criteria_see_what_upstreams_see() -> None:
    model, ours = pair("gpt2")
    ids, mask = random_prompts(5, rows=4)
    seen: list[Any] = []

    def numpy_processor(tokens: Any, scores: Any) -> Any:
        seen.append(tokens.copy())
        return np.where(np.arange(40) == (tokens[:, -1:] + 1) % 40, 50.0, scores)

    def torch_processor(tokens: Any, scores: Any) -> Any:
        return torch.where(torch.arange(40) == (tokens[:, -1:] + 1) % 40, 50.0, scores)

    def numpy_criterion(tokens: Any, scores: Any) -> Any:
        return tokens[:, -1] == 12

    def torch_criterion(tokens: Any, scores: Any, **_: Any) -> Any:
        return tokens[:, -1] == 12

    expected = upstream(
        model, ids, mask, max_new_tokens=14, logits_processor=[torch_processor], stopping_criteria=[torch_criterion]
    )
    output = generate(
        ours, ids, attention_mask=mask, max_new_tokens=14, logits_processor=numpy_processor,
        stopping_criteria=[numpy_criterion], return_dict_in_generate=True,
    )  # fmt: skip
    assert np.array_equal(output.sequences, expected)
    assert np.array_equal(seen[0], ids)
    assert "stop" in output.finish_reasons


def test_functions_that_give_the_wrong_thing_are_named() -> None:
    _, ours = pair("llama")
    with pytest.raises(InputError, match=r"shaped like those it is given, \[1, 40\]; .* returned shape \[3\]"):
        generate(ours, [[5]], logits_processor=lambda tokens, scores: np.zeros(3), max_new_tokens=2)
    with pytest.raises(InputError, match=r"one truth value, or one a row \(1\); .* returned shape \[7\]"):
        generate(ours, [[5]], stopping_criteria=lambda tokens, scores: np.zeros(7, bool), max_new_tokens=2)
    with pytest.raises(InputError, match="logits_processor is a callable or a list of callables; received int"):
        generate(ours, [[5]], logits_processor=3)
    with pytest.raises(ZeroDivisionError):
        generate(ours, [[5]], stopping_criteria=lambda tokens, scores: 1 / 0, max_new_tokens=2)


def test_a_criterion_may_read_the_scores_kept() -> None:
    _, ours = pair("llama")
    counts: list[int] = []

    def criterion(tokens: Any, scores: Any) -> bool:
        counts.append(len(scores))
        return len(scores) == 3

    asked = {"max_new_tokens": 9, "min_new_tokens": 9, "return_dict_in_generate": True, "output_scores": True}
    output = generate(ours, [[5]], stopping_criteria=criterion, **asked)
    assert counts == [1, 2, 3] and output.finish_reasons == ["stop"] and output.sequences.shape == (1, 4)


def test_prefix_function_sees_the_prompts_index() -> None:
    model, ours = pair("gpt2")
    ids, mask = random_prompts(6, rows=4)

    def allowed(row: int, tokens: Any) -> list[int]:
        return [3 + row, 10 + row, 2]

    expected = upstream(model, ids, mask, max_new_tokens=8, prefix_allowed_tokens_fn=allowed)
    found = generate(ours, ids, attention_mask=mask, max_new_tokens=8, prefix_allowed_tokens_fn=allowed)
    assert np.array_equal(found, expected)


# Time


def test_max_time_ends_the_run_after_the_step_that_crosses_it() -> None:
    _, ours = pair("llama")
    output = generate(ours, [[5]], max_new_tokens=9, min_new_tokens=9, max_time=1e-9, return_dict_in_generate=True)
    assert output.new_tokens == [1] and output.finish_reasons == ["time"]


def test_cancelling_ends_the_run_within_one_step() -> None:
    _, ours = pair("llama")
    stop = threading.Event()
    steps: list[int] = []

    def emit(tokens: Any) -> None:
        steps.append(int(tokens[0]))
        if len(steps) == 3:
            stop.set()

    output = prepare(ours, [[5]], max_new_tokens=9, min_new_tokens=9).execute(emit=emit, cancelled=stop)
    assert len(steps) == 3 and output.finish_reasons == ["cancelled"] and output.new_tokens == [3]


# Encoder-decoders


@pytest.mark.parametrize("name", ["bart", "t5"])
@pytest.mark.parametrize("given_start", [True, False])
def test_decoder_prompts_are_upstreams(name: str, given_start: bool) -> None:
    model, ours = pair(name)
    ids, mask = random_prompts(7, rows=5)
    start = model.config.decoder_start_token_id
    prompts = np.array([[start, 5 + n, 9] if given_start else [5 + n, 9] for n in range(5)])
    expected = upstream(model, ids, mask, decoder_input_ids=torch.tensor(prompts), max_new_tokens=7)
    found = generate(ours, ids, attention_mask=mask, decoder_input_ids=prompts, max_new_tokens=7)
    assert found.shape[1] > 4 and np.array_equal(found, expected)


def test_every_prompt_may_have_its_own_start_token() -> None:
    model, ours = pair("bart")
    ids, mask = random_prompts(8, rows=3)
    expected = upstream(model, ids, mask, decoder_start_token_id=[5, 6, 7], max_new_tokens=7)
    found = generate(ours, ids, attention_mask=mask, decoder_start_token_id=[5, 6, 7], max_new_tokens=7)
    assert np.array_equal(found, expected)
    with pytest.raises(InputError, match=r"one id, or one a prompt \(3\); received 2"):
        generate(ours, ids, attention_mask=mask, decoder_start_token_id=[5, 6])


def test_sources_of_different_lengths_may_be_lists() -> None:
    model, ours = pair("bart")
    rows = [[5, 6, 7, 8], [9, 10], [11, 12, 13]]
    found = generate(ours, rows, max_new_tokens=6)
    for row, source in zip(found, rows, strict=True):
        alone = upstream(model, [source], max_new_tokens=6)[0]
        assert row[: len(alone)].tolist() == alone.tolist()


def test_decoder_prompts_that_cannot_be() -> None:
    _, ours = pair("bart")
    with pytest.raises(InputError, match="decoder_input_ids has 2 rows for 1 prompts"):
        generate(ours, [[5]], decoder_input_ids=[[2], [2]])
    with pytest.raises(InputError, match="this model has a decoder only"):
        generate(pair("gpt2")[1], [[5]], decoder_input_ids=[[2]])
    startless = SimpleNamespace(engine=ours.engine, config={}, generation_config={"eos_token_id": 2}, tokenizer=None)
    with pytest.raises(InputError, match="needs a token to begin with, and neither decoder_start_token_id nor"):
        generate(startless, [[5]])


# The configuration


def test_where_the_configuration_comes_from() -> None:
    _, ours = pair("llama")
    by_keyword = generate(ours, [[5]], max_new_tokens=3, min_new_tokens=3)
    asked = {"max_new_tokens": 3, "min_new_tokens": 3}
    assert np.array_equal(generate(ours, [[5]], generation_config=asked), by_keyword)
    assert np.array_equal(generate(ours, [[5]], generation_config=GenerationConfig(**asked)), by_keyword)
    inputs = {"input_ids": [[5]], "attention_mask": [[1]], "token_type_ids": [[0]]}
    assert np.array_equal(generate(ours, **inputs, **asked, use_cache=True, synced_gpus=False), by_keyword)
    longer = generate(ours, [[5]], generation_config=asked, max_new_tokens=5, min_new_tokens=5)
    assert longer.shape == (1, 6)
    with pytest.raises(InputError, match=r"generation_config is a GenerationConfig, a mapping .* received int"):
        generate(ours, [[5]], generation_config=3)


@pytest.mark.parametrize(
    ("stated", "arguments"),
    [
        ({"max_new_tokens": 6}, {}),
        ({"max_new_tokens": 6, "num_beams": 3, "num_return_sequences": 2}, {}),
        ({"max_length": 9, "repetition_penalty": 1.7, "min_new_tokens": 4}, {}),
        ({"max_new_tokens": 6, "no_repeat_ngram_size": 2, "bad_words_ids": [[7]]}, {"max_new_tokens": 8}),
        # What a file says and the call cannot use is no contradiction.
        ({"max_new_tokens": 6, "temperature": 0.6, "top_p": 0.9, "note_of_anybody": 1}, {"do_sample": False}),
    ],
)
def test_upstreams_configuration_is_one(stated: dict[str, Any], arguments: dict[str, Any]) -> None:
    theirs, ours = pair("llama")
    asked = transformers.GenerationConfig(**stated)
    prompts = torch.tensor([[5, 6, 7]])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # upstream's, of arguments beside a configuration
        expected = theirs.generate(prompts, generation_config=asked, **arguments).numpy()
    assert np.array_equal(generate(ours, prompts.numpy(), generation_config=asked, **arguments), expected)
    assert np.array_equal(generate(ours, prompts.numpy(), asked, **arguments), expected)


def test_what_upstreams_configuration_cannot_ask_for() -> None:
    _, ours = pair("llama")
    for asked, message in (
        (transformers.GenerationConfig(penalty_alpha=0.6, top_k=4), "penalty_alpha is not supported; got 0.6"),
        (transformers.GenerationConfig, "object with to_dict.*received type"),
        (SimpleNamespace(to_dict=lambda: 3), "object with to_dict.*received SimpleNamespace"),
    ):
        with pytest.raises(InputError, match=message):
            generate(ours, [[5]], generation_config=asked)


@pytest.mark.parametrize(
    ("wrong", "near"),
    [("max_new_token", "max_new_tokens"), ("atention_mask", "attention_mask"), ("streamers", "streamer")],
)
def test_unknown_arguments_are_named_with_what_is_near(wrong: str, near: str) -> None:
    with pytest.raises(InputError, match=rf"no argument '{wrong}'. Closest: {near}"):
        generate(pair("llama")[1], [[5]], **{wrong: 3})


def test_arguments_that_exclude_each_other() -> None:
    _, ours = pair("llama")
    with pytest.raises(InputError, match="two names of one argument"):
        generate(ours, [[5]], input_ids=[[5]])
    with pytest.raises(InputError, match=r"passed as keywords: generate\(\*\*inputs\)"):
        generate(ours, {"input_ids": [[5]]})
    with pytest.raises(InputError, match="num_return_sequences"):
        generate(ours, [[5]], num_return_sequences=2)


# Text: stop strings and grammars

LETTERS = ["<pad>", "<s>", "</s>", *"abcdefghijklmnopqrstuvwxyz0123456789{"]


@cache
def letters() -> Tokenizer:
    """A token a letter."""
    tokenizer = Tokenizer(models.BPE(vocab={letter: n for n, letter in enumerate(LETTERS)}, merges=[]))
    tokenizer.add_special_tokens(LETTERS[:3])
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def said(tokens: Any) -> str:
    return "".join(LETTERS[token] for token in tokens if token > 2)


def test_stop_strings_end_the_row_that_says_them() -> None:
    _, ours = pair("llama")
    prompts = [[5, 6, 7], [8, 9, 10]]
    plain = generate(ours, prompts, max_new_tokens=12, min_new_tokens=12)
    string = said(plain[0, 5:8])
    assert len(string) == 3 and string not in said(plain[1])
    output = generate(
        ours, prompts, max_new_tokens=12, min_new_tokens=12, stop_strings=string, tokenizer=letters(),
        return_dict_in_generate=True,
    )  # fmt: skip
    assert output.finish_reasons == ["stop", "length"] and output.new_tokens == [5, 12]
    assert said(output.sequences[0, 3:]).endswith(string)
    assert np.array_equal(output.sequences[1], plain[1])
    ours.tokenizer = letters()
    assert np.array_equal(
        generate(ours, prompts, max_new_tokens=12, min_new_tokens=12, stop_strings=[string, "zzzz"]), output.sequences
    )
    ours.tokenizer = None
    with pytest.raises(InputError, match="needs a tokenizer, and this model has none"):
        generate(ours, prompts, stop_strings=string)


@pytest.mark.parametrize(
    "how",
    [
        {},
        {"do_sample": True, "seed": 4, "temperature": 1.5, "num_return_sequences": 3},
        {"num_beams": 3, "num_return_sequences": 2},
        {"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 1.0},
    ],
)
def test_texts_match_the_expression_they_are_held_to(how: dict[str, Any]) -> None:
    _, ours = pair("llama")
    output = generate(
        ours, [[5, 6, 7], [8, 9], [10]], regex="[0-9]{1,6}x[a-c]{2}", tokenizer=letters(), max_new_tokens=20,
        return_dict_in_generate=True, **how,
    )  # fmt: skip
    assert output.finish_reasons == ["eos"] * len(output.sequences)
    for row in output.sequences[:, 3:]:
        assert re.fullmatch("[0-9]{1,6}x[a-c]{2}", said(row))


def test_a_grammar_speculated_under_and_one_alone() -> None:
    _, ours = pair("llama")
    asked = {"regex": "(ab|ba)+z", "tokenizer": letters(), "max_new_tokens": 24}
    prompt = [[3, 4, 3, 4, 4, 3]]
    plain = generate(ours, prompt, **asked)
    assert np.array_equal(generate(ours, prompt, prompt_lookup_num_tokens=4, **asked), plain)
    with pytest.raises(InputError, match="one of json_schema, regex and grammar; got regex and grammar"):
        generate(ours, prompt, grammar='start: "a"', **asked)
    with pytest.raises(InputError, match="json_schema describes text, which needs a tokenizer"):
        generate(ours, prompt, json_schema={"type": "integer"})
