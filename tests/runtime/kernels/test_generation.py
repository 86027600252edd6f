"""The native CPU kernels of a generation loop against float64: attention over a cache, RMS norms, gated activations."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import rounding
from support.kernel_sessions import ISAS, Array, close, compute, normal
from support.rounding import Rounded

from precast.runtime import kernels

FAST = settings(max_examples=25, deadline=None, derandomize=True)
pytestmark = pytest.mark.skipif(
    os.environ.get("PRECAST_KERNELS") == "off", reason="PRECAST_KERNELS=off: this build is meant to be without kernels"
)


@pytest.fixture(autouse=True)
def _built() -> None:
    assert kernels.available(), kernels.why_not()


# --- attention over a cache ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """Calls of one layer: ``past`` tokens of each row are there already, then come chunks of some lengths a row."""

    past: tuple[int, ...]
    chunks: tuple[tuple[int, ...], ...]
    slots: int
    size: int = 8
    kv_heads: int = 1
    group: int = 1
    window: int = -1
    softcap: float = 0.0
    bias: tuple[int, int, int] | None = None  # whether batch, heads and tokens are more than 1
    padding: int = 0  # tokens of every call that are no row's
    seed: int = 0

    @property
    def attributes(self) -> dict[str, Any]:
        heads = {"heads": self.kv_heads * self.group, "kv_heads": self.kv_heads}
        return {**heads, "scale": 1.3 * self.size**-0.5, "window": self.window, "softcap": self.softcap}


def attend(case: Case, first: int, q: Array, k: Array, v: Array, bias: Array | None) -> Rounded:
    """One row: queries [S, N, D] from position ``first`` on, all its keys [T, G, D], bias [N, S, T]."""
    k, v = (x.repeat(case.group, 1).swapaxes(0, 1) for x in (k, v))
    distance = first + np.arange(len(q))[:, None] - np.arange(k.shape[1])
    seen = (distance >= 0) & ((case.window < 1) | (distance < case.window))
    made = rounding.attention(
        Rounded(q.swapaxes(0, 1)), k, v, seen, case.attributes["scale"], softcap=case.softcap, added=bias
    )
    return made.moved(lambda x: x.swapaxes(0, 1).reshape(len(q), -1))


class Layer:
    """The history of a layer: what the operator is given, call by call, and what it must answer.

    Slots that hold nothing, and tokens that are not real, are NaN: whatever reads them shows.
    """

    def __init__(self, case: Case) -> None:
        self.case, self.rng = case, np.random.default_rng(case.seed)
        self.batch = len(case.past)
        shape = (self.batch, case.kv_heads, case.slots, case.size)
        self.caches = [np.full(shape, np.nan, np.float32) for _ in range(2)]
        self.history: list[list[Array]] = []
        for row, past in enumerate(case.past):
            self.history.append([normal(self.rng, past, case.kv_heads, case.size) for _ in range(2)])
            for cache, held in zip(self.caches, self.history[row], strict=True):
                self._put(cache[row], held, 0)

    def _put(self, cache: Array, new: Array, first: int) -> None:
        for token in range(len(new)):
            cache[:, (first + token) % self.case.slots] = new[token]

    def call(self, lengths: Sequence[int]) -> tuple[dict[str, Array | None], Rounded]:
        """(inputs, what the output must be); `caches` are those before the call, `history` is after it."""
        case, rng, heads = self.case, self.rng, self.case.kv_heads * self.case.group
        tokens = max(lengths) + case.padding
        past = [len(held) for held, _ in self.history]
        widths = (heads, case.kv_heads, case.kv_heads)
        q, k, v = (np.full((self.batch, tokens, width * case.size), np.nan, np.float32) for width in widths)
        bias = None
        if case.bias is not None:
            dims = zip(case.bias, (self.batch, heads, tokens), strict=True)
            bias = normal(rng, *(size if full else 1 for full, size in dims), case.slots)
        value, error = np.zeros((2, *q.shape))
        for row, length in enumerate(lengths):
            q[row, :length] = normal(rng, length, q.shape[2], scale=1.5)
            for index, fresh in enumerate((k, v)):
                fresh[row, :length] = normal(rng, length, fresh.shape[2])
                new = fresh[row, :length].reshape(length, case.kv_heads, case.size)
                self.history[row][index] = np.concatenate([self.history[row][index], new])
            whole = None
            if bias is not None:
                slot = np.arange(past[row] + length) % case.slots
                part = bias[min(row, bias.shape[0] - 1)][:, :, slot]
                whole = part[:, :length]
            queries = q[row, :length].reshape(length, heads, case.size)
            if length:
                exact = attend(case, past[row], queries, *self.history[row], whole)
                value[row, :length], error[row, :length] = exact.value, exact.error
        counts = {"past_lengths": np.array(past, np.int64), "lengths": np.array(lengths, np.int64)}
        inputs = {"q": q, "k": k, "v": v, "past_k": self.caches[0], "past_v": self.caches[1], **counts, "bias": bias}
        return inputs, Rounded(value, error)

    def after(self, lengths: Sequence[int]) -> list[Array]:
        """The caches as they must be after the call."""
        after = [cache.copy() for cache in self.caches]
        for row, length in enumerate(lengths):
            for cache, held in zip(after, self.history[row], strict=True):
                self._put(cache[row], held[len(held) - length :], len(held) - length)
        return after


def check(case: Case, isa: str, bound: bool = False) -> None:
    layer = Layer(case)
    for lengths in case.chunks:
        inputs, exact = layer.call(lengths)
        after = layer.after(lengths)
        binding = {1: layer.caches[0], 2: layer.caches[1]} if bound else None
        before = [cache.copy() for cache in layer.caches]
        out, *present = compute("CachedAttention", inputs, isa, outputs=3, bound=binding, **case.attributes)
        close(out, exact)
        assert (out[exact.value == 0] == 0).all()
        for ours, expected, old, given_array in zip(present, after, before, layer.caches, strict=True):
            np.testing.assert_array_equal(ours, expected)
            np.testing.assert_array_equal(given_array, expected if bound else old)
        layer.caches = [np.array(cache) for cache in present]


@st.composite
def cases(draw: Any) -> Case:
    batch = draw(st.integers(1, 3))
    ring = draw(st.booleans())
    past = draw(st.sampled_from([0, 1, 9, 255, 256, 300, 700]))
    longest = draw(st.sampled_from([1, 1, 3, 8, 9, 40, 130]))
    calls = draw(st.integers(1, 3))
    lengths = st.lists(st.integers(0, longest), min_size=batch, max_size=batch).map(tuple)
    chunks = tuple(draw(lengths) for _ in range(calls))
    pasts = tuple(draw(st.integers(past // 2, past)) for _ in range(batch))
    slots = past + longest * calls + draw(st.integers(0, 3))
    window = draw(st.sampled_from([-1, 1, 2, 17, 300]))
    if ring:
        window = draw(st.sampled_from([1, 5, 64, 270]))
        slots = window + draw(st.sampled_from([0, 0, 1, 30]))
    return Case(
        past=pasts,
        chunks=tuple(chunk if any(chunk) else (1, *chunk[1:]) for chunk in chunks),
        slots=slots,
        size=draw(st.one_of(st.integers(1, 20), st.sampled_from([32, 64, 80, 96, 128, 256]))),
        kv_heads=draw(st.integers(1, 3)),
        group=draw(st.sampled_from([1, 2, 3, 4, 5, 9])),
        window=window,
        softcap=draw(st.sampled_from([0.0, 0.0, 2.5, 50.0])),
        bias=draw(st.sampled_from([None, None, (0, 0, 0), (1, 1, 1), (0, 1, 1), (1, 0, 0), (0, 1, 0)])),
        padding=draw(st.sampled_from([0, 0, 2, 9])),
        seed=draw(st.integers(0, 99)),
    )


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("bound", [False, True])
@settings(max_examples=25, deadline=None, derandomize=True)
@given(cases())
def test_cached_attention(isa: str, bound: bool, case: Case) -> None:
    check(case, isa, bound)


BASE = Case(past=(300, 7), chunks=((4, 4),), slots=640, size=64, kv_heads=2, group=3)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("window", [-1, 70])
def test_chunks_after_chunks_are_one_prefill(isa: str, window: int) -> None:
    """Whether tokens come at once, in chunks or one by one, and whether the past is a ring or whole."""
    tokens, heads, size = 330, 6, 40
    rng = np.random.default_rng(5)
    q, k, v = normal(rng, 1, tokens, heads * size), normal(rng, 1, tokens, 2 * size), normal(rng, 1, tokens, 2 * size)
    attributes = {"heads": heads, "kv_heads": 2, "scale": size**-0.5, "window": window}

    def run(slots: int, *cuts: int) -> Array:
        caches = [np.full((1, 2, slots, size), np.nan, np.float32) for _ in range(2)]
        outputs = []
        for first, last in zip((0, *cuts), (*cuts, tokens), strict=True):
            new = {name: x[:, first:last] for name, x in (("q", q), ("k", k), ("v", v))}
            counts = {"p": np.array([first], np.int64), "n": np.array([last - first], np.int64)}
            inputs = {**new, "pk": caches[0], "pv": caches[1], **counts}
            outputs.append(
                compute("CachedAttention", inputs, isa, 3, bound={1: caches[0], 2: caches[1]}, **attributes)[0]
            )
        return np.concatenate(outputs, 1)

    whole = run(tokens)
    single = run(tokens, *range(300, tokens))
    np.testing.assert_allclose(run(tokens, 100, 101, 108, 290), whole, rtol=1e-5, atol=2e-6)
    np.testing.assert_allclose(single, whole, rtol=1e-5, atol=2e-6)
    # A few tokens at once are to the bit what they are one by one: a draft that is checked is a draft that was made.
    np.testing.assert_array_equal(run(tokens, *range(300, tokens, 3))[:, 300:], single[:, 300:])
    if window > 0:
        np.testing.assert_array_equal(run(window, *range(300, tokens))[:, 300:], single[:, 300:])
        np.testing.assert_allclose(run(window, 100, 101, 108, 290), whole, rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("isa", ISAS)
def test_a_row_does_not_depend_on_the_others(isa: str) -> None:
    inputs, _ = Layer(BASE).call(BASE.chunks[0])
    both_rows = compute("CachedAttention", inputs, isa, 3, **BASE.attributes)
    for row in range(2):
        alone = {name: None if array is None else array[row : row + 1] for name, array in inputs.items()}
        for output, expected in zip(
            compute("CachedAttention", alone, isa, 3, **BASE.attributes), both_rows, strict=True
        ):
            np.testing.assert_array_equal(output, expected[row : row + 1])


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("lengths", [(1, 1), (8, 3), (70, 2)])
def test_nan_and_scores_of_any_size(isa: str, lengths: tuple[int, ...]) -> None:
    inputs, _ = Layer(BASE).call(lengths)
    q, past_k, past_v = inputs["q"], inputs["past_k"], inputs["past_v"]
    assert q is not None
    assert past_k is not None
    assert past_v is not None

    def run(**changes: Array) -> Array:
        return compute("CachedAttention", {**inputs, **changes}, isa, 3, **BASE.attributes)[0]

    real = np.arange(q.shape[1]) < np.array(lengths)[:, None]
    assert np.isfinite(run(q=q * np.float32(1e4))).all()
    assert np.isnan(run(q=np.full_like(q, np.nan))[real]).all()
    key, value = past_k.copy(), past_v.copy()
    key[0, 0, 5, 9] = value[1, 1, 3, 7] = np.nan
    out = run(past_k=key, past_v=value).reshape(*q.shape[:2], 6, 64)
    assert np.isnan(out[0, : lengths[0], :3]).all()
    assert np.isfinite(out[0, : lengths[0], 3:]).all()
    broken = np.isnan(out[1, : lengths[1]])
    assert broken[:, 3:, 7].all()
    assert broken.sum() == lengths[1] * 3


def _threads() -> list[tuple[str, dict[str, Array | None], dict[str, Any], int]]:
    rng = np.random.default_rng(3)
    found: list[tuple[str, dict[str, Array | None], dict[str, Any], int]] = []
    for case in (BASE, replace(BASE, chunks=((1, 1),), past=(600, 0)), replace(BASE, chunks=((200, 31),))):
        found.append(("CachedAttention", Layer(case).call(case.chunks[0])[0], case.attributes, 3))
    q, k, v = normal(rng, 2, 3, 96), normal(rng, 2, 900, 96), normal(rng, 2, 900, 96)
    found.append(("Attention", {"q": q, "k": k, "v": v}, {"heads": 3, "scale": 0.2}, 1))
    x, w = normal(rng, 3, 77, 200), normal(rng, 200)
    found.append(("AddRMSNorm", {"x": x, "residual": x[:1], "weight": w}, {}, 2))
    found.append(("GatedActivation", {"gate": x, "up": x[::-1].copy()}, {"activation": "gelu"}, 1))
    return found


@pytest.mark.parametrize("isa", ISAS)
def test_the_same_bytes_however_many_threads(isa: str) -> None:
    for op, inputs, attributes, outputs in _threads():
        expected = [x.tobytes() for x in compute(op, inputs, isa, outputs, threads=1, **attributes)]
        for threads in (2, 3):
            for _ in range(4):
                found = compute(op, inputs, isa, outputs, threads=threads, **attributes)
                assert [x.tobytes() for x in found] == expected, (op, threads)


def test_instruction_sets_agree() -> None:
    for op, inputs, attributes, _ in _threads():
        outputs = [compute(op, inputs, isa, **attributes)[0] for isa in ISAS]
        for output in outputs[1:]:
            np.testing.assert_allclose(output, outputs[0], rtol=1e-5, atol=2e-6)


# --- few queries over given keys ----------------------------------------------------------------------------------


@pytest.mark.parametrize("isa", ISAS)
@FAST
@given(
    st.integers(1, 8), st.sampled_from([1, 40, 256, 257, 700]), st.sampled_from([1, 7, 64, 80]), st.integers(1, 3),
    st.sampled_from([None, "holes", "right", "empty"]), st.sampled_from([0.0, 3.0]), st.sampled_from([-1, 0, 30]),
    st.integers(0, 99),
)  # fmt: skip
def test_few_queries_over_many_keys(
    isa: str,
    queries: int,
    keys: int,
    size: int,
    kv_heads: int,
    mask: str | None,
    softcap: float,
    window: int,
    seed: int,
) -> None:
    rng = np.random.default_rng(seed)
    heads, batch = kv_heads * 2, 2
    q, k, v = (normal(rng, batch, n, h * size) for n, h in ((queries, heads), (keys, kv_heads), (keys, kv_heads)))
    bias = normal(rng, (heads + 2 * kv_heads) * size)
    added = normal(rng, 1, heads, queries, keys)
    seen = np.ones((batch, keys), np.int64)
    if mask == "holes":
        seen = (rng.random(seen.shape) < 0.5).astype(np.int64)
    seen[0, keys // 2 + 1 :] = mask is None
    seen[-1] = 0 if mask == "empty" else seen[-1]

    inputs = {"q": q, "k": k, "v": v, "bias": bias, "mask": seen, "added": added}
    options = {"heads": heads, "kv_heads": kv_heads, "scale": size**-0.5, "softcap": softcap}
    (out,) = compute("Attention", inputs, isa, **options, window_left=window)
    exact = rounding.multi_head_attention(q, k, v, bias, seen, added, left=window, right=-1, **options)
    close(out, exact)
    assert (out[exact.value == 0] == 0).all()


# --- rows ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("isa", ISAS)
@FAST
@given(
    st.integers(1, 3), st.integers(0, 40), st.integers(1, 400), st.sampled_from(["same", "rows", "leading"]),
    st.sampled_from([0.0, 30.0]), st.sampled_from([1e-5, 1e-12]), st.integers(0, 99),
)  # fmt: skip
def test_rms_norms(
    isa: str, batch: int, length: int, width: int, residual: str, mean: float, epsilon: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    shape = {"same": (batch, length, width), "rows": (1, length, width), "leading": (length, width)}[residual]
    x, other = normal(rng, batch, length, width) + np.float32(mean), normal(rng, *shape)
    weight = normal(rng, width)
    for rows in (x, x * np.float32(0.003)):  # the squares of the second are no larger than epsilon
        (plain,) = compute("RMSNorm", {"x": rows, "weight": weight}, isa, epsilon=epsilon)
        close(plain, rounding.rms_norm(Rounded(rows), weight, epsilon))
    inputs = {"x": x, "residual": other, "weight": weight}
    out, summed = compute("AddRMSNorm", inputs, isa, outputs=2, epsilon=epsilon)
    close(summed, Rounded(x) + other)
    close(out, rounding.rms_norm(Rounded(x) + other, weight, epsilon))
    np.testing.assert_array_equal(compute("AddRMSNorm", inputs, isa, epsilon=epsilon)[0], out)


GATES = {
    "silu": rounding.silu,
    "gelu": rounding.gelu,
    "gelu_tanh": lambda x: rounding.gelu(x, tanh=True),
    "relu": lambda x: x.monotone(lambda a: np.maximum(a, 0), 0),
}


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("activation", list(GATES))
@FAST
@given(st.integers(0, 40), st.integers(1, 900), st.sampled_from([0.01, 1.0, 30.0]), st.integers(0, 99))
def test_gated_activation(isa: str, activation: str, rows: int, width: int, scale: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    gate, up = normal(rng, rows, width, scale=scale), normal(rng, rows, width)
    (out,) = compute("GatedActivation", {"gate": gate, "up": up}, isa, activation=activation)
    close(out, GATES[activation](Rounded(gate)) * up)


@pytest.mark.parametrize("isa", ISAS)
def test_infinite_and_nan_elements_stay_what_they_are(isa: str) -> None:
    gate = np.zeros((1, 20), np.float32)
    gate[0, [0, 17]], gate[0, [1, 18]], gate[0, [2, 19]] = np.inf, -300, np.nan
    for activation in GATES:
        (out,) = compute("GatedActivation", {"gate": gate, "up": np.ones_like(gate)}, isa, activation=activation)
        assert (out[0, [0, 17]] == np.inf).all()
        assert (np.abs(out[0, [1, 18]]) < 1e-30).all()
        assert np.isnan(out[0, [2, 19]]).all()
    rows = np.ones((2, 20), np.float32)
    rows[1, 19] = np.nan
    (normed,) = compute("RMSNorm", {"x": rows, "weight": rows[0]}, isa)
    assert np.isfinite(normed[0]).all()
    assert np.isnan(normed[1]).all()


# --- refusals -----------------------------------------------------------------------------------------------------


def counts(*values: int) -> Array:
    return np.array(values, np.int64)


def zeros(*shape: int) -> Array:
    return np.zeros(shape, np.float32)


def cached(**changes: Any) -> dict[str, Array | None]:
    """Inputs of 2 rows with 3 new tokens, 2 heads over 1, of size 4, 10 slots; and changes to them."""
    inputs: dict[str, Array | None] = {"q": zeros(2, 3, 8), "k": zeros(2, 3, 4), "v": zeros(2, 3, 4)}
    inputs |= {"past_k": zeros(2, 1, 10, 4), "past_v": zeros(2, 1, 10, 4), "past": counts(0, 7), "n": counts(3, 3)}
    return {**inputs, **changes}


@pytest.mark.parametrize(
    ("changes", "attributes", "message"),
    [
        ({"past": counts(0, 8)}, {}, "row 1 holds 8 tokens and gets 3 more, but the cache has 10 slots"),
        ({"past": counts(0, 8)}, {"window": 11}, "row 1 holds 8 tokens .* and it is 11"),
        ({"past": counts(0, -1)}, {}, r"past_lengths\[1\] is -1"),
        ({"past": counts(2**62, 0)}, {"window": 2}, r"past_lengths\[0\] is 4611686018427387904"),
        ({"n": counts(4, 1)}, {}, r"lengths\[0\] is 4, but there are 3 new tokens"),
        ({"n": counts(1, -1)}, {}, r"lengths\[1\] is -1"),
        ({"n": counts(1)}, {}, "vectors of 2 elements"),
        ({"past": counts(1, 1, 1)}, {}, "vectors of 2 elements"),
        ({}, {"window": 0}, "window must be -1 or at least 1, not 0"),
        ({}, {"softcap": -1.0}, "softcap must be a finite number of at least 0, not -1"),
        ({}, {"heads": 0}, "heads must be from 1 to 2147483647, not 0"),
        ({"n": counts(-(2**63), 1)}, {}, r"lengths\[0\] is -9223372036854775808"),
        ({}, {"heads": 3}, "heads must be a multiple|8 channels do not divide"),
        ({}, {"heads": 2, "kv_heads": 4}, "multiple of kv_heads"),
        ({"q": zeros(2, 8)}, {}, "3 dimensions"),
        ({"q": zeros(2, 3, 9)}, {}, "9 channels do not divide among 2 heads"),
        ({"k": zeros(2, 2, 4)}, {}, r"key and value must be \[2, 3, 4\]"),
        ({"v": zeros(2, 3, 8)}, {}, r"key and value must be \[2, 3, 4\]"),
        ({"past_k": zeros(2, 10, 4)}, {}, "kv_heads, slots, size"),
        ({"past_k": zeros(2, 2, 10, 4)}, {}, r"must be \[2, 1, slots, 4\]"),
        ({"past_v": zeros(2, 1, 11, 4)}, {}, r"must be \[2, 1, slots, 4\]"),
        ({"bias": zeros(1, 2, 3, 9)}, {}, "bias must be"),
        ({"bias": zeros(1, 3, 3, 10)}, {}, "bias must be"),
        ({"bias": zeros(3, 10)}, {}, "bias must be"),
    ],
)
def test_bad_caches_are_errors(changes: dict[str, Array], attributes: dict[str, Any], message: str) -> None:
    with pytest.raises(Exception, match=message):
        compute("CachedAttention", cached(**changes), outputs=3, **{"heads": 2, "kv_heads": 1, **attributes})


def test_what_is_at_the_limit_is_no_error() -> None:
    attributes = {"heads": 2, "kv_heads": 1}
    assert compute("CachedAttention", cached(), outputs=3, **attributes)[0].shape == (2, 3, 8)
    # A window beyond the buffer is fine as long as the row fits; one as large as the buffer lets it be a ring.
    assert compute("CachedAttention", cached(), outputs=3, window=99, **attributes)[0].shape == (2, 3, 8)
    ring = cached(past=counts(0, 8))
    assert compute("CachedAttention", ring, outputs=3, window=10, **attributes)[0].shape == (2, 3, 8)
    empty = {name: array[:0] for name, array in cached().items() if array is not None}
    assert compute("CachedAttention", empty, outputs=3, **attributes)[0].shape == (0, 3, 8)
    nothing = cached(q=zeros(2, 0, 8), k=zeros(2, 0, 4), v=zeros(2, 0, 4), n=counts(0, 0))
    out, present, _ = compute("CachedAttention", nothing, outputs=3, **attributes)
    assert out.shape == (2, 0, 8)
    np.testing.assert_array_equal(present, nothing["past_k"])


@pytest.mark.parametrize(
    ("op", "inputs", "attributes", "message"),
    [
        ("AddRMSNorm", {"x": zeros(2, 3, 4), "r": zeros(2, 1, 4), "w": zeros(4)}, {}, "broadcast"),
        ("AddRMSNorm", {"x": zeros(2, 4), "r": zeros(2, 4), "w": zeros(3)}, {}, "weight must be a vector of 4"),
        ("RMSNorm", {"x": zeros(), "w": zeros(1)}, {}, "no dimension"),
        ("GatedActivation", {"g": zeros(2, 4), "u": zeros(4, 2)}, {}, "same shape"),
        ("GatedActivation", {"g": zeros(2, 4), "u": zeros(2)}, {}, "same shape"),
        ("GatedActivation", {"g": zeros(2), "u": zeros(2)}, {"activation": "tanh"}, "gelu_tanh or relu, not tanh"),
        ("GatedActivation", {"g": zeros(2), "u": zeros(2)}, {"activation": "s" * 40}, "activation must be"),
        ("GatedActivation", {"g": zeros(2), "u": zeros(2)}, {"activation": 1}, "activation must be a string"),
    ],
)  # fmt: skip
def test_bad_rows_are_errors(
    op: str, inputs: dict[str, Array | None], attributes: dict[str, Any], message: str
) -> None:
    with pytest.raises(Exception, match=message):
        compute(op, inputs, **attributes)
