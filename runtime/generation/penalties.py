"""Processors that make tokens more or less likely: by what was said before, by a bias, by length; and two that repair.

Each works on logits [R, V] float32 in place and touches only the tokens it is about. Each gives what upstream's class
of the same purpose gives for a row on its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from precast.runtime.backends.base import Array
from precast.runtime.generation.history import History

__all__ = [
    "EncoderRepetitionPenalty",
    "ExponentialDecay",
    "HammingDiversity",
    "Normalize",
    "PresenceFrequencyPenalty",
    "RemoveInvalid",
    "RepetitionPenalty",
    "SequenceBias",
]


def _penalise(row: Array, ids: Array, penalty: np.float32) -> None:
    values = row[ids]
    row[ids] = np.where(values < 0, values * penalty, values / penalty)


class RepetitionPenalty:
    """Makes every token of the row, prompt included, less likely. https://arxiv.org/abs/1909.05858"""

    def __init__(self, penalty: float) -> None:
        self.penalty = np.float32(penalty)

    def __call__(self, logits: Array, history: History) -> None:
        size = logits.shape[1]
        for index, row in enumerate(logits):
            ids = history.row(index)
            # A prompt may hold ids the head does not score, where embeddings are longer.
            _penalise(row, ids if not len(ids) or ids.max() < size else ids[ids < size], self.penalty)


class EncoderRepetitionPenalty:
    """Makes the tokens of the encoder's input likelier; those of the prompt, where there is no encoder."""

    def __init__(self, penalty: float, encoder_ids: Sequence[Array] | None = None) -> None:
        """:param encoder_ids: of each of ``History.origins``, without padding."""
        self.penalty = np.float32(1 / penalty)
        self.encoder_ids = encoder_ids

    def __call__(self, logits: Array, history: History) -> None:
        for index, row in enumerate(logits):
            ids = history.prompt(index) if self.encoder_ids is None else self.encoder_ids[history.origins[index]]
            _penalise(row, ids[ids < logits.shape[1]], self.penalty)


class PresenceFrequencyPenalty:
    """Lowers the logits of tokens generated so far (not of the prompt's): once, and for every time they were.
    https://platform.openai.com/docs/api-reference/completions"""

    def __init__(self, presence: float, frequency: float) -> None:
        self.presence = np.float32(presence)
        self.frequency = np.float32(frequency)

    def __call__(self, logits: Array, history: History) -> None:
        for index, row in enumerate(logits):
            generated = history.generated(index)
            ids, counts = np.unique(generated[generated < len(row)], return_counts=True)
            row[ids] -= self.frequency * counts.astype(np.float32)
            row[ids] -= self.presence


class SequenceBias:
    """Adds a bias to the last token of a sequence where the row ends in the tokens before it; -inf bans it."""

    def __init__(self, biases: Mapping[tuple[int, ...], float], vocab_size: int) -> None:
        single = {sequence[0]: bias for sequence, bias in biases.items() if len(sequence) == 1}
        self.ids: Array = np.array(list(single), dtype=np.int64)
        self.biases: Array = np.array(list(single.values()), dtype=np.float32)
        self.single = {token: np.float32(bias) for token, bias in single.items()}
        groups: dict[int, list[tuple[tuple[int, ...], float]]] = {}
        for sequence, bias in biases.items():
            if len(sequence) > 1:
                groups.setdefault(len(sequence) - 1, []).append((sequence, bias))
        self.groups = [
            (
                length,
                np.array([sequence[:-1] for sequence, _ in group], dtype=np.int64),
                [(sequence[-1], np.float32(bias)) for sequence, bias in group],
            )
            for length, group in groups.items()
        ]

    def __call__(self, logits: Array, history: History) -> None:
        for index, row in enumerate(logits):
            # Biases are summed first and added once: upstream's order, which float32 can tell from another.
            sums: dict[int, np.float32] = {}
            tokens = history.row(index)
            for length, prefixes, ends in self.groups:
                if length <= len(tokens):
                    for match in np.flatnonzero((prefixes == tokens[-length:]).all(axis=1)):
                        token, bias = ends[match]
                        sums[token] = sums.get(token, self.single.get(token, np.float32(0))) + bias
            before = {token: row[token] for token in sums}
            row[self.ids] += self.biases
            for token, bias in sums.items():
                row[token] = before[token] + bias


class ExponentialDecay:
    """Makes the end likelier with every token after a number of them."""

    def __init__(self, start: int, factor: float, eos: Sequence[int]) -> None:
        self.start = start
        self.factor = factor
        self.eos: Array = np.array(sorted(set(eos)), dtype=np.int64)

    def __call__(self, logits: Array, history: History) -> None:
        for index, row in enumerate(logits):
            over = int(history.lengths[index] - history.prompts[index]) - self.start
            if over > 0:
                values = row[self.eos]
                finite = np.isfinite(values)
                row[self.eos[finite]] += np.abs(values[finite]) * np.float32(self.factor**over - 1)


class HammingDiversity:
    """Lowers, in a group of beams, the tokens that the groups before it chose in this step.
    https://arxiv.org/abs/1610.02424"""

    def __init__(self, penalty: float) -> None:
        self.penalty = np.float32(penalty)

    def __call__(self, scores: Array, chosen: Array) -> None:
        """In place.

        :param scores: [B * G, V] float32, G beams of the group for each of B requests.
        :param chosen: [B, C] int64, what the beams of the earlier groups chose; C may be 0."""
        beams = len(scores) // max(len(chosen), 1)
        for request, tokens in enumerate(chosen):
            ids, counts = np.unique(tokens, return_counts=True)
            scores[request * beams : (request + 1) * beams, ids] -= self.penalty * counts.astype(np.float32)


class RemoveInvalid:
    """NaN becomes 0, and the infinities the largest and smallest finite number."""

    def __call__(self, logits: Array, history: History) -> None:
        limits = np.finfo(logits.dtype)
        np.nan_to_num(logits, copy=False, nan=0.0, posinf=limits.max, neginf=limits.min)


class Normalize:
    """Log-probabilities in place of logits."""

    def __call__(self, logits: Array, history: History) -> None:
        top = logits.max(axis=-1, keepdims=True)
        with np.errstate(invalid="ignore"):  # a row of -inf becomes NaN, as upstream's
            logits -= top
        with np.errstate(divide="ignore"):
            logits -= np.log(np.exp(logits).sum(axis=-1, keepdims=True, dtype=np.float64)).astype(logits.dtype)
