"""Drawn tokens: distributed as the softmax says, the same for the same seed, whatever else is in the batch."""

from __future__ import annotations

import numpy as np
import pytest

from precast.runtime.errors import InputError
from precast.runtime.generation.sampling import Greedy, RandomSampler, generators

DRAWS = 20_000


def _chi_square(counts: np.ndarray, probabilities: np.ndarray) -> float:
    expected = probabilities * counts.sum()
    return float(((counts - expected) ** 2 / expected).sum())


def _softmax(logits: np.ndarray) -> np.ndarray:
    weights = np.exp(logits.astype(np.float64) - logits.max())
    return weights / weights.sum()


# Quantiles of the chi-square distribution: what 1 of 1,000 right samplers would exceed.
LIMITS = {8: 26.12, 11: 31.26}


@pytest.mark.parametrize("seed", range(4))
def test_draws_follow_the_softmax(seed: int) -> None:
    logits = np.random.default_rng(seed).normal(size=12).astype(np.float32)
    sampler = RandomSampler(generators([seed]))
    drawn = [int(sampler.choose(logits[None])[0]) for _ in range(DRAWS)]
    counts = np.bincount(drawn, minlength=12)
    assert _chi_square(counts, _softmax(logits)) < LIMITS[11]
    # The bound tells a slightly wrong temperature.
    assert _chi_square(counts, _softmax(logits * 1.1)) > LIMITS[11]


def test_banned_tokens_are_never_drawn_and_the_rest_keep_their_shares() -> None:
    logits = np.array([-np.inf, 0.0, 1.0, -np.inf, 0.5, -1.0, 2.0, 0.1, 0.2, -0.3, 0.9, -np.inf], dtype=np.float32)
    sampler = RandomSampler(generators([5]))
    counts = np.bincount([int(sampler.choose(logits[None])[0]) for _ in range(DRAWS)], minlength=12)
    allowed = np.isfinite(logits)
    assert (counts[~allowed] == 0).all()
    assert _chi_square(counts[allowed], _softmax(logits[allowed])) < LIMITS[8]


def test_unlikely_tokens_of_a_long_row_are_drawn_as_often_as_they_should() -> None:
    """Half of the mass lies on 30,000 tokens of 2e-5 each, which float32 sums would lose."""
    logits = np.zeros(30_001, dtype=np.float32)
    logits[0] = np.log(30_000)
    sampler = RandomSampler(generators([3]))
    drawn = np.array([int(sampler.choose(logits[None])[0]) for _ in range(400)])
    rare = drawn[drawn > 0]
    assert 160 < len(rare) < 240
    assert 40 < np.median(rare) / 300 < 60


def test_a_request_draws_the_same_whatever_else_is_in_the_batch() -> None:
    rng = np.random.default_rng(0)
    steps = rng.normal(size=(30, 3, 50)).astype(np.float32)
    whole = RandomSampler(generators([11, 12, 13]))
    together = np.array([whole.choose(logits) for logits in steps])
    for row, seed in enumerate([11, 12, 13]):
        alone = RandomSampler(generators([seed]))
        assert [int(alone.choose(logits[row : row + 1])[0]) for logits in steps] == together[:, row].tolist()
    # Rows that leave take their generators with them.
    leaving = RandomSampler(generators([11, 12, 13]))
    for step, logits in enumerate(steps):
        if step == 10:
            leaving.select([2, 0])
        rows = [0, 1, 2] if step < 10 else [2, 0]
        assert leaving.choose(logits[rows]).tolist() == together[step, rows].tolist()


def test_returns_of_a_request_differ_and_do_not_depend_on_their_number() -> None:
    logits = np.zeros((6, 1000), dtype=np.float32)
    few, many = RandomSampler(generators([1, 2], returns=2)), RandomSampler(generators([1, 2], returns=3))
    first, second = few.choose(logits[:4]), many.choose(logits)
    assert first.tolist() == second[[0, 1, 3, 4]].tolist() and len(set(second.tolist())) == 6


def test_without_a_seed_every_call_differs() -> None:
    logits = np.zeros((2, 10**6), dtype=np.float32)
    drawn = [RandomSampler(generators([None, None])).choose(logits).tolist() for _ in range(2)]
    assert len({*drawn[0], *drawn[1]}) == 4


def test_greedy_takes_the_first_of_the_likeliest() -> None:
    logits = np.array([[0, 2, 2, 1], [3, 0, 0, 3]], dtype=np.float32)
    greedy = Greedy()
    greedy.select([1, 0])
    assert greedy.choose(logits).tolist() == [1, 0]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ([-np.inf, -np.inf], "row 1 has no token left to choose: all are banned. Loosen what bans"),
        ([np.nan, 1.0], "row 1 has NaN or infinite logits"),
        ([np.inf, 1.0], "row 1 has NaN or infinite logits. .* or give remove_invalid_values=True"),
    ],
)
def test_rows_nothing_can_be_drawn_from(row: list[float], message: str) -> None:
    logits = np.array([[0.0, 1.0], row], dtype=np.float32)
    with pytest.raises(InputError, match=message):
        RandomSampler(generators([1, 2])).choose(logits)
