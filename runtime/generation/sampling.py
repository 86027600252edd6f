"""From logits to the next token: the most likely one, or one drawn by inverting the cumulative distribution."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from precast.runtime.backends.base import Array
from precast.runtime.errors import InputError
from precast.runtime.generation.filters import survivors

__all__ = ["Greedy", "RandomSampler", "Sampler", "generators"]

_BLOCK = 512


class Sampler(Protocol):
    """Chooses the next token of every row, [R] int64, from processed logits [R, V]."""

    def choose(self, logits: Array) -> Array: ...

    def select(self, rows: Sequence[int]) -> None: ...


class Greedy:
    """The most likely token; the lowest id among equals."""

    def choose(self, logits: Array) -> Array:
        chosen: Array = logits.argmax(axis=-1)
        return chosen

    def select(self, rows: Sequence[int]) -> None:
        """Rows have nothing to keep."""


def generators(seeds: Sequence[int | None], returns: int = 1) -> list[np.random.Generator]:
    """One generator a row, [len(seeds) * returns]: a row's draws depend on its request's seed and its index among the
    request's returns, and on nothing else in the batch. A seed of None is drawn from the system."""
    made: list[np.random.Generator] = []
    for seed in seeds:
        start = secrets.randbits(128) if seed is None else seed
        for index in range(returns):
            made.append(np.random.Generator(np.random.PCG64(np.random.SeedSequence([start, index]))))
    return made


class RandomSampler:
    """Draws each row's token with the row's own generator."""

    def __init__(self, rows: Sequence[np.random.Generator]) -> None:
        self._rows = list(rows)

    def choose(self, logits: Array) -> Array:
        """:raises InputError: a row has no token left to choose, or its logits hold NaN or infinity."""
        chosen = np.empty(len(logits), dtype=np.int64)
        for index, (row, generator) in enumerate(zip(logits, self._rows, strict=True)):
            ids = survivors(row)
            chosen[index] = ids[_position(_weights(row, ids, index), generator.random())]
        return chosen

    def select(self, rows: Sequence[int]) -> None:
        """New row i continues the generator of old row rows[i]."""
        self._rows = [self._rows[row] for row in rows]


def _weights(row: Array, ids: Array, index: int) -> Array:
    """[K] float32, in proportion to the probabilities of ``ids``; the largest is 1."""
    top = row.max()
    if not np.isfinite(top):
        state = "no token left to choose: all are banned" if top == -np.inf else "NaN or infinite logits"
        raise InputError(
            f"a token can be drawn where a logit is finite and none is NaN; row {index} has {state}. Loosen what bans "
            "tokens, or give remove_invalid_values=True"
        )
    weights: Array = (row if len(ids) == len(row) else row[ids]) - top
    return np.exp(weights, out=weights)


def _position(weights: Array, uniform: float) -> int:
    """Where the cumulative sum of weights [K] reaches a share of the whole, from 0 to 1.

    Summed in float64, where 262144 small probabilities keep their share, and by blocks: a sum a block finds the one to
    look into, and nothing as long as the vocabulary is made."""
    if len(weights) <= _BLOCK:
        mass = np.cumsum(weights, dtype=np.float64)
        return min(int(np.searchsorted(mass, uniform * mass[-1], "right")), len(weights) - 1)
    whole = len(weights) - len(weights) % _BLOCK
    sums = weights[:whole].reshape(-1, _BLOCK).sum(axis=1, dtype=np.float64)
    edges = np.cumsum(np.append(sums, weights[whole:].sum(dtype=np.float64)))
    target = uniform * edges[-1]
    block = int(np.searchsorted(edges, target, "right"))
    start = block * _BLOCK
    inside = np.cumsum(weights[start : start + _BLOCK], dtype=np.float64)
    before = edges[block - 1] if block else 0.0
    return min(start + int(np.searchsorted(inside, target - before, "right")), len(weights) - 1)
