"""Times as tokens among words: when one may, must or must not come. https://arxiv.org/abs/2212.04356, section 2.3"""

from __future__ import annotations

import numpy as np

from precast.runtime.backends.base import Array
from precast.runtime.generation.history import History

__all__ = ["Timestamps"]


class Timestamps:
    """Bans what breaks the order of times, which are the last tokens of the vocabulary: they come in pairs, but in
    front of the end; none is earlier than the last; an answer begins with one; and one comes where all of them together
    are likelier than any single word. Works on logits [R, V] in place."""

    def __init__(self, first: int, eos: int, latest: int | None = None) -> None:
        """:param first: the token of second 0; the one before it says that there are no times, and is banned.
        :param eos: words are below it.
        :param latest: how many times after the first an answer may begin with; None: any."""
        self.first, self.eos, self.latest = first, eos, latest

    def __call__(self, logits: Array, history: History) -> None:
        first = self.first
        logits[:, first - 1] = -np.inf
        for index, row in enumerate(logits):
            tokens = history.generated(index)
            last = len(tokens) >= 1 and tokens[-1] >= first
            paired = len(tokens) < 2 or tokens[-2] >= first
            if last and paired:
                row[first:] = -np.inf
            elif last:
                row[: self.eos] = -np.inf
            times = tokens[tokens >= first]
            if len(times):
                # One that opens a segment may be the one that closed the last; one that closes it is later.
                row[first : int(times[-1]) + (not (last and not paired))] = -np.inf
            if not len(tokens):
                row[:first] = -np.inf
                if self.latest is not None:
                    row[first + self.latest + 1 :] = -np.inf
            if _log_mass(row[first:]) > row[:first].max():
                row[:first] = -np.inf


def _log_mass(values: Array) -> float:
    """log(sum(exp(values))); -inf where all are."""
    top = values.max(initial=-np.inf)
    if top == -np.inf:
        return -np.inf
    return float(top) + float(np.log(np.exp((values - top).astype(np.float64)).sum()))
