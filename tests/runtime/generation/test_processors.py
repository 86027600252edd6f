"""Every logits processor against upstream's on random logits: rows of different lengths here, one by one there."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import GenerationConfig as UpstreamConfig
from transformers.generation import GenerationMixin

from precast.runtime.errors import InputError
from precast.runtime.generation.config import GenerationConfig
from precast.runtime.generation.filters import TopK, kth_largest
from precast.runtime.generation.history import History
from precast.runtime.generation.penalties import HammingDiversity
from precast.runtime.generation.processors import build_processors

NEW = 6  # tokens the loop will add at most, in these tests
ENDS = (2, 3)


class _Upstream(GenerationMixin):
    """What upstream's choice of processors looks at."""

    def __init__(self, encoder: bool) -> None:
        self.config = SimpleNamespace(is_encoder_decoder=encoder)


def _upstream(
    arguments: dict[str, Any],
    row: Sequence[int],
    prompt: int,
    logits: np.ndarray,
    encoder_ids: Sequence[int] | None = None,
    allowed: Callable[..., Any] | None = None,
    eos: Sequence[int] = ENDS,
) -> np.ndarray:
    """What upstream's generate makes of the logits [V] of one row, unpadded."""
    config = UpstreamConfig(**{"max_length": prompt + NEW, **arguments})
    config.update(**UpstreamConfig._get_default_generation_params(), defaults_only=True)
    config._eos_token_tensor = torch.tensor(eos) if len(eos) else None
    processors = _Upstream(encoder_ids is not None)._get_logits_processor(
        config,
        input_ids_seq_length=prompt,
        encoder_input_ids=torch.tensor([list(row[:prompt]) if encoder_ids is None else list(encoder_ids)]),
        prefix_allowed_tokens_fn=allowed,
        device="cpu",
        model_kwargs={"attention_mask": torch.ones(1, prompt, dtype=torch.long)},
    )
    ids = torch.tensor([list(row)], dtype=torch.long)
    return processors(ids, torch.from_numpy(logits.copy())[None])[0].numpy()


def _ours(
    arguments: dict[str, Any],
    rows: Sequence[Sequence[int]],
    prompts: Sequence[int],
    logits: np.ndarray,
    encoder_ids: Sequence[Sequence[int]] | None = None,
    eos: Sequence[int] = ENDS,
    **others: Any,
) -> np.ndarray:
    """[R, V] after all processors of a call."""
    config = GenerationConfig().merged(arguments)
    encoded = None if encoder_ids is None else [np.array(ids) for ids in encoder_ids]
    size = logits.shape[1]
    processors = build_processors(config, size, eos, encoder_ids=encoded, max_new_tokens=NEW, **others)
    history = _history(rows, prompts)
    result = logits.copy()
    for processor in processors:
        processor(result, history)
    return result


def _history(rows: Sequence[Sequence[int]], prompts: Sequence[int]) -> History:
    history = History([row[:prompt] for row, prompt in zip(rows, prompts, strict=True)])
    for index, (row, prompt) in enumerate(zip(rows, prompts, strict=True)):
        history.extend(index, row[prompt:])
    return history


def _sample(seed: int, size: int, rows: int = 3, flavour: str = "normal") -> tuple[Any, ...]:
    """Rows of different lengths whose tokens repeat, prompt lengths, logits [R, V] and encoder inputs."""
    rng = np.random.default_rng(seed)
    prompts = [int(rng.integers(1, 6)) for _ in range(rows)]
    repertoire = rng.integers(0, size, size=max(2, min(size, 4)))
    texts = [rng.choice(repertoire, size=prompt + int(rng.integers(0, NEW))).tolist() for prompt in prompts]
    logits = rng.normal(scale=3, size=(rows, size)).astype(np.float32)
    if flavour == "ties":
        logits = np.round(logits * 2) / 2
    elif flavour == "banned":
        logits[rng.random(logits.shape) < 0.5] = -np.inf
        logits[:, int(rng.integers(size))] = 1.0
    elif flavour == "flat":
        logits[:] = 0.25
    encoder_ids = [rng.choice(repertoire, size=int(rng.integers(1, 9))).tolist() for _ in range(rows)]
    return texts, prompts, logits, encoder_ids


def _assert_close(ours: np.ndarray, theirs: np.ndarray) -> None:
    """The same tokens banned, and every other logit equal but for the last bits."""
    banned, expected = np.isneginf(ours), np.isneginf(theirs)
    assert np.array_equal(banned, expected), (np.flatnonzero(banned != expected), ours, theirs)
    np.testing.assert_allclose(ours[~banned], theirs[~banned], rtol=1e-6, atol=1e-6)


EXACT: list[dict[str, Any]] = [
    {"do_sample": True, "temperature": 0.7, "top_k": 0},
    {"do_sample": True, "temperature": 3.3, "top_k": 0},
    {"do_sample": True, "top_k": 1},
    {"do_sample": True, "top_k": 5},
    {"do_sample": True, "top_k": 5, "num_beams": 4},
    {"do_sample": True, "top_k": 1, "num_beams": 4},
    {"do_sample": True, "top_k": 5000},
    {"repetition_penalty": 1.3},
    {"repetition_penalty": 0.8},
    {"encoder_repetition_penalty": 1.3},
    {"encoder_repetition_penalty": 0.7},
    {"no_repeat_ngram_size": 1},
    {"no_repeat_ngram_size": 2},
    {"no_repeat_ngram_size": 3},
    {"encoder_no_repeat_ngram_size": 1},
    {"encoder_no_repeat_ngram_size": 2},
    {"encoder_no_repeat_ngram_size": 4},
    {"bad_words_ids": [[0], [1], [0, 1], [1, 0, 1], [2]]},
    {"bad_words_ids": [[2], [3]]},
    {"sequence_bias": {(0,): -2.5, (1,): 1.1, (0, 1): 0.7, (1, 1): -9.0, (0, 1, 0): 3.3, (1, 0): 0.1}},
    {"sequence_bias": {(0, 1): 0.7, (1, 0, 1): -0.3, (0, 0, 1): 1.9, (1, 1): 0.2}},
    {"min_length": 7},
    {"min_new_tokens": 3},
    {"forced_bos_token_id": 4},
    {"forced_eos_token_id": 2},
    {"forced_eos_token_id": [2, 3]},
    {"remove_invalid_values": True},
    {"exponential_decay_length_penalty": (2, 1.3)},
    {"exponential_decay_length_penalty": (0, 0.6)},
    {"suppress_tokens": [0, 4, 10**6]},
    {"begin_suppress_tokens": [1, 4]},
    {"begin_suppress_tokens": [1, 4], "forced_bos_token_id": 3},
]
MASS: list[tuple[str, float]] = [
    ("top_p", 0.0),
    ("top_p", 0.3),
    ("top_p", 0.9),
    ("top_p", 0.999),
    ("min_p", 0.0),
    ("min_p", 0.05),
    ("min_p", 1.0),
    ("typical_p", 0.2),
    ("typical_p", 0.9),
    ("epsilon_cutoff", 0.02),
    ("epsilon_cutoff", 0.4),
    ("eta_cutoff", 0.02),
    ("eta_cutoff", 0.5),
    ("top_h", 0.2),
    ("top_h", 0.7),
]


@pytest.mark.parametrize("arguments", EXACT, ids=str)
@pytest.mark.parametrize("flavour", ["normal", "ties", "banned", "flat"])
def test_processors_that_sum_no_probability_are_equal_to_the_byte(arguments: dict[str, Any], flavour: str) -> None:
    for seed in range(12):
        size = (5, 8, 40, 700)[seed % 4]
        rows, prompts, logits, encoder_ids = _sample(seed, size, flavour=flavour)
        encoder = encoder_ids if seed % 2 else None
        ours = _ours(arguments, rows, prompts, logits, encoder)
        for index, row in enumerate(rows):
            ids = None if encoder is None else encoder[index]
            theirs = _upstream(arguments, row, prompts[index], logits[index], ids)
            np.testing.assert_array_equal(ours[index], theirs)


@pytest.mark.parametrize(("name", "value"), MASS)
@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("size", [1, 2, 5, 40, 2000])
def test_filters_by_mass_keep_what_upstream_keeps(name: str, value: float, beams: int, size: int) -> None:
    arguments = {"do_sample": True, "top_k": 0, "num_beams": beams, name: value}
    for seed in range(12):
        flavour = ("normal", "ties", "banned", "flat")[seed % 4] if name != "top_h" else "normal"
        rows, prompts, logits, _ = _sample(seed, size, flavour=flavour)
        ours = _ours(arguments, rows, prompts, logits, eos=(0, 1))
        for index, row in enumerate(rows):
            theirs = _upstream(arguments, row, prompts[index], logits[index], eos=(0, 1))
            if flavour == "flat" or (flavour == "ties" and name in ("top_p", "min_p", "typical_p")):
                # Which of equal tokens go is upstream's sort's choice; how many is not.
                assert np.array_equal(np.sort(ours[index]), np.sort(theirs))
            else:
                _assert_close(ours[index], theirs)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.data())
def test_any_combination_in_upstreams_order(data: st.DataObject) -> None:
    """All arguments at once: an order of ours that differed from upstream's would change some result."""
    size = data.draw(st.sampled_from([6, 17, 64]))
    arguments: dict[str, Any] = {"do_sample": data.draw(st.booleans())}
    for option in data.draw(st.lists(st.sampled_from(EXACT), max_size=5)):
        arguments.update({key: value for key, value in option.items() if key not in ("do_sample", "num_beams")})
    if data.draw(st.booleans()):
        arguments["renormalize_logits"] = True
    for name, value in data.draw(st.lists(st.sampled_from(MASS[1:-2]), max_size=3)):
        arguments[name] = value
    if not arguments["do_sample"]:
        idle = ("temperature", "top_k", *dict(MASS))
        arguments = {key: value for key, value in arguments.items() if key not in idle}
    rows, prompts, logits, encoder_ids = _sample(data.draw(st.integers(0, 2**32)), size)
    ours = _ours(arguments, rows, prompts, logits, encoder_ids)
    for index, row in enumerate(rows):
        theirs = _upstream(arguments, row, prompts[index], logits[index], encoder_ids[index])
        _assert_close(ours[index], theirs)


def test_log_probabilities_are_upstreams() -> None:
    for seed in range(20):
        rows, prompts, logits, _ = _sample(seed, 50, flavour=("normal", "banned")[seed % 2])
        ours = _ours({"renormalize_logits": True}, rows, prompts, logits)
        for index, row in enumerate(rows):
            _assert_close(ours[index], _upstream({"renormalize_logits": True}, row, prompts[index], logits[index]))


def test_invalid_values_are_replaced_as_upstream_does() -> None:
    logits = np.array([[math.nan, math.inf, -math.inf, 1.5, -2.0]], dtype=np.float32)
    ours = _ours({"remove_invalid_values": True}, [[0]], [1], logits)
    np.testing.assert_array_equal(ours[0], _upstream({"remove_invalid_values": True}, [0], 1, logits[0]))
    assert np.isfinite(ours).all()


def test_a_row_without_any_token_left_stays_as_it_is() -> None:
    for name, value in [*MASS, ("temperature", 0.5), ("top_k", 2)]:
        logits = np.full((2, 6), -np.inf, dtype=np.float32)
        logits[1, 4] = 2.0
        arguments = {"do_sample": True, "top_k": 0, name: value}
        result = _ours(arguments, [[0], [1]], [1, 1], logits)
        assert np.isneginf(result[0]).all(), name
        assert np.flatnonzero(np.isfinite(result[1])).tolist() == [4], name


def test_long_rows_are_searched_in_part_and_give_the_same() -> None:
    """Top-k and top-p look among few candidates in a long row; a whole sort must agree."""
    rng = np.random.default_rng(3)
    for trial in range(12):
        row = rng.normal(scale=(0.05, 1, 4)[trial % 3], size=20_000).astype(np.float32)
        if trial % 2:
            row = np.round(row * 8) / 8
        for k in (1, 7, 50, 150, 400, 19_999):
            assert kth_largest(row, k) == np.sort(row)[-k]
        top_p = (0.5, 0.95)[trial % 2]
        ours = _ours({"do_sample": True, "top_k": 0, "top_p": top_p}, [[0]], [1], row[None])
        order = np.argsort(row, kind="stable")
        mass = np.exp(row[order].astype(np.float64))
        mass = np.cumsum(mass / mass.sum())
        kept = np.isfinite(ours[0][order])
        # float64 sums here and there differ by less than 1e-9: no token of these seeds lies that near the bound.
        near = np.abs(mass - (1 - top_p)) < 1e-6
        assert np.array_equal(kept[~near], (mass > 1 - top_p)[~near])
        assert near.sum() <= 2


def test_presence_and_frequency_penalties_follow_their_definition() -> None:
    """OpenAI's: logit - count * frequency - (count > 0) * presence, over generated tokens alone."""
    rows, prompts, logits, _ = _sample(5, 30)
    ours = _ours({"presence_penalty": 0.6, "frequency_penalty": -0.4}, rows, prompts, logits)
    touched = 0
    for index, row in enumerate(rows):
        generated = row[prompts[index] :]
        for token in range(30):
            count = generated.count(token)
            expected = logits[index, token] + 0.4 * count - 0.6 * (count > 0)
            assert ours[index, token] == pytest.approx(expected, abs=1e-6)
            touched += count > 0
    assert touched


def test_ids_beyond_the_head_are_passed_over() -> None:
    """A prompt may hold ids that the head does not score; a finished row may be filled with any pad id."""
    arguments = {"repetition_penalty": 1.2, "no_repeat_ngram_size": 2, "encoder_no_repeat_ngram_size": 2}
    logits = np.random.default_rng(0).normal(size=(1, 6)).astype(np.float32)
    row = [9, 3, 9, 3, 1, 3]
    ours = _ours({**arguments, "presence_penalty": 1.0}, [[*row, 9, 3]], [6], logits)
    assert np.isfinite(ours).any()
    reference = _ours({"repetition_penalty": 1.2}, [row], [6], logits)
    np.testing.assert_array_equal(reference[0], _upstream({"repetition_penalty": 1.2}, row, 6, logits[0]))


def test_prefix_function_sees_the_row_and_its_request() -> None:
    rows, prompts, logits, _ = _sample(8, 12)
    calls: list[tuple[int, list[int]]] = []

    def allowed(request: int, tokens: np.ndarray) -> list[int]:
        calls.append((request, [int(token) for token in tokens]))
        return [1, 4 + len(tokens) % 3]

    ours = _ours({}, rows, prompts, logits, prefix_allowed_tokens_fn=allowed)
    assert calls == list(enumerate(rows))
    for index, row in enumerate(rows):
        theirs = _upstream({}, row, prompts[index], logits[index], allowed=lambda _, ids: [1, 4 + len(ids) % 3])
        np.testing.assert_array_equal(ours[index], theirs)


def test_prefix_function_wins_where_nothing_allowed_is_left() -> None:
    arguments = {"suppress_tokens": [4], "bad_words_ids": [[1]]}
    logits = np.zeros((2, 6), dtype=np.float32)
    ours = _ours(
        arguments, [[0], [5]], [1, 1], logits, prefix_allowed_tokens_fn=lambda request, _: [[1], [1, 3]][request]
    )
    assert np.flatnonzero(np.isfinite(ours[0])).tolist() == [1]
    assert np.flatnonzero(np.isfinite(ours[1])).tolist() == [3]
    # Two beams of one request: a stuck beam stays stuck while the other has a way on.
    history = History([[0], [5]], origins=[0, 0])
    config = GenerationConfig().merged({"bad_words_ids": [[1]]})
    processors = build_processors(
        config, 6, (), prefix_allowed_tokens_fn=lambda _, tokens: [1] if tokens[0] == 0 else [1, 3]
    )
    for processor in processors:
        processor(logits, history)
    assert np.isneginf(logits[0]).all() and np.flatnonzero(np.isfinite(logits[1])).tolist() == [3]


@pytest.mark.parametrize("answer", [[], [6], [-1]])
def test_prefix_function_must_name_tokens(answer: list[int]) -> None:
    with pytest.raises(InputError, match="prefix_allowed_tokens_fn must name at least one token, each inside"):
        _ours({}, [[0]], [1], np.zeros((1, 6), np.float32), prefix_allowed_tokens_fn=lambda *_: answer)


def test_hamming_diversity_counts_what_earlier_groups_chose() -> None:
    rng = np.random.default_rng(1)
    scores = rng.normal(size=(6, 9)).astype(np.float32)  # 2 requests, 3 beams of the group each
    chosen = np.array([[1, 1, 4], [0, 8, 8]])
    result = scores.copy()
    HammingDiversity(0.7)(result, chosen)
    for row in range(6):
        for token in range(9):
            count = chosen[row // 3].tolist().count(token)
            assert result[row, token] == np.float32(scores[row, token] - np.float32(0.7) * np.float32(count))
    HammingDiversity(0.7)(scores, np.zeros((2, 0), dtype=np.int64))


def test_plain_greedy_search_needs_no_processor() -> None:
    assert build_processors(GenerationConfig(eos_token_id=2, pad_token_id=0), 100, (2,)) == []
    assert build_processors(GenerationConfig(temperature=0.3, top_p=0.5), 100, (2,)) == []
    assert [type(item) for item in build_processors(GenerationConfig(do_sample=True), 100, (2,))] == [TopK]


def test_custom_processors_run_before_those_of_sampling_and_a_grammar_after_them() -> None:
    order: list[str] = []
    config = GenerationConfig().merged({"do_sample": True, "suppress_tokens": [1], "top_k": 2})

    def custom(logits: np.ndarray, history: History) -> None:
        order.append("custom")
        assert np.isneginf(logits[0, 1]) and np.isfinite(logits).sum() == 9

    def grammar(logits: np.ndarray, history: History) -> None:
        order.append("grammar")
        logits[:, 5:] = -np.inf

    logits = np.arange(10, dtype=np.float32)[None]
    for processor in build_processors(config, 10, (), custom=[custom], constraint=grammar):
        processor(logits, History([[0]]))
    assert order == ["custom", "grammar"] and np.flatnonzero(np.isfinite(logits[0])).tolist() == [3, 4]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"bad_words_ids": [[1], [7, 8]]},
            r"bad_words_ids must name tokens of the model's vocabulary, 0 to 5; got \[7, 8\]",
        ),
        ({"sequence_bias": {(9,): 1.0}}, r"sequence_bias must name tokens .* got \[9\]"),
        ({"forced_bos_token_id": 6}, r"forced_bos_token_id must name tokens .* got \[6\]"),
        ({"forced_eos_token_id": [2, -1]}, r"forced_eos_token_id must name tokens .* got \[-1\]"),
    ],
)
def test_tokens_outside_the_vocabulary(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        build_processors(GenerationConfig().merged(arguments), 6, ENDS)


def test_a_length_penalty_on_the_end_needs_an_end() -> None:
    config = GenerationConfig().merged({"exponential_decay_length_penalty": (2, 1.1)})
    with pytest.raises(InputError, match="there is no eos_token_id; give one, or leave the penalty out"):
        build_processors(config, 6, ())


def test_history_follows_what_the_loop_does() -> None:
    history = History([[1, 2, 3], [4]], room=2)
    assert history.rows == 2 and history.row(0).tolist() == [1, 2, 3] and history.generated(0).tolist() == []
    for token in range(20):
        history.append([token, 100 + token])
    assert history.row(1).tolist() == [4, *range(100, 120)] and history.generated(0).tolist() == list(range(20))
    history.extend(1, [7, 8, 9])
    assert history.lengths.tolist() == [23, 24] and history.row(1)[-3:].tolist() == [7, 8, 9]
    history.truncate([5, 2])
    assert history.row(0).tolist() == [1, 2, 3, 0, 1] and history.row(1).tolist() == [4, 100]
    history.select([1, 0, 1])
    assert history.origins.tolist() == [1, 0, 1] and history.prompts.tolist() == [1, 3, 1]
    history.append([50, 51, 52])
    assert [history.row(index).tolist() for index in range(3)] == [[4, 100, 50], [1, 2, 3, 0, 1, 51], [4, 100, 52]]
    for lengths in ([0, 6, 3], [3, 7, 3]):
        with pytest.raises(InputError, match="cut back to its prompt at most and never made longer"):
            history.truncate(lengths)
