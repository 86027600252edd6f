"""Rounding with feedback: nearer to the products than by itself, never further, and the plain layout."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from precast.graphs.block_feedback import _upper, error_of, quantized_with_feedback
from precast.graphs.block_rounding import quantized
from precast.graphs.dialects.blocks import dequantized


def inputs(rng: np.random.Generator, rows: int, depth: int, together: int) -> np.ndarray:
    """Rows whose channels go together: mixtures of a few."""
    mixed = rng.standard_normal((rows, together)) @ rng.standard_normal((together, depth))
    return (mixed + 0.1 * rng.standard_normal((rows, depth))).astype(np.float32)


@settings(max_examples=25, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.integers(1, 40),
    st.integers(1, 150),
    st.sampled_from([16, 32, 64]),
    st.booleans(),
    st.sampled_from([4, 8]),
)
def test_it_is_never_further_from_the_products(
    seed: int, rows: int, depth: int, block: int, symmetric: bool, bits: int
) -> None:
    rng = np.random.default_rng(seed)
    weight = rng.standard_normal((rows, depth)).astype(np.float32)
    x = inputs(rng, 64, depth, 5)
    moments = x.T @ x / len(x)
    rounded = quantized_with_feedback(weight, moments, bits, block, symmetric)
    found = rounded.parts
    plain = quantized(weight, bits, block, symmetric)
    assert [None if part is None else (part.shape, part.dtype) for part in found] == [
        None if part is None else (part.shape, part.dtype) for part in plain
    ]
    assert rounded.plain == error_of(weight, plain, moments, bits)
    assert rounded.error == error_of(weight, found, moments, bits) <= rounded.plain
    left = weight - dequantized(*found, bits, depth)
    exact = np.square(x.astype(np.float64) @ left.T).sum() / len(x)
    assert error_of(weight, found, moments, bits) == pytest.approx(
        exact, rel=1e-3, abs=1e-6 * float(np.square(x).mean())
    )


def test_inputs_that_go_together_make_up_for_much() -> None:
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((96, 128)).astype(np.float32)
    x = inputs(rng, 500, 128, 12)
    seen, unseen = x[:250], x[250:]
    found = quantized_with_feedback(weight, seen.T @ seen / 250, 4, 32, False).parts
    plain = quantized(weight, 4, 32, False)
    fresh = unseen.T @ unseen / 250
    assert error_of(weight, found, fresh, 4) < error_of(weight, plain, fresh, 4) / 4


@pytest.mark.parametrize("kind", ["nothing", "one channel", "nan"])
def test_moments_that_say_little(kind: str) -> None:
    rng = np.random.default_rng(1)
    weight = rng.standard_normal((8, 64)).astype(np.float32)
    moments = np.zeros((64, 64), np.float32)
    if kind == "one channel":
        moments[3, 3] = 2.0
    if kind == "nan":
        moments[0, 0] = np.nan
    found = quantized_with_feedback(weight, moments, 4, 32, False).parts
    plain = quantized(weight, 4, 32, False)
    values = dequantized(*found, 4, 64)
    assert np.isfinite(values).all()
    if kind == "one channel":
        assert error_of(weight, found, moments, 4) <= error_of(weight, plain, moments, 4)
    else:
        np.testing.assert_array_equal(values, dequantized(*plain, 4, 64))


def test_a_weight_that_is_no_number_is_refused() -> None:
    weight = np.full((4, 32), np.inf, np.float32)
    with pytest.raises(ValueError, match="infinities or NaN"):
        quantized_with_feedback(weight, np.eye(32, dtype=np.float32), 4, 32, False)


@pytest.mark.parametrize("size", [1, 2, 95, 97, 300])
def test_the_factor_is_that_of_the_inverse(size: int) -> None:
    rng = np.random.default_rng(size)
    x = rng.standard_normal((2 * size, size))
    moments = x.T @ x
    factor = _upper(moments).astype(np.float64)
    damped = moments + 0.01 * np.diag(moments).mean() * np.eye(size)
    np.testing.assert_allclose(factor.T @ factor @ damped, np.eye(size), atol=2e-4)
    assert not np.tril(factor, -1).any()
