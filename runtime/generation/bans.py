"""Processors that ban tokens or force them: repeated n-grams, the end before a length, prefixes, first and last tokens.

Each works on logits [R, V] float32 in place; a banned token has logit -inf, a forced one is alone with logit 0. Each
gives what upstream's class of the same purpose gives for a row on its own, to the byte."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from precast.runtime.backends.base import Array
from precast.runtime.errors import InputError
from precast.runtime.generation.history import History

__all__ = [
    "BeginSuppress",
    "EncoderNoRepeatNgram",
    "ForcedBos",
    "ForcedEos",
    "MinLength",
    "MinNewTokens",
    "NoRepeatNgram",
    "PrefixAllowed",
    "Suppress",
]


def _ids(tokens: Sequence[int], vocab_size: int) -> Array:
    """Those that are in the vocabulary, as upstream: lists in checkpoints hold -1 and ids of longer vocabularies."""
    return np.array(sorted({token for token in tokens if 0 <= token < vocab_size}), dtype=np.int64)


class NoRepeatNgram:
    """Bans tokens that would complete an n-gram the row has already, prompt included. https://arxiv.org/abs/1705.04304"""

    def __init__(self, size: int) -> None:
        self.size = size

    def __call__(self, logits: Array, history: History) -> None:
        for index, row in enumerate(logits):
            tokens = history.row(index)
            windows = len(tokens) - self.size + 1
            if windows < 1:
                continue
            ends = tokens[self.size - 1 :]
            matches = np.ones(windows, dtype=bool)
            for offset in range(self.size - 1):
                matches &= tokens[offset : offset + windows] == tokens[windows + offset]
            banned = ends[matches]
            row[banned[banned < logits.shape[1]]] = -np.inf


class EncoderNoRepeatNgram:
    """Bans tokens that would complete an n-gram of the encoder's input; of the prompt, where there is no encoder."""

    def __init__(self, size: int, encoder_ids: Sequence[Array] | None = None) -> None:
        """:param encoder_ids: of each of ``History.origins``, without padding."""
        self.size = size
        self.encoder_ids = encoder_ids
        self._continuations: dict[int, dict[tuple[int, ...], list[int]]] = {}

    def __call__(self, logits: Array, history: History) -> None:
        for index, row in enumerate(logits):
            tokens = history.row(index)
            if len(tokens) >= self.size - 1:
                prefix = tuple(tokens[len(tokens) - self.size + 1 :].tolist())
                banned = self._of(history, index).get(prefix, [])
                row[[token for token in banned if token < len(row)]] = -np.inf

    def _of(self, history: History, index: int) -> dict[tuple[int, ...], list[int]]:
        """What follows each (n - 1)-gram of the input; made once a request."""
        origin = int(history.origins[index])
        if origin not in self._continuations:
            ids = history.prompt(index) if self.encoder_ids is None else self.encoder_ids[origin]
            tokens = [int(token) for token in ids]
            found: dict[tuple[int, ...], list[int]] = {}
            for start in range(len(tokens) - self.size + 1):
                *prefix, last = tokens[start : start + self.size]
                found.setdefault(tuple(prefix), []).append(last)
            self._continuations[origin] = found
        return self._continuations[origin]


class MinLength:
    """Bans the end before the row, prompt included, has a length."""

    def __init__(self, length: int, eos: Sequence[int], vocab_size: int) -> None:
        self.length = length
        self.eos = _ids(eos, vocab_size)

    def __call__(self, logits: Array, history: History) -> None:
        short = np.flatnonzero(history.lengths < self.length)
        if len(short):
            logits[short[:, None], self.eos] = -np.inf


class MinNewTokens:
    """Bans the end before a number of tokens was generated."""

    def __init__(self, count: int, eos: Sequence[int], vocab_size: int) -> None:
        self.count = count
        self.eos = _ids(eos, vocab_size)

    def __call__(self, logits: Array, history: History) -> None:
        short = np.flatnonzero(history.lengths - history.prompts < self.count)
        if len(short):
            logits[short[:, None], self.eos] = -np.inf


class PrefixAllowed:
    """Bans all but the tokens a function names. https://arxiv.org/abs/2010.00904"""

    def __init__(self, allowed: Callable[[int, Array], Sequence[int]]) -> None:
        """:param allowed: given the request's index and the row's tokens [L]."""
        self.allowed = allowed

    def __call__(self, logits: Array, history: History) -> None:
        """:raises InputError: the function names no token, or one outside the vocabulary."""
        names: list[Array] = []
        for index, row in enumerate(logits):
            origin = int(history.origins[index])
            ids: Array = np.array(list(self.allowed(origin, history.row(index).copy())), dtype=np.int64)
            if not len(ids) or ids.min() < 0 or ids.max() >= len(row):
                raise InputError(
                    "prefix_allowed_tokens_fn must name at least one token, each inside the vocabulary of "
                    f"{len(row)}; it returned {ids.tolist()} for request {origin} after {history.row(index).tolist()}"
                )
            names.append(ids)
            values = row[ids]
            row[:] = -np.inf
            row[ids] = values
        # Where no beam of a request has an allowed token left, all that are allowed become equal, as upstream.
        stuck = logits.max(axis=-1) == -np.inf
        for index in np.flatnonzero(stuck).tolist():
            if stuck[history.origins == history.origins[index]].all():
                logits[index, names[index]] = 0


class ForcedBos:
    """Forces the token after the first."""

    def __init__(self, token: int) -> None:
        self.token = token

    def __call__(self, logits: Array, history: History) -> None:
        for index in np.flatnonzero(history.lengths == 1):
            logits[index] = -np.inf
            logits[index, self.token] = 0


class ForcedEos:
    """Forces the end as the last token there is room for."""

    def __init__(self, eos: Sequence[int], totals: Callable[[int], int]) -> None:
        """:param totals: tokens a row will have at most, prompt included, given its prompt's length."""
        self.eos = list(eos)
        self.totals = totals

    def __call__(self, logits: Array, history: History) -> None:
        for index, row in enumerate(logits):
            if history.lengths[index] == self.totals(int(history.prompts[index])) - 1:
                row[:] = -np.inf
                row[self.eos] = 0


class Suppress:
    """Bans tokens."""

    def __init__(self, tokens: Sequence[int], vocab_size: int) -> None:
        self.ids = _ids(tokens, vocab_size)

    def __call__(self, logits: Array, history: History) -> None:
        logits[:, self.ids] = -np.inf


class BeginSuppress:
    """Bans tokens as the first one generated; as the second, where the first is forced."""

    def __init__(self, tokens: Sequence[int], vocab_size: int, after_forced: bool) -> None:
        """:param after_forced: a first token is forced after prompts of one token."""
        self.ids = _ids(tokens, vocab_size)
        self.after_forced = after_forced

    def __call__(self, logits: Array, history: History) -> None:
        begins = history.prompts + (self.after_forced & (history.prompts <= 1))
        first = np.flatnonzero(history.lengths == begins)
        if len(first):
            logits[first[:, None], self.ids] = -np.inf
