"""Batches: every row once, budgets kept, little padding, lazy streams."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from precast.runtime import batching
from precast.runtime.errors import InputError

LENGTHS = st.lists(st.integers(1, 600), max_size=120)


@settings(max_examples=150, deadline=None)
@given(LENGTHS, st.integers(1, 3000), st.none() | st.integers(1, 9), st.integers(0, 2000))
def test_plan_uses_every_row_once_within_its_limits(lengths, budget, batch_size, overhead):
    batches = batching.plan(lengths, token_budget=budget, batch_size=batch_size, overhead=overhead)
    assert sorted(itertools.chain(*batches)) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) == 1 or len(batch) * max(lengths[index] for index in batch) <= budget
        assert batch_size is None or len(batch) <= batch_size
    longest = [max(lengths[index] for index in batch) for batch in batches]
    assert longest == sorted(longest, reverse=True)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 30), min_size=1, max_size=7), st.integers(20, 120), st.integers(0, 60))
def test_plan_is_the_cheapest_cut_of_the_sorted_rows(lengths, budget, overhead):
    ordered = sorted(lengths, reverse=True)

    def cost(groups):
        return sum(overhead + len(group) * group[0] for group in groups)

    best = np.inf
    for cuts in itertools.product([False, True], repeat=len(ordered) - 1):
        groups = [[ordered[0]]]
        for length, cut in zip(ordered[1:], cuts, strict=True):
            if cut:
                groups.append([length])
            else:
                groups[-1].append(length)
        if all(len(group) == 1 or len(group) * group[0] <= budget for group in groups):
            best = min(best, cost(groups))
    planned = batching.plan(lengths, token_budget=budget, overhead=overhead)
    assert cost([[lengths[index] for index in batch] for batch in planned]) == best


@pytest.mark.parametrize("count", [100, 300, 1000, 3000])
@pytest.mark.parametrize("seed", range(3))
def test_padding_is_at_most_a_tenth_on_a_natural_mix(count, seed):
    random = np.random.default_rng(seed)
    lengths = np.clip(np.exp(random.normal(3.0, 0.8, count)), 3, 512).astype(int).tolist()
    batches = batching.plan(lengths)
    assert batching.waste(lengths, batches) <= 0.10
    assert len(batches) < count / 5


def test_windows_of_a_stream_grow_and_are_lazy():
    pulled = []

    def source():
        for value in range(100):
            pulled.append(value)
            yield value

    stream = batching.windows(source(), limit=16, first=1)
    assert next(stream) == [0]
    assert pulled == [0]
    assert next(stream) == [1, 2]
    assert [len(window) for window in stream] == [4, 8, 16, 16, 16, 16, 16, 5]


def test_pad_fills_each_name_with_its_value():
    rows = [
        {"input_ids": np.array([5, 6, 7]), "attention_mask": np.array([1, 1, 1])},
        {"input_ids": np.array([8]), "attention_mask": np.array([1])},
    ]
    right = batching.pad(rows, fill={"input_ids": 9})
    assert right["input_ids"].tolist() == [[5, 6, 7], [8, 9, 9]]
    assert right["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]
    left = batching.pad(rows, fill={"input_ids": 9}, side="left")
    assert left["input_ids"].tolist() == [[5, 6, 7], [9, 9, 8]]
    assert left["attention_mask"].tolist() == [[1, 1, 1], [0, 0, 1]]


@pytest.mark.parametrize("name", ["batch_size", "token_budget"])
@pytest.mark.parametrize("value", [0, -1, 2.5, "4", True])
def test_limits_below_one_are_refused(name, value):
    limits = {"batch_size": None, "token_budget": None, name: value}
    with pytest.raises(InputError, match=f"{name} must be an integer of at least 1"):
        batching.check_limits(**limits)


def test_progress_calls_a_function_and_is_silent_off_a_terminal(capsys):
    seen = []
    with batching.reporter(lambda done, total: seen.append((done, total)), 2, "x") as report:
        report(1)
        report(2)
    with batching.reporter(True, 2, "x") as report:
        report(1)
    assert seen == [(1, 2), (2, 2)]
    assert capsys.readouterr() == ("", "")
