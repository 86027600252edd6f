"""Processors that only sampling uses: temperature, and filters that ban all but the likely tokens.

Each works on [R, V] float32 logits in place; a banned token has logit -inf."""

from __future__ import annotations

import numpy as np

from precast.runtime.backends.base import Array
from precast.runtime.generation.history import History

__all__ = ["Temperature", "TopK", "TopP", "survivors"]


def survivors(row: Array) -> Array:
    """The ids [K] whose logit is above -inf, ascending."""
    return np.flatnonzero(row > -np.inf)


class Temperature:
    """Divides logits. https://arxiv.org/abs/1503.02531"""

    def __init__(self, temperature: float) -> None:
        self.temperature = np.float32(temperature)

    def __call__(self, logits: Array, history: History) -> None:
        logits /= self.temperature


class TopK:
    """Keeps the k most likely tokens, and whatever ties with the last of them. https://arxiv.org/abs/1805.04833"""

    def __init__(self, top_k: int, keep: int = 1) -> None:
        self.top_k = max(top_k, keep)

    def __call__(self, logits: Array, history: History) -> None:
        size = logits.shape[1]
        if self.top_k >= size:
            return
        for row in logits:
            bound = np.partition(row, size - self.top_k)[size - self.top_k]
            row[row < bound] = -np.inf


class TopP:
    """Keeps the smallest set of most likely tokens with mass top_p. https://arxiv.org/abs/1904.09751"""

    def __init__(self, top_p: float, keep: int = 1) -> None:
        self.rest = np.float32(1 - top_p)
        self.keep = keep

    def __call__(self, logits: Array, history: History) -> None:
        for row in logits:
            ids = survivors(row)
            ids = ids[np.argsort(row[ids], kind="stable")]
            if not len(ids):
                continue
            weights = np.exp((row[ids] - row[ids[-1]]).astype(np.float64))
            mass = np.cumsum(weights / weights.sum()).astype(np.float32)
            removed = mass <= self.rest
            removed[-self.keep :] = False
            row[ids[removed]] = -np.inf
