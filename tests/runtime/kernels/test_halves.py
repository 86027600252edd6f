"""Products with weights in 16 bits on every instruction set: what float32 weights of the same values give."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.kernel_sessions import ISAS, Array, compute, normal

from precast.graphs.dialects.halves import panels
from precast.runtime import kernels

pytestmark = pytest.mark.skipif(
    os.environ.get("PRECAST_KERNELS") == "off", reason="PRECAST_KERNELS=off: this build is meant to be without kernels"
)
KINDS = {0: ml_dtypes.bfloat16, 1: np.float16}
UNIT = 2.0**-24


@pytest.fixture(autouse=True)
def _built() -> None:
    assert kernels.available(), kernels.why_not()


def product(x: Array, weight: Array, bias: Array | None = None, isa: str = "", threads: int = 1, **said: int) -> Array:
    """``weight`` [N, K] is of one of `KINDS`."""
    rows, depth = weight.shape
    float16 = int(weight.dtype == np.float16)
    held = panels(weight).view(np.uint16)
    attributes = {"float16": float16, "in": depth, "out": rows, **said}
    return compute("HalfLinear", {"x": x, "w": held, "b": bias}, isa, threads=threads, **attributes)[0]


def weights(seed: int, rows: int, depth: int, kind: int) -> Array:
    return normal(np.random.default_rng(seed), rows, depth, scale=0.1).astype(KINDS[kind])


@pytest.mark.parametrize("isa", ISAS)
@given(
    st.integers(0, 1),
    st.integers(0, 40) | st.sampled_from([95, 97, 200]),
    st.integers(1, 70),
    st.integers(1, 40) | st.sampled_from([255, 256, 257, 513, 600]),
    st.booleans(),
    st.integers(0, 2**16),
)
@settings(max_examples=60, deadline=None)
def test_any_shape(isa: str, kind: int, rows: int, columns: int, depth: int, biased: bool, seed: int) -> None:
    rng = np.random.default_rng(seed)
    weight, x = weights(seed, columns, depth, kind), normal(rng, rows, depth)
    bias = normal(rng, columns) if biased else None
    out = product(x, weight, bias, isa, threads=2)
    wide = weight.astype(np.float64)
    exact = x.astype(np.float64) @ wide.T + (0 if bias is None else bias)
    size = np.abs(x).astype(np.float64) @ np.abs(wide).T + (0 if bias is None else np.abs(bias))
    # Any order of a sum of so many terms (Higham, Accuracy and Stability of Numerical Algorithms, 4.2).
    assert out.shape == exact.shape
    assert (np.abs(out - exact) <= (depth + 2) * UNIT * size + 2.0**-140).all()


@pytest.mark.parametrize("isa", ISAS)
def test_every_number_is_widened_exactly(isa: str) -> None:
    """All 65,536 codes of both kinds: subnormal ones, infinities and NaN with them."""
    codes = np.arange(1 << 16, dtype=np.uint16)
    one = np.ones((1, 1), np.float32)
    for kind in KINDS.values():
        weight = codes.view(kind)[:, None]
        expected = weight[:, 0].astype(np.float32)
        for rows in (1, 30):  # in registers; in memory
            found = product(np.repeat(one, rows, 0), weight, None, isa)
            for row in found:
                with np.errstate(invalid="ignore"):
                    np.testing.assert_array_equal(row, expected + 0.0)  # a sum begins with +0
        table = panels(weight).view(np.uint16)
        said = {"float16": int(kind is np.float16), "in": 1, "out": 1 << 16}
        ids = np.arange(1 << 16).reshape(256, 256)
        looked = compute("HalfEmbedding", {"ids": ids, "w": table}, isa, threads=2, **said)[0]
        assert looked.shape == (256, 256, 1)
        numbers = ~np.isnan(expected)
        np.testing.assert_array_equal(looked.reshape(-1).view(np.uint32)[numbers], expected.view(np.uint32)[numbers])
        assert np.isnan(looked.reshape(-1)[~numbers]).all()


@pytest.mark.parametrize("isa", ISAS)
def test_sums_are_made_in_one_order(isa: str) -> None:
    """A row's result is the same bytes whatever stands beside it, whichever kind holds the weight, on any threads."""
    rng = np.random.default_rng(0)
    # Numbers that both kinds hold.
    weight = np.round(normal(rng, 333, 700, scale=40)).clip(-255, 255) / 256
    bias, x = normal(rng, 333), normal(rng, 150, 700)
    held = weight.astype(ml_dtypes.bfloat16)
    whole = product(x, held, bias, isa)
    assert product(x, weight.astype(np.float16), bias, isa).tobytes() == whole.tobytes()
    for count in (*range(1, 14), 96, 97):
        assert product(x[-count:], held, bias, isa, threads=2).tobytes() == whole[-count:].tobytes(), count
    for columns in (1, 16, 17, 64, 100):
        assert np.array_equal(product(x[:5], held[:columns], bias[:columns], isa), whole[:5, :columns]), columns
    for threads in (2, 3):
        assert product(x, held, bias, isa, threads=threads).tobytes() == whole.tobytes()
    with ThreadPoolExecutor(8) as pool:
        runs = [pool.submit(product, x, held, bias, isa, threads=2) for _ in range(24)]
        assert {run.result().tobytes() for run in runs} == {whole.tobytes()}


@pytest.mark.parametrize("isa", ISAS)
def test_numbers_that_are_none_stay_where_they_are(isa: str) -> None:
    x, weight = normal(np.random.default_rng(0), 20, 300), weights(0, 20, 300, 0)
    x[3, 7], x[4, 8] = np.nan, np.inf
    weight[5, 9] = np.nan
    for rows in (x[:5], x):
        out = product(rows, weight, None, isa)
        assert np.isnan(out[3]).all() and not np.isfinite(out[4]).any() and np.isnan(out[:, 5]).all()
        rest = np.delete(np.delete(out, [3, 4], 0), 5, 1)
        assert np.isfinite(rest).all()


def test_instruction_sets_agree() -> None:
    x, weight = normal(np.random.default_rng(0), 9, 600), weights(1, 50, 600, 1)
    outputs = [product(x, weight, None, isa) for isa in ISAS]
    for output in outputs[1:]:
        np.testing.assert_allclose(output, outputs[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("wrong", [-1, 37, 2**40])
def test_ids_outside_are_errors(wrong: int) -> None:
    table = panels(weights(0, 37, 5, 0)).view(np.uint16)
    with pytest.raises(Exception, match=r"outside of \[0, 37\)"):
        compute("HalfEmbedding", {"ids": np.array([3, wrong]), "w": table}, **{"float16": 0, "in": 5, "out": 37})


GOOD: dict[str, Any] = {"float16": 0, "in": 5, "out": 37}
PANELS = np.zeros((3, 5, 16), np.uint16)


@pytest.mark.parametrize(
    ("change", "attributes", "message"),
    [
        ({"w": PANELS[:2]}, {}, r"weight must be \[3, 5, 16\]: 37 columns in panels of 16, 5 channels"),
        ({"w": PANELS[:, :, :8]}, {}, r"weight must be \[3, 5, 16\]"),
        ({"w": PANELS[0]}, {}, r"weight must be \[3, 5, 16\]"),
        ({"x": np.zeros((2, 6), np.float32)}, {}, "x must have 5 channels"),
        ({"x": np.zeros((), np.float32)}, {}, "x must have 5 channels"),
        ({"b": np.zeros(36, np.float32)}, {}, "bias must be a vector of 37"),
        ({}, {"in": 0}, "in must be from 1 to 2147483647, not 0"),
        ({}, {"out": 2**31}, "out must be from 1 to 2147483647"),
        ({}, {"float16": 2}, "float16 must be from 0 to 1, not 2"),
        ({}, {"float16": 0.5}, "float16 must be an integer"),
    ],
)
def test_what_is_refused(change: dict[str, Array], attributes: dict[str, Any], message: str) -> None:
    inputs = {"x": np.zeros((2, 5), np.float32), "w": PANELS, "b": None, **change}
    with pytest.raises(Exception, match=message):
        compute("HalfLinear", inputs, **{**GOOD, **attributes})
