"""Attention over many keys sums their values in parts: it is no further from float64 than eager float32 is."""

from __future__ import annotations

import numpy as np
import pytest
from support.kernel_sessions import ISAS, both, compute, normal

from precast.export.operators import attention


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("keys", [129, 513, 1024, 2000])
def test_long_attention(keys: int, isa: str) -> None:
    """Values with a mean, as biases give them: what one sum over all keys would lose most of."""
    rng = np.random.default_rng(keys)
    heads, size, queries = 2, 8, 64
    query, key, value = (normal(rng, 1, length, heads * size) for length in (queries, keys, keys))
    value += 1.0
    mask = (rng.random((1, keys)) < 0.9).astype(np.int64)
    scale = size**-0.5
    exact, eager = both(
        lambda q, k, v, m: attention(q, k, v, mask=m, heads=heads, scale=scale), query, key, value, mask
    )
    [ours] = compute(
        "Attention",
        {"query": query, "key": key, "value": value, "qkv_bias": None, "mask": mask},
        isa,
        heads=heads,
        kv_heads=heads,
        scale=scale,
        window_left=-1,
        window_right=-1,
        softcap=0.0,
    )
    error, reference = (float(np.sqrt(np.square(made - exact).mean())) for made in (ours, eager))
    assert error <= 1.1 * reference, f"{error:.2e}, eager {reference:.2e}"
