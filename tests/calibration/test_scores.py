"""What labels are counted by, and which weights are found to need more bits."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from precast.calibration.scores import accuracy, macro_f1, spearman
from precast.calibration.sensitivity import kind_of, sensitive_kinds


def test_accuracy_and_f1() -> None:
    right, found = list("aabbbc"), list("aabbcc")
    assert accuracy(right, found) == pytest.approx(5 / 6)
    # a: 1; b: 2 * 2 / (3 + 2); c: 2 * 1 / (1 + 2)
    assert macro_f1(right, found) == pytest.approx((1 + 4 / 5 + 2 / 3) / 3)
    assert macro_f1(list("ab"), list("cc")) == 0.0


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(-5, 5), st.integers(-5, 5)), min_size=3, max_size=40))
def test_spearman_is_scipys(pairs: list[tuple[int, int]]) -> None:
    first, second = ([float(pair[side]) for pair in pairs] for side in (0, 1))
    expected = 0.0
    if len(set(first)) > 1 and len(set(second)) > 1:
        expected = float(stats.spearmanr(first, second).statistic)
    assert spearman(first, second) == pytest.approx(expected, abs=1e-12)


@settings(max_examples=200, deadline=None)
@given(
    st.dictionaries(st.text("abcdef", min_size=1, max_size=3), st.floats(0, 3), max_size=8), st.integers(0, 2**32 - 1)
)
def test_what_is_found_fits_where_movements_add_up(alone: dict[str, float], seed: int) -> None:
    """Judged by the sum of what each moves: the sensitive ones are left out, and no more than needed by a fifth."""
    sizes = {
        kind: int(size) for kind, size in zip(alone, np.random.default_rng(seed).integers(1, 100, 8), strict=False)
    }

    def judge(kinds: Collection[str], *, few: bool = False) -> Sequence[float]:
        return (sum(alone[kind] for kind in kinds),)

    found = sensitive_kinds(sizes, judge)
    few_bits = [kind for kind in alone if kind not in found.sensitive]
    assert judge(few_bits)[0] <= 0.8
    if sum(alone.values()) <= 0.8:
        assert found == ({}, {})
    else:
        assert set(found.alone) == set(alone) and found.sensitive.items() <= found.alone.items()
        assert found.sensitive


def test_kinds_are_of_all_layers() -> None:
    assert kind_of("encoder", "layers.11.fc2.weight") == "encoder: layers.*.fc*.weight"
