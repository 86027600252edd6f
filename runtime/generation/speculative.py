"""Speculative decoding: a cheap guess at the next tokens, checked by the model in one pass.

A guess is kept as long as it is the very token the model's own choice would have been, so the result is that of plain
decoding, sampled or not: https://arxiv.org/abs/2211.17192 with a draft whose proposals are certain. Guesses come from
a smaller model, or from the text so far (prompt lookup, https://github.com/apoorvumang/prompt-lookup-decoding).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import numpy as np

from precast.runtime.backends.base import Array
from precast.runtime.errors import InputError
from precast.runtime.generation.engine import Engine, Session
from precast.runtime.generation.loop import Ended, Run
from precast.runtime.generation.results import Acceptance, FinishReason

__all__ = ["DraftModel", "Drafter", "PromptLookup", "speculate"]

_NO_ROLLBACK = (
    "Speculative decoding needs a model that can take tokens back; this one cannot (its state goes one way). "
    "Generate without prompt_lookup_num_tokens and assistant_model."
)


class Drafter(Protocol):
    """Guesses how a row of tokens goes on."""

    def propose(self, tokens: Array, limit: int) -> list[int]:
        """At most ``limit`` tokens after ``tokens`` [L]; none where it has no idea."""
        ...

    def learn(self, drafted: int, accepted: int) -> None:
        """How the last proposal fared."""
        ...


class PromptLookup:
    """Goes on as the text did the first time its last few tokens occurred; longer matches are tried first."""

    def __init__(self, tokens: int, ngram: int = 2) -> None:
        if tokens < 1 or ngram < 1:
            raise InputError(
                "Prompt lookup needs prompt_lookup_num_tokens and max_matching_ngram_size of at least 1; "
                f"received {tokens} and {ngram}."
            )
        self._count, self._ngram = tokens, ngram

    def propose(self, tokens: Array, limit: int) -> list[int]:
        count = min(self._count, limit)
        length = len(tokens)
        for size in range(min(self._ngram, length - 1), 0, -1):
            # Windows that end before the last token, so that something follows each.
            found = tokens[: length - size] == tokens[length - size]
            for offset in range(1, size):
                found = found & (tokens[offset : length - size + offset] == tokens[length - size + offset])
            first = int(found.argmax())
            if found[first]:
                return [int(token) for token in tokens[first + size : first + size + count]]
        return []

    def learn(self, drafted: int, accepted: int) -> None:
        """It is no wiser for it."""


class DraftModel:
    """A smaller model with the same vocabulary, decoding greedily; it stops where it is unsure."""

    def __init__(
        self,
        engine: Engine,
        *,
        tokens: int = 20,
        schedule: str = "constant",
        confidence: float = 0.4,
        eos: frozenset[int] = frozenset(),
        context: Mapping[str, Array] | None = None,
    ) -> None:
        """
        Args:
            tokens: how many to draft a round.
            schedule: ``constant``, or ``heuristic``: two more after a round without a miss, one less after one with.
            confidence: a draft ends before a token less likely than this; 0: never.
            context: what the rows are conditioned on, where the draft model is an encoder-decoder.
        """
        if schedule not in ("constant", "heuristic", "heuristic_transient"):
            raise InputError(
                f"num_assistant_tokens_schedule is constant, heuristic or heuristic_transient; received {schedule!r}."
            )
        if tokens < 1:
            raise InputError(f"num_assistant_tokens is at least 1; received {tokens}.")
        self._engine, self._count, self._adapts = engine, tokens, schedule != "constant"
        self._confidence, self._eos, self._context = confidence, eos, context
        self._session: Session | None = None
        self._held: list[int] = []
        """What the session holds."""
        self._sure = 0
        """How many of those are the row's own tokens, as far as was known at the last proposal."""

    def propose(self, tokens: Array, limit: int) -> list[int]:
        count = min(self._count, limit)
        if self._engine.max_length is not None:
            count = min(count, self._engine.max_length - len(tokens))
        if count < 1:
            return []
        session = self._caught_up(tokens, len(tokens) + limit)
        count = min(count, session.rollback + 1)
        pending = tokens[len(self._held) :].tolist()
        self._sure = len(tokens)
        draft: list[int] = []
        while True:
            logits = session.feed([pending])[0, -1]
            self._held.extend(pending)
            token = int(logits.argmax())
            if token in self._eos or (self._confidence > 0 and _likelihood(logits, token) < self._confidence):
                return draft
            draft.append(token)
            if len(draft) >= count:
                return draft
            pending = [token]

    def learn(self, drafted: int, accepted: int) -> None:
        if self._adapts and drafted:
            self._count = self._count + 2 if accepted == drafted else max(1, self._count - 1)

    def _caught_up(self, tokens: Array, capacity: int) -> Session:
        """The session, holding a beginning of ``tokens`` that lacks its last one at least."""
        session = self._session
        if session is not None and session.capacity >= capacity:
            # The row only ever grows, so what it began with need not be looked at again.
            shared = min(self._sure, len(self._held))
            while shared < min(len(self._held), len(tokens) - 1) and self._held[shared] == tokens[shared]:
                shared += 1
            shared = min(shared, len(tokens) - 1)
            if shared == len(self._held):
                return session
            if len(self._held) - shared <= session.rollback:
                session.truncate([shared])
                del self._held[shared:]
                return session
        room = 2 * capacity
        if self._engine.max_length is not None:
            room = max(min(room, self._engine.max_length), capacity)
        self._session = session = self._engine.open(1, room, self._context)
        self._held, self._sure = [], 0
        return session


def speculate(run: Run, drafter: Drafter) -> tuple[Ended, Acceptance]:
    """One row, decoded with guesses; tokens, scores and draws are those of `decode`.

    Raises:
        InputError: several rows, or a model (of either) whose state cannot be taken back.
    """
    session, history, sampler = run.session, run.history, run.sampler
    if history.rows != 1 or run.returns != 1:
        raise InputError(
            f"Speculative decoding takes one prompt and gives one return; received {history.rows} prompts with "
            f"{run.returns} returns. Call once a prompt."
        )
    acceptance = Acceptance()
    steps = 0
    draft: list[int] = []
    logits = session.feed(run.pending)
    while True:
        accepted = 0
        for position in range(len(draft) + 1):
            values: Array = logits[:, position]
            run.recorder.keep_logits(values, (0,))
            for processor in run.processors:
                processor(values, history)
            run.recorder.keep_scores(values, (0,))
            chosen = sampler.choose(values)
            run.recorder.keep_chosen(values, chosen, (0,))
            history.append(chosen)
            steps += 1
            token = int(chosen[0])
            if position == 0:
                run.tick()
            if run.emit is not None:
                run.emit(chosen.astype(np.int64))
            (reason,) = run.endings([token], steps)
            guessed = position < len(draft) and draft[position] == token
            accepted += guessed
            if reason is not None or not guessed:
                break
        if draft:
            acceptance.rounds += 1
            acceptance.drafted += len(draft)
            acceptance.accepted += accepted
            drafter.learn(len(draft), accepted)
        # The last token chosen has not been fed, unless the row ended on a guess.
        surplus = int(session.lengths[0]) - (int(history.lengths[0]) - 1)
        if surplus > 0:
            session.truncate([int(history.lengths[0]) - 1])
        if reason is not None:
            return _ended(run, reason), acceptance
        if session.rollback < 1:
            raise InputError(_NO_ROLLBACK)
        # The guess and the token after it must fit the budget, and a guess that is wrong must be taken back.
        limit = min(run.budget - steps - 1, session.rollback)
        draft = drafter.propose(history.row(0), limit) if limit > 0 else []
        logits = session.feed([[token, *draft]], keep=len(draft) + 1)


def _ended(run: Run, reason: FinishReason) -> Ended:
    return Ended([run.history.generated(0).copy()], [reason])


def _likelihood(logits: Array, token: int) -> float:
    return float(1.0 / np.exp(logits.astype(np.float64) - float(logits[token])).sum())
