"""Diverse beam search: groups of beams, each kept away from what the groups before it have just said.

https://arxiv.org/abs/1610.02424 with Hamming diversity, as Transformers 4 did it: within a step the groups choose one
after the other, and a token loses ``diversity_penalty`` for every beam of an earlier group that has just chosen it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from precast.runtime.backends.base import Array
from precast.runtime.generation.beams import BeamSettings, Hypothesis, candidates_end, log_softmax, top
from precast.runtime.generation.loop import Run
from precast.runtime.generation.penalties import HammingDiversity
from precast.runtime.generation.results import FinishReason

__all__ = ["diverse_beam_search"]

_NEVER = np.float32(-1e9)


@dataclass
class _Group:
    """The finished beams of one group of one prompt, at most ``size`` of them."""

    size: int
    settings: BeamSettings
    budget: int
    finished: list[Hypothesis] = field(default_factory=list)
    done: bool = False

    @property
    def worst(self) -> float:
        return min(each.score for each in self.finished) if self.finished else float("inf")

    def offer(self, hypothesis: Hypothesis) -> None:
        """Keep it if there is room, or in place of the worst if it is better."""
        if len(self.finished) >= self.size:
            if hypothesis.score <= self.worst:
                return
            worst = min(range(len(self.finished)), key=lambda index: self.finished[index].score)
            del self.finished[worst]
        self.finished.append(hypothesis)

    def settle(self, best_sum: float, steps: int) -> None:
        """Whether what still runs, at best ``best_sum`` after ``steps`` tokens, could get in."""
        if self.done or len(self.finished) < self.size:
            return
        if self.settings.early_stopping is True:
            self.done = True
            return
        longest = self.settings.early_stopping == "never" and self.settings.length_penalty > 0
        length = self.budget if longest else steps
        self.done = self.worst >= best_sum / length**self.settings.length_penalty


def diverse_beam_search(run: Run, settings: BeamSettings) -> list[list[Hypothesis]]:
    """N lists of ``settings.returns`` hypotheses, best first, for the N rows of a run."""
    beams, size = settings.beams, settings.beams // settings.groups
    run.returns = beams
    logits = run.first_logits()
    items = len(logits) // beams
    alive = list(range(items * beams))
    groups = [[_Group(size, settings, run.budget) for _ in range(settings.groups)] for _ in range(items)]
    trails: list[list[int]] = [[] for _ in alive]
    wide = max(2, 1 + len(run.eos)) * size
    eos = np.fromiter(run.eos, dtype=np.int64)
    # One beam of each group speaks first: all are the same prompt.
    running = np.full((items, beams), _NEVER, dtype=np.float32)
    running[:, ::size] = 0.0
    apart = HammingDiversity(settings.diversity_penalty)
    steps = 0
    while True:
        run.recorder.keep_logits(logits, alive)
        plain = log_softmax(logits)
        vocab = plain.shape[-1]
        processed = plain.copy()
        steps += 1
        run.tick()
        tokens = np.full((items, beams), run.pad, dtype=np.int64)
        parents = np.arange(items * beams).reshape(items, beams)
        for number in range(settings.groups):
            part = slice(number * size, (number + 1) * size)
            values = plain.copy()
            shaped = values.reshape(items, beams, vocab)[:, part].reshape(items * size, vocab)
            apart(shaped, tokens[:, : part.start])
            values.reshape(items, beams, vocab)[:, part] = shaped.reshape(items, size, vocab)
            # Processors look at one row at a time: those of the other groups are computed and left aside.
            for processor in run.processors:
                processor(values, run.history)
            shaped = values.reshape(items, beams, vocab)[:, part]
            processed.reshape(items, beams, vocab)[:, part] = shaped
            sums = (shaped + running[:, part, None]).reshape(items, size * vocab)
            chosen = top(sums, wide)
            scores = np.take_along_axis(sums, chosen, axis=1)
            for item in range(items):
                group = groups[item][number]
                if group.done:
                    running[item, part] = 0.0
                    continue
                places = 0
                for rank, (flat, score) in enumerate(zip(chosen[item].tolist(), scores[item].tolist(), strict=True)):
                    token, parent = flat % vocab, item * beams + part.start + flat // vocab
                    if token in run.eos:
                        if rank < size:
                            group.offer(_hypothesis(run, trails, parent, token, score, steps, settings, "eos"))
                        continue
                    place = part.start + places
                    running[item, place] = score
                    tokens[item, place] = token
                    parents[item, place] = parent
                    places += 1
                    if places == size:
                        break
                group.settle(float(scores[item].max()), steps)
        run.recorder.keep_scores(processed, alive)

        rows = parents.ravel().tolist()
        ending, over = candidates_end(run, parents, tokens, np.isin(tokens, eos), steps)
        if all(group.done for each in groups for group in each) or ending.all():
            break
        trails = [[*trails[parent], parent] for parent in rows]
        run.session.select(rows)
        run.history.select(rows)
        run.history.append(tokens.ravel())
        logits = run.session.feed(tokens.reshape(-1, 1).tolist())[:, -1]

    for item, each in enumerate(groups):
        for number, group in enumerate(each):
            if group.done:
                continue
            for beam in range(number * size, (number + 1) * size):
                parent, token = int(parents[item, beam]), int(tokens[item, beam])
                score = float(running[item, beam])
                group.offer(_hypothesis(run, trails, parent, token, score, steps, settings, over))
    found: list[list[Hypothesis]] = []
    for each in groups:
        ranked = sorted((hypothesis for group in each for hypothesis in group.finished), key=lambda one: one.score)
        found.append(ranked[::-1][: settings.returns])
    return found


def _hypothesis(
    run: Run, trails: Sequence[list[int]], parent: int, token: int, total: float, steps: int,
    settings: BeamSettings, reason: FinishReason,
) -> Hypothesis:  # fmt: skip
    tokens: Array = np.append(run.history.generated(parent), token)
    # Upstream counts the tokens of a beam that an end token closed without the end token, plus one.
    return Hypothesis(tokens, [*trails[parent], parent], total / steps**settings.length_penalty, reason)
