"""Cosines of vectors with their reference's: figures and bounds."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from precast.runtime.directions import BOUNDS, Directions
from precast.runtime.errors import ParityError


def turned(angle: float, count: int = 50) -> tuple[np.ndarray, np.ndarray]:
    """Vectors, and the same turned by so much."""
    rng = np.random.default_rng(0)
    a = rng.standard_normal((count, 8))
    b = rng.standard_normal((count, 8))
    b -= (a * b).sum(-1, keepdims=True) / (a * a).sum(-1, keepdims=True) * a
    b *= np.linalg.norm(a, axis=-1, keepdims=True) / np.linalg.norm(b, axis=-1, keepdims=True)
    return a.astype(np.float32), (np.cos(angle) * a + np.sin(angle) * b).astype(np.float32)


def over(*pairs: tuple[np.ndarray, np.ndarray]) -> Directions:
    return Directions.over({"states": pairs}, text=True, data="0")


@given(st.floats(0, 3.1))
def test_the_cosine_is_that_of_the_angle(angle: float) -> None:
    found = over(turned(angle))
    assert found.mean == pytest.approx(np.cos(angle), abs=1e-6) == pytest.approx(found.worst, abs=1e-6)
    assert found.shares("int8")[0] == pytest.approx((1 - np.cos(angle)) / (1 - BOUNDS["int8"][0]), abs=1e-3)


def test_vectors_of_several_widths_and_lengths() -> None:
    a, b = turned(0.1)
    found = over((a, b * 7), (np.ones((2, 3), np.float32), np.ones((2, 3), np.float32)))
    assert found.vectors == 52
    assert found.mean == pytest.approx((50 * np.cos(0.1) + 2) / 52, abs=1e-6)
    assert Directions.in_words(found.to_json()) == (
        f"cosine {found.mean:.6f} on average and {found.worst:.6f} at worst over 52 vectors of text"
    )


@pytest.mark.parametrize("precision", BOUNDS)
def test_both_bounds_hold(precision: str) -> None:
    mean, worst = BOUNDS[precision]
    over(turned(np.arccos(mean + 1e-5))).gate(precision, "v")
    with pytest.raises(ParityError, match=r"variant v points too far .* over 50 vectors, .* mean cosine 0\.99.* below"):
        over(turned(np.arccos(mean - 1e-5))).gate(precision, "v")
    one = turned(np.arccos(worst - 1e-4), 1)
    with pytest.raises(ParityError, match=r"the worst cosine 0\.98.* is below 0\.99"):
        over(turned(0.0, 1000), one).gate(precision, "v")


def test_what_is_no_number_points_backwards_and_nothing_nowhere() -> None:
    a, b = turned(0.0, 4)
    b[1, 2] = np.nan
    b[2, 0] = np.inf
    found = over((a, b))
    assert found.worst == -1.0 and found.mean == pytest.approx(0, abs=1e-6)
    zero = np.zeros((1, 8), np.float32)
    assert over((zero, zero)).worst == 1.0
    assert over((zero, a[:1])).worst == over((a[:1], zero)).worst == 0.0
    with pytest.raises(ParityError):
        over((a, b)).gate("int8", "v")
