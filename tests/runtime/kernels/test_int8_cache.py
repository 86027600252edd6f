"""Attention over a cache in 8 bits: it reads what it wrote, and is in all else the one over a cache in float32."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.kernel_sessions import ISAS, Array, compute, normal

pytestmark = pytest.mark.skipif(
    os.environ.get("PRECAST_KERNELS") == "off", reason="PRECAST_KERNELS=off: this build is meant to be without kernels"
)
NAMES = ("query", "key", "value", "past_key", "past_value", "past_lengths", "lengths")


def narrow(isa: str, threads: int, feeds: dict[str, Array], in_place: bool, **attributes: Any) -> list[Array]:
    bound = {1: feeds["past_key"], 2: feeds["past_value"]} if in_place else None
    return compute("CachedAttentionInt8", feeds, isa, 3, threads, bound, (1, 2), **attributes)


def blocks(rows: Array) -> Array:
    """[..., D] -> [..., ceil(D / 32), 32], zeros behind the last channel."""
    padded = np.zeros((*rows.shape[:-1], -(-rows.shape[-1] // 32) * 32), rows.dtype)
    padded[..., : rows.shape[-1]] = rows
    return padded.reshape(*rows.shape[:-1], -1, 32)


def rounded(rows: Array) -> Array:
    """float32 [..., D] as a cache holds it: int8 [..., D and four for each 32 of them]."""
    parts = blocks(rows)
    most = np.abs(parts).max(-1, keepdims=True)
    scale = (most / np.float32(127)).astype(np.float32)
    inverse = np.divide(np.float32(127), most, out=np.zeros_like(most), where=most > 0)
    steps = parts * inverse
    codes = np.trunc(steps + np.where(steps < 0, np.float32(-0.5), np.float32(0.5))).astype(np.int8)
    codes = codes.reshape(*rows.shape[:-1], -1)[..., : rows.shape[-1]]
    return np.concatenate([codes, np.ascontiguousarray(scale[..., 0]).view(np.int8)], -1)


def widened(cache: Array, size: int) -> Array:
    scale = np.ascontiguousarray(cache[..., size:]).view(np.float32)
    return np.asarray(cache[..., :size].astype(np.float32) * np.repeat(scale, 32, -1)[..., :size])


@st.composite
def calls(draw: Any) -> tuple[dict[str, Array], dict[str, Any]]:
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    kv_heads, group, size = draw(st.integers(1, 3)), draw(st.sampled_from([1, 2, 5])), draw(st.integers(1, 72))
    batch, queries = draw(st.integers(1, 3)), draw(st.sampled_from([1, 2, 7, 12, 13, 40]))
    window = draw(st.sampled_from([-1, -1, 3, 20]))
    past = rng.integers(0, draw(st.sampled_from([1, 30, 700])), batch)
    lengths = rng.integers(1, queries + 1, batch)
    slots = int((past + lengths).max()) + draw(st.integers(0, 3))
    if window > 0:
        slots = max(window, slots - draw(st.integers(0, 20)))  # a ring
    feeds = {
        "query": normal(rng, batch, queries, kv_heads * group * size),
        "key": normal(rng, batch, queries, kv_heads * size),
        "value": normal(rng, batch, queries, kv_heads * size),
        "past_key": rounded(normal(rng, batch, kv_heads, slots, size)),
        "past_value": rounded(normal(rng, batch, kv_heads, slots, size)),
        "past_lengths": past.astype(np.int64),
        "lengths": lengths.astype(np.int64),
    }
    at = {"heads": kv_heads * group, "kv_heads": kv_heads, "scale": size**-0.5, "window": window, "softcap": 0.0}
    at["bfloat16"] = draw(st.integers(0, 1))
    return feeds, at


@pytest.mark.parametrize("isa", ISAS)
@settings(max_examples=60, deadline=None, derandomize=True)
@given(calls(), st.booleans(), st.integers(1, 3))
def test_the_same_as_over_the_floats_it_stands_for(
    isa: str, case: tuple[dict[str, Array], dict[str, Any]], in_place: bool, threads: int
) -> None:
    feeds, at = case
    size = feeds["key"].shape[2] // at["kv_heads"]
    floats = {**feeds, "past_key": widened(feeds["past_key"], size), "past_value": widened(feeds["past_value"], size)}
    expected = compute("CachedAttention", floats, isa, 3, threads, **at)
    before = {name: feeds[name].copy() for name in ("past_key", "past_value")}
    out, *present = narrow(isa, threads, {name: array.copy() for name, array in feeds.items()}, in_place, **at)
    # Every float is the same: not one bit of the attention may differ.
    assert out.tobytes() == expected[0].tobytes()
    exact = compute("CachedAttention", floats, isa, 3, threads, **{**at, "bfloat16": 0})[0]
    values = max(np.abs(floats["value"]).max(), np.nan_to_num(np.abs(floats["past_value"])).max())
    assert np.abs(out - exact).max() <= (2**-7 + 1e-3) * values
    for name, held in zip(("key", "value"), present, strict=True):
        wanted = before[f"past_{name}"].copy()
        slots = held.shape[2]
        for row, (past, length) in enumerate(zip(feeds["past_lengths"], feeds["lengths"], strict=True)):
            fresh = feeds[name][row].reshape(-1, held.shape[1], size)
            for j in range(max(0, length - slots), length):
                wanted[row, :, (past + j) % slots] = rounded(fresh[j])
        np.testing.assert_array_equal(held, wanted)


@pytest.mark.parametrize("isa", ISAS)
def test_peculiar_rows(isa: str) -> None:
    """Zeros, what is too small for a scale, and what is no number: each row by itself."""
    rng = np.random.default_rng(0)
    key = normal(rng, 1, 5, 8)
    key[0, 0], key[0, 1], key[0, 2, 3], key[0, 3, 3] = 0, 1e-38, np.nan, np.inf
    empty = np.zeros((1, 1, 6, 12), np.int8)
    feeds = dict(zip(NAMES, (normal(rng, 1, 5, 8), key, normal(rng, 1, 5, 8), empty, empty.copy()), strict=False))
    feeds |= {"past_lengths": np.zeros(1, np.int64), "lengths": np.full(1, 5)}
    _, held, _ = narrow(isa, 1, feeds, False, heads=1, kv_heads=1, scale=1.0)
    made = widened(held, 8)[0, 0]
    assert (made[:2] == 0).all() and np.isnan(made[2:4]).all()
    assert np.abs(made[4] - key[0, 4]).max() <= np.abs(key[0, 4]).max() / 253


@pytest.mark.parametrize("isa", ISAS)
def test_a_cache_of_another_width_is_an_error(isa: str) -> None:
    held = np.zeros((1, 1, 6, 8), np.int8)
    feeds = dict(zip(NAMES, (np.zeros((1, 1, 8), np.float32),) * 3 + (held, held), strict=False))
    feeds |= {"past_lengths": np.zeros(1, np.int64), "lengths": np.ones(1, np.int64)}
    with pytest.raises(Exception, match=r"CachedAttentionInt8: past_key and past_value must be \[1, 1, slots, 12\]"):
        narrow(isa, 1, feeds, False, heads=1, kv_heads=1, scale=1.0)
