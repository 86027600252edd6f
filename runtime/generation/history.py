"""The tokens of the rows being generated: what logits processors, samplers and stopping rules may look at."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from precast.runtime.backends.base import Array
from precast.runtime.errors import InputError

__all__ = ["Follower", "History"]


class Follower(Protocol):
    """Something with a state a row, told when rows are picked or shortened."""

    def select(self, rows: Sequence[int]) -> None: ...

    def truncate(self, lengths: Array) -> None: ...


class History:
    """R rows of token ids of different lengths, each a prompt and what was generated after it. No padding in any.

    ``tokens`` is ``[R, room]`` int64 (what lies beyond a row's length is undefined); ``lengths``, ``prompts`` (how many
    of a row's tokens are its prompt) and ``origins`` (which request it belongs to; a row keeps it whatever ``select``
    does) are ``[R]`` int64. A prompt is the text to continue, or an encoder-decoder's start tokens. No array may be
    kept across a change."""

    def __init__(
        self, prompts: Sequence[Sequence[int] | Array], room: int = 0, origins: Sequence[int] | Array | None = None
    ) -> None:
        """:param prompts: R rows of ids; a row may be empty.
        :param room: tokens a row is expected to reach, so that nothing is ever moved.
        :param origins: the request each row belongs to, where one has several rows."""
        self.prompts: Array = np.array([len(row) for row in prompts], dtype=np.int64)
        self.lengths: Array = self.prompts.copy()
        self.origins: Array = np.array(range(len(prompts)) if origins is None else origins, dtype=np.int64)
        longest = int(self.lengths.max(initial=0))
        self.tokens: Array = np.zeros((len(self.lengths), max(room, longest, 1)), dtype=np.int64)
        for index, row in enumerate(prompts):
            self.tokens[index, : len(row)] = row
        self._followers: list[Follower] = []

    @property
    def rows(self) -> int:
        return len(self.lengths)

    def row(self, index: int) -> Array:
        """[L] int64, a view: prompt and generated tokens of a row."""
        return self.tokens[index, : self.lengths[index]]

    def prompt(self, index: int) -> Array:
        """[P] int64, a view."""
        return self.tokens[index, : self.prompts[index]]

    def generated(self, index: int) -> Array:
        """[L - P] int64, a view: what was generated after the prompt."""
        return self.tokens[index, self.prompts[index] : self.lengths[index]]

    def append(self, tokens: Sequence[int] | Array) -> None:
        """One token more in every row, [R]."""
        self._ensure(int(self.lengths.max(initial=0)) + 1)
        self.tokens[np.arange(self.rows), self.lengths] = tokens
        self.lengths = self.lengths + 1

    def extend(self, index: int, tokens: Sequence[int] | Array) -> None:
        """Any number of tokens more in one row."""
        start = int(self.lengths[index])
        self._ensure(start + len(tokens))
        self.tokens[index, start : start + len(tokens)] = tokens
        self.lengths = self.lengths.copy()
        self.lengths[index] += len(tokens)

    def select(self, rows: Sequence[int]) -> None:
        """New row i is old row rows[i]; any number of rows, any of them several times."""
        picked = np.asarray(rows, dtype=np.int64)
        self.tokens, self.lengths, self.prompts = self.tokens[picked], self.lengths[picked], self.prompts[picked]
        self.origins = self.origins[picked]
        for follower in self._followers:
            follower.select(rows)

    def truncate(self, lengths: Sequence[int] | Array) -> None:
        """Forget what lies beyond these lengths, [R].

        :raises InputError: a row is shorter than that, or would lose tokens of its prompt."""
        wanted = np.array(lengths, dtype=np.int64)
        if (wanted > self.lengths).any() or (wanted < self.prompts).any():
            raise InputError(
                f"a row can be cut back to its prompt at most and never made longer; got lengths {wanted.tolist()} "
                f"for rows of {self.lengths.tolist()} tokens with prompts of {self.prompts.tolist()}"
            )
        self.lengths = wanted
        for follower in self._followers:
            follower.truncate(wanted)

    def follow(self, follower: Follower) -> None:
        """Tell ``follower`` of every ``select`` and ``truncate`` from now on."""
        if not any(known is follower for known in self._followers):
            self._followers.append(follower)

    def _ensure(self, room: int) -> None:
        if room > self.tokens.shape[1]:
            grown = np.zeros((self.rows, max(room, 2 * self.tokens.shape[1])), dtype=np.int64)
            grown[:, : self.tokens.shape[1]] = self.tokens
            self.tokens = grown
