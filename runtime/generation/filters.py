"""Processors that only sampling uses: temperature, and filters that ban all but the likely tokens.

Each works on logits [R, V] float32 in place; a banned token has logit -inf. Each gives what upstream's class of the
same purpose gives for a row on its own: equal bytes where no probability is summed, and otherwise the same tokens
unless one lies within rounding of the bound. A row without any token left stays as it is."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from precast.runtime.backends.base import Array
from precast.runtime.generation.history import History

__all__ = ["EpsilonCutoff", "EtaCutoff", "MinP", "Temperature", "TopH", "TopK", "TopP", "TypicalP", "survivors"]

_LANES = 64  # columns whose maximum stands for all of them, when the k largest of a long row are looked for
_FIRST, _GROWTH = 256, 8  # top-p looks at this many of the most likely tokens first, then at so many times more
_MARGIN = 1e-4  # ... unless their mass exceeds what it has to keep by this


def survivors(row: Array) -> Array:
    """The ids [K] whose logit is above -inf, ascending."""
    return np.flatnonzero(row > -np.inf)


def kth_largest(row: Array, k: int) -> Any:
    """The k-th largest value of a row [V], k <= V.

    The k-th largest of the maxima of disjoint groups is a lower bound of it, which leaves few values to look among."""
    values = row
    groups = len(row) // _LANES
    if groups > 2 * k:
        maxima = row[: groups * _LANES].reshape(_LANES, groups).max(axis=0)
        values = row[row >= np.partition(maxima, groups - k)[groups - k]]
        if len(values) < k:  # NaN compares as nothing
            values = row
    return np.partition(values, len(values) - k)[len(values) - k]


def _ban(row: Array, banned: Array) -> None:
    np.copyto(row, np.float32(-np.inf), where=banned)


def _log_mass(values: Array) -> float:
    """log(sum(exp(values))) of finite values."""
    top = values.max()
    return float(top) + math.log(float(np.exp(values - top).sum(dtype=np.float64)))


def _leading(keys: Array, probabilities: Array, mass: float, keep: int) -> Array:
    """Positions [M] of the largest keys [K], all that tie with the last included, that surely have a mass: few of a
    long row. ``keep`` at least."""
    count = max(_FIRST, keep)
    while count < len(keys) // 2:
        leading = np.flatnonzero(keys >= kth_largest(keys, count))
        if probabilities[leading].sum(dtype=np.float64) > mass + _MARGIN:
            return leading
        count *= _GROWTH
    return np.arange(len(keys))


def _log_softmax(values: Array) -> tuple[Array, Array, float]:
    """Logarithms [K] float32 of the probabilities of finite logits, these themselves, and their entropy."""
    logarithms = values - np.float32(_log_mass(values))
    probabilities = np.exp(logarithms)
    return logarithms, probabilities, -float((logarithms * probabilities).sum(dtype=np.float64))


class Temperature:
    """Divides logits. https://arxiv.org/abs/1503.02531"""

    def __init__(self, temperature: float) -> None:
        self.temperature = np.float32(temperature)

    def __call__(self, logits: Array, history: History) -> None:
        logits /= self.temperature


class TopH:
    """Keeps the most likely of the first 100 tokens while their entropy stays below a share of what those 100 have.
    https://arxiv.org/abs/2509.02510"""

    considered = 100

    def __init__(self, top_h: float) -> None:
        self.top_h = top_h

    def __call__(self, logits: Array, history: History) -> None:
        for row in logits:
            ids = survivors(row)
            if not len(ids):
                continue
            if len(ids) > self.considered:
                ids = np.flatnonzero(row >= kth_largest(row, self.considered))
            ids = ids[np.argsort(-row[ids], kind="stable")][: self.considered]
            values = row[ids].astype(np.float64)
            log_probabilities = values - _log_mass(values)
            entropy = np.cumsum(-np.exp(log_probabilities) * log_probabilities)
            kept = entropy <= entropy[-1] * self.top_h
            kept[0] = True
            banned = np.ones(len(row), dtype=bool)
            banned[ids[kept]] = False
            _ban(row, banned)


class TopK:
    """Keeps the k most likely tokens, and whatever ties with the last of them. https://arxiv.org/abs/1805.04833"""

    def __init__(self, top_k: int, keep: int = 1) -> None:
        self.top_k = max(top_k, keep)

    def __call__(self, logits: Array, history: History) -> None:
        if self.top_k < logits.shape[1]:
            for row in logits:
                _ban(row, row < kth_largest(row, self.top_k))


class TopP:
    """Keeps the smallest set of most likely tokens with mass top_p. https://arxiv.org/abs/1904.09751"""

    def __init__(self, top_p: float, keep: int = 1) -> None:
        self.top_p = top_p
        self.keep = keep

    def __call__(self, logits: Array, history: History) -> None:
        for row in logits:
            ids = survivors(row)
            if len(ids) <= self.keep:
                continue
            values = row if len(ids) == len(row) else row[ids]
            # Probabilities in float32, summed in float64, compared in float32: upstream's roundings, which decide
            # where many tokens are equally likely.
            probabilities = values - values.max()
            np.exp(probabilities, out=probabilities)
            probabilities /= probabilities.sum(dtype=np.float64).astype(np.float32)
            near = _leading(values, probabilities, self.top_p, self.keep)
            order = near[np.argsort(values[near], kind="stable")]
            # The mass up to each token, from the mass above it: all that is not near is below.
            mass = probabilities[order].astype(np.float64)
            upto = probabilities.sum(dtype=np.float64) - (np.cumsum(mass[::-1])[::-1] - mass)
            removed = upto.astype(np.float32) <= np.float32(1 - self.top_p)
            removed[max(len(removed) - self.keep, 0) :] = False
            kept = order[~removed]
            if len(ids) == len(row):
                banned = np.ones(len(row), dtype=bool)
                banned[kept] = False
                _ban(row, banned)
            else:
                banned = np.ones(len(ids), dtype=bool)
                banned[kept] = False
                row[ids[banned]] = -np.inf


class MinP:
    """Bans tokens less likely than a share of the most likely one. https://arxiv.org/abs/2407.01082"""

    def __init__(self, min_p: float, keep: int = 1) -> None:
        self.offset = np.float32(math.log(min_p) if min_p > 0 else -math.inf)
        self.keep = keep

    def __call__(self, logits: Array, history: History) -> None:
        keep = min(self.keep, logits.shape[1])
        for row in logits:
            top = row.max()
            if top == -np.inf:
                continue
            banned = row < top + self.offset
            if keep > 1:
                banned[np.argpartition(-row, keep - 1)[:keep]] = False
            _ban(row, banned)


class TypicalP:
    """Keeps the tokens whose information is nearest to the entropy, up to a mass. https://arxiv.org/abs/2202.00666"""

    def __init__(self, mass: float, keep: int = 1) -> None:
        self.mass = mass
        self.keep = keep

    def __call__(self, logits: Array, history: History) -> None:
        for row in logits:
            ids = survivors(row)
            if not len(ids):
                continue
            logarithms, probabilities, entropy = _log_softmax(row[ids])
            nearness = -np.abs(-logarithms - np.float32(entropy))
            leading = _leading(nearness, probabilities, self.mass, self.keep)
            order = leading[np.argsort(-nearness[leading], kind="stable")]
            upto = np.cumsum(probabilities[order], dtype=np.float64)
            last = min(int((upto < self.mass).sum()), len(order) - 1)
            kept = nearness >= nearness[order[last]]
            kept[order[: self.keep]] = True
            row[ids[~kept]] = -np.inf


class EpsilonCutoff:
    """Bans tokens below an absolute probability. https://arxiv.org/abs/2210.15191"""

    def __init__(self, epsilon: float, keep: int = 1) -> None:
        self.log_epsilon = math.log(epsilon)
        self.keep = keep

    def __call__(self, logits: Array, history: History) -> None:
        for row in logits:
            finite = row[survivors(row)]
            if len(finite):
                _cut(row, self.log_epsilon + _log_mass(finite), self.keep)


class EtaCutoff:
    """Bans tokens below a probability that falls with the entropy. https://arxiv.org/abs/2210.15191"""

    def __init__(self, epsilon: float, keep: int = 1) -> None:
        self.log_epsilon = math.log(epsilon)
        self.keep = keep

    def __call__(self, logits: Array, history: History) -> None:
        for row in logits:
            finite = row[survivors(row)]
            if not len(finite):
                continue
            entropy = _log_softmax(finite)[2]
            _cut(row, min(self.log_epsilon, self.log_epsilon / 2 - entropy) + _log_mass(finite), self.keep)


def _cut(row: Array, bound: float, keep: int) -> None:
    """Ban what is below a logit, but never the ``keep`` most likely tokens."""
    _ban(row, row < min(np.float32(bound), kth_largest(row, min(keep, len(row)))))
