"""Prompts to generate from, and where a text ends."""

from __future__ import annotations

import numpy as np

from precast.runtime.backends.base import Array


def prompts(vocab: int, count: int = 20, seed: int = 3) -> tuple[Array, Array]:
    """Left-padded prompts of 1 to 12 tokens and their mask."""
    rng = np.random.default_rng(seed)
    ids, mask = np.zeros((count, 12), np.int64), np.zeros((count, 12), np.int64)
    for row in range(count):
        real = 12 if not row else int(rng.integers(1, 13))
        ids[row, 12 - real :] = rng.integers(3, vocab, size=real)
        mask[row, 12 - real :] = 1
    return ids, mask


def ended(tokens: list[int], eos: int) -> list[int]:
    """The tokens up to the first that ends the text; what rows are filled up with behind it is no matter."""
    return tokens[: tokens.index(eos) + 1] if eos in tokens else tokens
