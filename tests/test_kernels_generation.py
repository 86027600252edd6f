"""The native CPU kernels of a generation loop against float64: attention over a cache, RMS norms, gated activations."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_sessions import ISAS, Array, both, close, compute, normal

from precast.runtime import kernels

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


def attend(case: Case, first: int, q: Any, k: Any, v: Any, bias: Any) -> Any:
    """One row in plain torch: queries [S, N, D] from position ``first`` on, all its keys [T, G, D], bias [N, S, T]."""
    keys = k.shape[0]
    k, v = (x.repeat_interleave(case.group, 1).transpose(0, 1) for x in (k, v))
    scores = q.transpose(0, 1) @ k.transpose(1, 2) * case.attributes["scale"]
    if case.softcap:
        scores = case.softcap * torch.tanh(scores / case.softcap)
    scores = scores if bias is None else scores + bias
    distance = first + torch.arange(q.shape[0])[:, None] - torch.arange(keys)
    seen = (distance >= 0) & (distance < case.window if case.window > 0 else distance >= 0)
    return (torch.softmax(scores.masked_fill(~seen, -torch.inf), -1) @ v).transpose(0, 1).reshape(q.shape[0], -1)


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

    def call(self, lengths: Sequence[int]) -> tuple[dict[str, Array | None], tuple[Array, Array]]:
        """(inputs, the output in float64 and in float32); `caches` are those before the call, `history` is after it."""
        case, rng, heads = self.case, self.rng, self.case.kv_heads * self.case.group
        tokens = max(lengths) + case.padding
        past = [len(held) for held, _ in self.history]
        widths = (heads, case.kv_heads, case.kv_heads)
        q, k, v = (np.full((self.batch, tokens, width * case.size), np.nan, np.float32) for width in widths)
        bias = None
        if case.bias is not None:
            dims = zip(case.bias, (self.batch, heads, tokens), strict=True)
            bias = normal(rng, *(size if full else 1 for full, size in dims), case.slots)
        expected = [np.zeros((2, tokens, heads * case.size)) for _ in range(self.batch)]
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
                function = partial(attend, case, past[row])
                expected[row][:, :length] = both(function, queries, *self.history[row], whole)
        counts = {"past_lengths": np.array(past, np.int64), "lengths": np.array(lengths, np.int64)}
        inputs = {"q": q, "k": k, "v": v, "past_k": self.caches[0], "past_v": self.caches[1], **counts, "bias": bias}
        exact, reference = (np.stack([row[i] for row in expected]) for i in range(2))
        return inputs, (exact, reference.astype(np.float32))

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
        close(out, *exact, scale=max(np.abs(values).max(initial=0.0) for _, values in layer.history))
        assert (out[exact[0] == 0] == 0).all()
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
@settings(max_examples=40, deadline=None, derandomize=True)
@given(cases())
def test_cached_attention(isa: str, bound: bool, case: Case) -> None:
    check(case, isa, bound)
