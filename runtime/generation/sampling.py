"""From logits to the next token: the most likely one, or one drawn by inverting the cumulative distribution."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from precast.runtime.backends.base import Array
from precast.runtime.errors import InputError
from precast.runtime.generation.filters import survivors

__all__ = ["Greedy", "RandomSampler", "Sampler", "generators"]


class Sampler(Protocol):
    """Chooses the next token of every row, [R] int64, from processed logits [R, V]."""

    def choose(self, logits: Array) -> Array: ...

    def select(self, rows: Sequence[int]) -> None: ...


class Greedy:
    """The most likely token; the lowest id among equals."""

    def choose(self, logits: Array) -> Array:
        return logits.argmax(axis=-1)

    def select(self, rows: Sequence[int]) -> None:
        """Rows have nothing to keep."""


def generators(seeds: Sequence[int | None], returns: int = 1) -> list[np.random.Generator]:
    """One generator a row, [len(seeds) * returns]: a row's draws depend on its request's seed and its index among the
    request's returns, and on nothing else in the batch. A seed of None is drawn from the system."""
    made: list[np.random.Generator] = []
    for seed in seeds:
        entropy = np.random.SeedSequence().entropy if seed is None else seed
        for index in range(returns):
            made.append(np.random.Generator(np.random.PCG64(np.random.SeedSequence([entropy, index]))))
    return made


class RandomSampler:
    """Draws each row's token with the row's own generator."""

    def __init__(self, rows: Sequence[np.random.Generator]) -> None:
        self._rows = list(rows)

    def choose(self, logits: Array) -> Array:
        """:raises InputError: a row has no token left to choose, or its logits hold NaN."""
        chosen = np.empty(len(logits), dtype=np.int64)
        for index, (row, generator) in enumerate(zip(logits, self._rows, strict=True)):
            ids = survivors(row)
            values = row[ids].astype(np.float64)
            mass = np.cumsum(np.exp(values - values.max(initial=-np.inf)))
            if not len(mass) or not np.isfinite(mass[-1]):
                raise InputError(f"row {index} has no finite logit to sample from")
            chosen[index] = ids[min(np.searchsorted(mass, generator.random() * mass[-1], "right"), len(ids) - 1)]
        return chosen

    def select(self, rows: Sequence[int]) -> None:
        """New row i continues the generator of old row rows[i]."""
        self._rows = [self._rows[row] for row in rows]
