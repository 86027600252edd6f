"""The generation loop: feed, process, choose, append, until every row has ended. Greedy search and sampling."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from precast.runtime.backends.base import Array
from precast.runtime.generation.engine import Session
from precast.runtime.generation.history import History
from precast.runtime.generation.processors import Processor
from precast.runtime.generation.results import FinishReason, Recorder, Timings
from precast.runtime.generation.sampling import Sampler

__all__ = ["Control", "Criterion", "Ended", "Run", "decode"]

Criterion = Callable[[History], Array]
"""Which rows of a history are at their end, [R] bool, asked after each token."""


@dataclass
class Control:
    """What may end a run from outside, looked at after every step."""

    max_time: float | None = None
    """Seconds from the start of the call; the step that crosses it is the last."""
    cancelled: threading.Event | None = None
    started: float = field(default_factory=time.perf_counter)

    def verdict(self) -> FinishReason | None:
        if self.cancelled is not None and self.cancelled.is_set():
            return "cancelled"
        if self.max_time is not None and time.perf_counter() - self.started > self.max_time:
            return "time"
        return None


@dataclass
class Run:
    """One call under way. Rows of ``session`` and of ``history`` are the same ones, in the same order."""

    session: Session
    history: History
    pending: list[list[int]]
    """What each row has yet to be fed before its next token is known."""
    processors: Sequence[Processor]
    sampler: Sampler
    eos: frozenset[int]
    pad: int
    budget: int
    """New tokens a row may get."""
    criteria: Sequence[Criterion] = ()
    control: Control = field(default_factory=Control)
    recorder: Recorder = field(default_factory=lambda: Recorder(0, 0, scores=False, logits=False))
    emit: Callable[[Array], None] | None = None
    """Told the next token of every row at each step, [R] int64; padding in those that are done."""
    returns: int = 1
    """Rows each prompt becomes once it has been processed."""
    length_reason: FinishReason = "length"
    timings: Timings = field(default_factory=Timings)

    def first_logits(self) -> Array:
        """[R * returns, V] float32: what follows the prompts, each processed once however many rows it becomes."""
        logits: Array = self.session.feed(self.pending)[:, -1]
        if self.returns > 1:
            spread = np.repeat(np.arange(len(logits)), self.returns)
            logits = logits[spread]
            rows = spread.tolist()
            self.session.select(rows)
            self.history.select(rows)
        return logits

    def tick(self) -> None:
        """A step is done."""
        elapsed = time.perf_counter() - self.control.started
        self.timings.steps += 1
        if self.timings.steps == 1:
            self.timings.first_token = elapsed
        self.timings.total = elapsed

    def endings(self, tokens: list[int], steps: int) -> list[FinishReason | None]:
        """Why each row ends with the token it just got, None where it goes on."""
        if steps >= self.budget:
            over: FinishReason | None = self.length_reason
        else:
            over = self.control.verdict()
        reasons: list[FinishReason | None] = ["eos" if token in self.eos else over for token in tokens]
        for criterion in self.criteria:
            for row in np.flatnonzero(criterion(self.history)).tolist():
                if reasons[row] != "eos":
                    reasons[row] = "stop"
        return reasons


@dataclass
class Ended:
    """What a run came to: [R] rows of generated tokens and why each ended."""

    generated: list[Array]
    reasons: list[FinishReason]


def decode(run: Run) -> Ended:
    """Greedy search or sampling, whichever the sampler does; a row that has ended leaves the session at once."""
    session, history, sampler = run.session, run.history, run.sampler
    logits = run.first_logits()
    rows = len(logits)
    alive = list(range(rows))
    generated: list[Array] = [np.empty(0, dtype=np.int64)] * rows
    ended: list[FinishReason] = ["length"] * rows
    steps = 0
    while True:
        run.recorder.keep_logits(logits, alive)
        for processor in run.processors:
            processor(logits, history)
        run.recorder.keep_scores(logits, alive)
        chosen = sampler.choose(logits)
        run.recorder.keep_chosen(logits, chosen, alive)
        history.append(chosen)
        steps += 1
        tokens = chosen.tolist()
        run.tick()
        if run.emit is not None:
            whole = np.full(rows, run.pad, dtype=np.int64)
            whole[alive] = chosen
            run.emit(whole)
        reasons = run.endings(tokens, steps)
        if any(reasons):
            staying = []
            for row, reason in enumerate(reasons):
                if reason is None:
                    staying.append(row)
                else:
                    generated[alive[row]] = history.generated(row).copy()
                    ended[alive[row]] = reason
            if not staying:
                return Ended(generated, ended)
            session.select(staying)
            history.select(staying)
            sampler.select(staying)
            alive = [alive[row] for row in staying]
            tokens = [tokens[row] for row in staying]
        logits = session.feed([[token] for token in tokens])[:, -1]
