"""Beam search and beam sampling, as Transformers 5 does them.

Every prompt has B running beams and B finished ones. A step takes the best K continuations of the running beams
together, K = B * max(2, 1 + end tokens), so that B remain even where all the best have ended; of the best B, those that
have ended compete for a finished place with score = summed log-probability / length ** length_penalty.
Sampling draws the K without replacement, by the Gumbel-top-k trick (https://arxiv.org/abs/1903.06059).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from precast.runtime.backends.base import Array
from precast.runtime.generation.history import History
from precast.runtime.generation.loop import Run
from precast.runtime.generation.results import FinishReason

__all__ = ["BeamSettings", "Hypothesis", "beam_search", "candidates_end", "log_softmax", "top"]

_NEVER = np.float32(-1e9)
"""Upstream's score of what must not be chosen: far below every sum of log-probabilities, and finite."""

Trail = tuple["Trail", int] | None
"""The beams a row came through, last first."""


@dataclass(frozen=True)
class BeamSettings:
    """What a beam search is asked for."""

    beams: int
    returns: int = 1
    length_penalty: float = 1.0
    early_stopping: bool | Literal["never"] = False
    groups: int = 1
    diversity_penalty: float = 0.0


@dataclass
class Hypothesis:
    """A finished beam."""

    tokens: Array
    """[T] int64, generated ones."""
    trail: list[int]
    """The beam (of the whole batch) each of them continued."""
    score: float
    reason: FinishReason


def beam_search(
    run: Run, settings: BeamSettings, generators: Sequence[np.random.Generator] | None = None
) -> list[list[Hypothesis]]:
    """N lists of ``settings.returns`` hypotheses, best first, for the N rows of a run.

    Args:
        generators: one a prompt, for beam sampling; None: the best continuations are taken.
    """
    run.returns = settings.beams
    logits = run.first_logits()
    search = _Search(run, settings, len(logits) // settings.beams, generators)
    while True:
        onward = search.step(logits)
        if onward is None:
            return search.results()
        rows, tokens = onward
        run.session.select(rows)
        run.history.select(rows)
        run.history.append(tokens)
        logits = run.session.feed(tokens[:, None].tolist())[:, -1]


@dataclass
class _Candidates:
    """The best continuations of each prompt, [N, K], best (or first drawn) first."""

    scores: Array
    """Summed log-probabilities, float32."""
    parents: Array
    """The rows they continue."""
    tokens: Array
    is_eos: Array
    ending: Array
    over: FinishReason
    """Why those end that end without an end token."""


class _Search:
    """The state of a beam search: N prompts still searched for, of B beams each."""

    def __init__(
        self, run: Run, settings: BeamSettings, prompts: int, generators: Sequence[np.random.Generator] | None
    ) -> None:
        self.run, self.settings, self.beams = run, settings, settings.beams
        self.wide = max(2, 1 + len(run.eos)) * self.beams
        self.eos = np.fromiter(run.eos, dtype=np.int64)
        self.draws = None if generators is None else list(generators)
        self.steps = 0
        self.best: list[list[Hypothesis | None]] = [[None] * self.beams for _ in range(prompts)]
        """Of every prompt, searched for or decided."""
        self.items = list(range(prompts))
        """[N] which of them each is."""
        self.trails: list[Trail] = [None] * (prompts * self.beams)
        self.running: Array = np.zeros((prompts, self.beams), dtype=np.float32)
        self.running[:, 1:] = _NEVER  # all beams are the same prompt, and only one may speak for it
        self.finished_scores: Array = np.full((prompts, self.beams), _NEVER, dtype=np.float32)
        self.finished: Array = np.zeros((prompts, self.beams), dtype=bool)
        self.improvable: Array = np.ones(prompts, dtype=bool)

    def step(self, logits: Array) -> tuple[list[int], Array] | None:
        """The rows that go on and the token each gets, [N * B]; None at the end."""
        numbers = [item * self.beams + beam for item in self.items for beam in range(self.beams)]
        found = self._candidates(logits, numbers)
        self._finish(found, numbers)

        # What goes on: the best that have not ended.
        scores = found.scores + np.where(found.ending, _NEVER, np.float32(0))
        onward = _ranked(scores)[:, : self.beams]
        self.running = np.take_along_axis(scores, onward, axis=1)
        parents = np.take_along_axis(found.parents, onward, axis=1).ravel().tolist()
        tokens = np.take_along_axis(found.tokens, onward, axis=1).ravel()
        self.trails = [(self.trails[parent], numbers[parent]) for parent in parents]

        decided = self._decided()
        if decided.all() or found.ending.all():
            return None
        # Nothing can change a prompt that is decided: its beams cost nothing from here on.
        if decided.any() and not self.run.recorder.wanted:
            picked = self._leave(decided)
            parents, tokens = [parents[row] for row in picked], tokens[picked]
        return parents, tokens

    def results(self) -> list[list[Hypothesis]]:
        nothing = Hypothesis(np.empty(0, dtype=np.int64), [], float(_NEVER), "stop")
        return [[each or nothing for each in hypotheses[: self.settings.returns]] for hypotheses in self.best]

    def _candidates(self, logits: Array, numbers: list[int]) -> _Candidates:
        run, count, vocab = self.run, len(self.items), logits.shape[-1]
        run.recorder.keep_logits(logits, numbers)
        values = log_softmax(logits)
        for processor in run.processors:
            processor(values, run.history)
        run.recorder.keep_scores(values, numbers)
        sums = (values.reshape(count, self.beams, vocab) + self.running[:, :, None]).reshape(count, -1)
        chosen = top(sums, self.wide) if self.draws is None else _drawn(sums, self.wide, self.draws)
        parents = chosen // vocab + (np.arange(count) * self.beams)[:, None]
        tokens = chosen % vocab
        self.steps += 1
        run.tick()
        is_eos = np.isin(tokens, self.eos)
        ending, over = candidates_end(run, parents, tokens, is_eos, self.steps)
        return _Candidates(np.take_along_axis(sums, chosen, axis=1), parents, tokens, is_eos, ending, over)

    def _finish(self, found: _Candidates, numbers: list[int]) -> None:
        """What has just ended, and is among the best, competes with what ended before."""
        scores = found.scores / np.float32(self.steps**self.settings.length_penalty)
        if self.settings.early_stopping is True:
            scores += np.where(self.finished.all(axis=1, keepdims=True), _NEVER, np.float32(0))
        scores += np.where(self.improvable[:, None], np.float32(0), _NEVER)
        closing = found.ending & (np.arange(self.wide) < self.beams)
        scores += np.where(closing, np.float32(0), _NEVER)
        merged = np.concatenate([self.finished_scores, scores], axis=1)
        keep = _ranked(merged)[:, : self.beams]
        self.finished = np.take_along_axis(np.concatenate([self.finished, closing], axis=1), keep, axis=1)
        self.finished_scores = np.take_along_axis(merged, keep, axis=1)
        for index in np.flatnonzero((keep != np.arange(self.beams)).any(axis=1)).tolist():
            before = self.best[self.items[index]]
            self.best[self.items[index]] = [
                before[place]
                if place < self.beams
                else self._hypothesis(found, numbers, (index, place - self.beams), float(merged[index, place]))
                for place in keep[index].tolist()
            ]

    def _hypothesis(self, found: _Candidates, numbers: list[int], place: tuple[int, int], score: float) -> Hypothesis:
        parent = int(found.parents[place])
        beams = [numbers[parent]]
        trail = self.trails[parent]
        while trail is not None:
            trail, beam = trail
            beams.append(beam)
        tokens = np.append(self.run.history.generated(parent), found.tokens[place])
        return Hypothesis(tokens, beams[::-1], score, "eos" if found.is_eos[place] else found.over)

    def _decided(self) -> Array:
        """[N] bool: whether no running beam could still get among the finished ones, as far as is foreseen."""
        never, penalty = self.settings.early_stopping == "never", self.settings.length_penalty
        length = self.run.budget if never and penalty > 0 else self.steps
        possible = self.running[:, :1] / np.float32(length**penalty)
        worst = np.where(self.finished, self.finished_scores.min(axis=1, keepdims=True), _NEVER)
        self.improvable &= (possible > worst).any(axis=1)
        decided: Array = ~self.improvable
        if self.settings.early_stopping is True:
            decided |= self.finished.all(axis=1)
        return decided

    def _leave(self, decided: Array) -> Array:
        """Go on without some prompts; the rows that remain."""
        going = np.flatnonzero(~decided)
        rows: Array = (going[:, None] * self.beams + np.arange(self.beams)).ravel()
        self.items = [self.items[index] for index in going]
        self.trails = [self.trails[row] for row in rows]
        self.running, self.improvable = self.running[going], self.improvable[going]
        self.finished, self.finished_scores = self.finished[going], self.finished_scores[going]
        if self.draws is not None:
            self.draws = [self.draws[index] for index in going]
        return rows


def candidates_end(run: Run, parents: Array, tokens: Array, is_eos: Array, steps: int) -> tuple[Array, FinishReason]:
    """Which continuations [N, K] are at their end, and why those are that no end token ended."""
    if steps >= run.budget:
        return np.ones_like(is_eos), run.length_reason
    verdict = run.control.verdict()
    if verdict is not None:
        return np.ones_like(is_eos), verdict
    if not run.criteria:
        return is_eos, "stop"
    rows = parents.ravel()
    tried = History([run.history.row(row) for row in rows], origins=run.history.origins[rows])
    tried.prompts = run.history.prompts[rows]
    tried.append(tokens.ravel())
    ending = is_eos.copy()
    for criterion in run.criteria:
        ending |= np.asarray(criterion(tried), dtype=bool).reshape(is_eos.shape)
    return ending, "stop"


def log_softmax(logits: Array) -> Array:
    """[R, V] float32, in place."""
    logits -= logits.max(axis=-1, keepdims=True)
    logits -= np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    return logits


def top(values: Array, count: int) -> Array:
    """Indexes [R, count] of the largest of each row [R, M], best first, lower indexes first among equals.

    The count-th largest maximum of parts bounds the answer from below, so that few values are ever sorted.
    """
    size = 64
    picked = np.empty((len(values), count), dtype=np.int64)
    blocks = values.shape[1] // size
    for row, out in zip(values, picked, strict=True):
        bound = -np.inf
        if blocks > count:
            peaks = row[: blocks * size].reshape(size, blocks).max(axis=0)  # this way round it is vectorised
            bound = np.partition(peaks, blocks - count)[blocks - count]
        ids = np.flatnonzero(row >= bound if bound > -np.inf else row > -np.inf)
        if len(ids) < count:
            ids = np.append(ids, np.flatnonzero(~(row > -np.inf))[: count - len(ids)])
        out[:] = ids[np.argsort(-row[ids], kind="stable")[:count]]
    return picked


def _drawn(sums: Array, count: int, generators: Sequence[np.random.Generator]) -> Array:
    """Indexes [N, count] drawn without replacement with probabilities softmax(sums [N, M]), in the order drawn."""
    keys = np.empty_like(sums)
    for row, key, generator in zip(sums, keys, generators, strict=True):
        possible = np.flatnonzero(row > row.max() + _NEVER / 2)
        key[:] = row + _NEVER  # what cannot be drawn comes after all that can, best first
        key[possible] = row[possible] + generator.gumbel(size=len(possible)).astype(np.float32)
    return top(keys, count)


def _ranked(scores: Array) -> Array:
    """[R, M] indexes, best first."""
    return np.argsort(-scores, axis=1, kind="stable")
