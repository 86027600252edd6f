"""What a generation gives back: sequences as upstream returns them, and plain figures about how it went."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Literal

import numpy as np

from precast.runtime.backends.base import Array

__all__ = ["Acceptance", "FinishReason", "GenerateOutput", "Recorder", "Timings", "padded"]

FinishReason = Literal["eos", "stop", "length", "model_length", "time", "cancelled"]
"""Why a row ended: an end token; a stop string or criterion of the caller; the length asked for; the model's own
length; ``max_time``; the consumer of a stream left."""


@dataclass
class Timings:
    """Seconds of one call, by a monotonic clock; a step is one pass through the model."""

    first_token: float = 0.0
    """From the call to the first token chosen: prompt processing, in short."""
    total: float = 0.0
    steps: int = 0

    @property
    def per_step(self) -> float:
        """Mean seconds of the steps after the first; 0 where there was one only."""
        return (self.total - self.first_token) / (self.steps - 1) if self.steps > 1 else 0.0


@dataclass
class Acceptance:
    """How well a speculation guessed."""

    rounds: int = 0
    drafted: int = 0
    accepted: int = 0

    @property
    def rate(self) -> float:
        """Accepted tokens of those drafted; 0 where none was."""
        return self.accepted / self.drafted if self.drafted else 0.0


@dataclass
class GenerateOutput:
    """N prompts with K returns each: row ``n * K + k`` is return k of prompt n. ``output["sequences"]`` works too."""

    sequences: Array
    """[N * K, L] int64, as upstream: decoder-only ones begin with the prompt as it was given."""
    scores: tuple[Array, ...] | None = None
    """A step each, [rows, V] float32 after the processors; log-probabilities in a beam search, whose rows are beams. A
    finished row is certain of the padding it holds from there on: 0 there, -inf elsewhere."""
    logits: tuple[Array, ...] | None = None
    """A step each, [rows, V] float32 as the model gave them."""
    logprobs: Array | None = None
    """[N * K, steps] float32: log-probability of each generated token among those that processors left, before
    ``temperature``, the end token included; 0 beyond a row's end."""
    sequences_scores: Array | None = None
    """[N * K] float32: summed log-probabilities over length ** length_penalty; of a beam search only."""
    beam_indices: Array | None = None
    """[N * K, steps] int64: the beam each token continued, -1 beyond a row's end; of a beam search only."""
    finish_reasons: list[FinishReason] = field(default_factory=list)
    prompt_tokens: list[int] = field(default_factory=list)
    """N counts, padding excluded: of an encoder-decoder the text it reads, or, where it hears, what its answer begins
    with."""
    new_tokens: list[int] = field(default_factory=list)
    """N * K counts, the end token included."""
    timings: Timings = field(default_factory=Timings)
    acceptance: Acceptance | None = None
    """Of speculative decoding only."""

    def __getitem__(self, name: str) -> Any:
        if name not in {each.name for each in fields(self)}:
            raise KeyError(name)
        return getattr(self, name)


class Recorder:
    """Keeps what ``output_scores``, ``output_logits`` and ``output_logprobs`` ask for; rows that are done hold certain
    padding. ``temperature``: what scores were divided by."""

    def __init__(
        self, rows: int, pad: int, *, scores: bool, logits: bool, logprobs: bool = False, temperature: float = 1.0
    ) -> None:
        self._rows, self._pad, self._temperature = rows, pad, np.float32(temperature)
        self.scores: list[Array] | None = [] if scores else None
        self.logits: list[Array] | None = [] if logits else None
        self.logprobs: list[Array] | None = [] if logprobs else None

    @property
    def wanted(self) -> bool:
        return self.scores is not None or self.logits is not None

    def keep_scores(self, values: Array, alive: Sequence[int]) -> None:
        """``values`` [A, V] belong to the rows ``alive``."""
        if self.scores is not None:
            self.scores.append(self._whole(values, alive))

    def keep_logits(self, values: Array, alive: Sequence[int]) -> None:
        if self.logits is not None:
            self.logits.append(self._whole(values, alive))

    def keep_chosen(self, values: Array, chosen: Array, alive: Sequence[int]) -> None:
        """Of ``values`` [A, V] tokens [A] were chosen."""
        if self.logprobs is None:
            return
        whole = np.zeros(self._rows, dtype=np.float32)
        scores = (values * self._temperature).astype(np.float64)
        scores -= scores.max(axis=-1, keepdims=True)
        mass = np.log(np.exp(scores).sum(axis=-1))
        whole[list(alive)] = np.take_along_axis(scores, np.asarray(chosen)[:, None], axis=-1)[:, 0] - mass
        self.logprobs.append(whole)

    def _whole(self, values: Array, alive: Sequence[int]) -> Array:
        if len(alive) == self._rows:
            return values.astype(np.float32)
        whole = np.full((self._rows, values.shape[-1]), -np.inf, dtype=np.float32)
        if 0 <= self._pad < whole.shape[1]:
            whole[:, self._pad] = 0.0
        whole[list(alive)] = values
        return whole


def padded(heads: Sequence[Array], tails: Sequence[Array], fill: int) -> Array:
    """[R, L] int64: each head with its tail, filled up on the right."""
    width = max((len(head) + len(tail) for head, tail in zip(heads, tails, strict=True)), default=0)
    whole = np.full((len(heads), width), fill, dtype=np.int64)
    for row, head, tail in zip(whole, heads, tails, strict=True):
        row[: len(head)] = head
        row[len(head) : len(head) + len(tail)] = tail
    return whole
