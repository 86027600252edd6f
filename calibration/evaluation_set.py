"""Inputs as cases, with what the reference answers: what low precision is judged by, whoever runs the reference."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from precast.runtime.artifact import Component
from precast.runtime.backends.base import Array
from precast.runtime.metrics import METRICS, Metric
from precast.runtime.outs import Out
from precast.runtime.parity import Case, Loaded, Recorded, run_cases

__all__ = ["EvaluationSet", "Run", "answers_of"]

# Every case in order, with its outputs.
Run = Callable[[Sequence[Case]], Iterable[tuple[Case, Mapping[str, Array]]]]

_BY_TOKEN = ("input_ids", "position_ids", "feature_rows")


@dataclass(frozen=True)
class EvaluationSet:
    """Inputs as cases, and what the reference answers, at some positions of texts.

    Args:
        metric: the name of what answers are judged by. answers: the outputs of the last component that they are.
        text: the inputs are natural text. data: SHA-256 of them.
    """

    metric: str
    answers: tuple[Out, ...]
    recorded: Sequence[Recorded]
    text: bool
    data: str

    @classmethod
    def over(cls, metric: str, answers: Sequence[Out], cases: Sequence[Case], run: Run, *, text: bool) -> EvaluationSet:
        """Of these cases, and what ``run`` makes of them."""
        # Rounding to low precision is orders above what float64 would tell apart.
        recorded = [Recorded(case, made, made) for case, made in run(cases)]
        given = (np.ascontiguousarray(case.inputs[name]) for case in cases for name in sorted(case.inputs))
        digest = hashlib.sha256(b"".join(array.tobytes() for array in given)).hexdigest()
        return cls(metric, tuple(answers), recorded, text, digest)

    def judged(self, parts: Mapping[str, Loaded]) -> Metric:
        """How far the loaded components are from the reference."""
        return self.figures((item, outputs) for item, outputs in run_cases(parts, self.recorded))

    def figures(self, made: Iterable[tuple[Recorded, Mapping[str, Array]]]) -> Metric:
        """How far what was made of the cases is from the reference."""
        pairs: dict[str, list[tuple[Array, Array]]] = {out.kind: [] for out in self.answers}
        for item, outputs in made:
            for out in self.answers:
                if out.name in item.reference:
                    ours = _rows(outputs[out.name], out.axis)
                    pairs[out.kind].append((_rows(item.reference[out.name], out.axis), ours))
        return METRICS[self.metric].over(pairs, text=self.text, data=self.data)

    def in_pieces(self) -> EvaluationSet:
        """The same texts in several calls each, every piece ending at a position that is compared: what is asked of a
        piece is read from what the ones before it left in the cache."""
        [out] = self.answers
        recorded: list[Recorded] = []
        for item in self.recorded:
            if out.name not in item.reference:
                recorded.append(item)
                continue
            case, begin = item.case, 0
            before = case.after
            for place, end in enumerate(case.inputs["logit_positions"][0] + 1):
                inputs = {
                    **case.inputs,
                    **{name: case.inputs[name][:, begin:end] for name in _BY_TOKEN if name in case.inputs},
                    "past_lengths": np.full(1, begin, np.int64),
                    "lengths": np.full(1, end - begin, np.int64),
                    "logit_positions": np.full((1, 1), end - begin - 1, np.int64),
                }
                piece = replace(case, name=f"{case.name}-{place}", inputs=inputs, after=before)
                answer = {out.name: item.reference[out.name][:, place : place + 1]}
                recorded.append(Recorded(piece, answer, answer))
                before, begin = (piece.name,), int(end)
        return replace(self, recorded=recorded)

    def every(self, step: int) -> EvaluationSet:
        """Of every step-th input."""
        kept = [item for item in self.recorded if int(item.case.name.split("-")[1]) % step == 0]
        return replace(self, recorded=kept)


def answers_of(component: Component, metric: str) -> tuple[Out, ...]:
    """The outputs that a metric is computed of."""
    return tuple(out for out in component.outputs if out.kind in METRICS[metric].kinds)


def _rows(answers: Array, axis: int) -> Array:
    """[K, C]: an answer a row."""
    moved = np.moveaxis(answers, axis, -1)
    return moved.reshape(-1, moved.shape[-1])
