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
    beams = settings.beams
    run.returns = beams
    logits = run.first_logits()
    items = list(range(len(logits) // beams))
    best: list[list[Hypothesis | None]] = [[None] * beams for _ in items]
    trails: list[Trail] = [None] * len(logits)
    draws = list(generators) if generators is not None else None
    wide = max(2, 1 + len(run.eos)) * beams
    among_best = np.arange(wide) < beams
    eos = np.fromiter(run.eos, dtype=np.int64)

    running = np.zeros((len(items), beams), dtype=np.float32)
    running[:, 1:] = _NEVER  # all beams are the same prompt, and only one may speak for it
    finished_scores = np.full((len(items), beams), _NEVER, dtype=np.float32)
    finished = np.zeros((len(items), beams), dtype=bool)
    improvable = np.ones(len(items), dtype=bool)

    steps = 0
    while True:
        count, vocab = len(items), logits.shape[-1]
        alive = [item * beams + beam for item in items for beam in range(beams)]
        run.recorder.keep_logits(logits, alive)
        values = log_softmax(logits)
        for processor in run.processors:
            processor(values, run.history)
        run.recorder.keep_scores(values, alive)
        sums = (values.reshape(count, beams, vocab) + running[:, :, None]).reshape(count, beams * vocab)
        chosen = top(sums, wide) if draws is None else _drawn(sums, wide, draws)
        scores = np.take_along_axis(sums, chosen, axis=1)
        parents = chosen // vocab + (np.arange(count) * beams)[:, None]
        tokens = chosen % vocab
        steps += 1
        run.tick()

        is_eos = np.isin(tokens, eos)
        ending, over = candidates_end(run, parents, tokens, is_eos, steps)

        # What is finished now, and among the best: it competes with what finished before.
        ended = scores / np.float32(steps**settings.length_penalty)
        if settings.early_stopping is True:
            ended += np.where(finished.all(axis=1, keepdims=True), _NEVER, np.float32(0))
        ended += np.where(improvable[:, None], np.float32(0), _NEVER)
        closing = ending & among_best
        ended += np.where(closing, np.float32(0), _NEVER)
        merged = np.concatenate([finished_scores, ended], axis=1)
        keep = np.argsort(-merged, axis=1, kind="stable")[:, :beams]
        for index, item in enumerate(items):
            if (keep[index] < beams).all() and (keep[index] == np.arange(beams)).all():
                continue
            before = best[item]
            best[item] = [
                before[place]
                if place < beams
                else _hypothesis(
                    run, trails, alive, int(parents[index, place - beams]), int(tokens[index, place - beams]),
                    float(merged[index, place]), "eos" if is_eos[index, place - beams] else over,
                )
                for place in keep[index].tolist()
            ]  # fmt: skip
        finished = np.take_along_axis(np.concatenate([finished, closing], axis=1), keep, axis=1)
        finished_scores = np.take_along_axis(merged, keep, axis=1)

        # What goes on: the best that have not ended.
        open_scores = scores + np.where(ending, _NEVER, np.float32(0))
        onward = np.argsort(-open_scores, axis=1, kind="stable")[:, :beams]
        running = np.take_along_axis(open_scores, onward, axis=1)
        parent_rows = np.take_along_axis(parents, onward, axis=1).ravel()
        next_tokens = np.take_along_axis(tokens, onward, axis=1).ravel()

        attainable = run.budget if settings.early_stopping == "never" and settings.length_penalty > 0 else steps
        possible = running[:, :1] / np.float32(attainable**settings.length_penalty)
        worst = np.where(finished, finished_scores.min(axis=1, keepdims=True), _NEVER)
        improvable = improvable & (possible > worst).any(axis=1)
        decided = ~improvable
        if settings.early_stopping is True:
            decided |= finished.all(axis=1)
        if decided.all() or ending.all():
            nothing = Hypothesis(np.empty(0, dtype=np.int64), [], float(_NEVER), "stop")
            return [[each or nothing for each in hypotheses[: settings.returns]] for hypotheses in best]

        trails = [(trails[parent], alive[parent]) for parent in parent_rows.tolist()]
        rows = parent_rows.tolist()
        if decided.any() and not run.recorder.wanted:
            # Nothing can change a prompt that is decided: its beams cost nothing from here on.
            going = np.flatnonzero(~decided)
            picked = (going[:, None] * beams + np.arange(beams)).ravel()
            rows = [rows[row] for row in picked]
            trails = [trails[row] for row in picked]
            next_tokens = next_tokens[picked]
            items = [items[index] for index in going]
            running, improvable = running[going], improvable[going]
            finished, finished_scores = finished[going], finished_scores[going]
            if draws is not None:
                draws = [draws[index] for index in going]
        run.session.select(rows)
        run.history.select(rows)
        run.history.append(next_tokens)
        logits = run.session.feed(next_tokens[:, None].tolist())[:, -1]


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

    The count-th largest maximum of blocks bounds the answer from below, so that few values are ever sorted.
    """
    size = 64
    picked = np.empty((len(values), count), dtype=np.int64)
    blocks = values.shape[1] // size
    for row, out in zip(values, picked, strict=True):
        bound = -np.inf
        if blocks > count:
            peaks = row[: blocks * size].reshape(blocks, size).max(axis=1)
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


def _hypothesis(
    run: Run, trails: Sequence[Trail], alive: Sequence[int], parent: int, token: int, score: float, reason: FinishReason
) -> Hypothesis:
    steps = [alive[parent]]
    trail = trails[parent]
    while trail is not None:
        trail, beam = trail
        steps.append(beam)
    return Hypothesis(np.append(run.history.generated(parent), token), steps[::-1], score, reason)
