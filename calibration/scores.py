"""What a user's labels say of a model: how often, or how well, the task's own pipeline is right."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from precast.calibration.samples import Sample
from precast.runtime.backends.base import Array
from precast.runtime.errors import InputError, listing
from precast.runtime.model import Model
from precast.runtime.similarity import PAIRWISE
from precast.runtime.tasks import pipeline
from precast.runtime.tasks.base import id2label

__all__ = ["SCORES", "Score", "scored"]

# What labels of a task are counted by, the usual one first.
SCORES: Mapping[str, tuple[str, ...]] = {
    "text-classification": ("accuracy", "f1"),
    "image-classification": ("accuracy", "f1"),
    "feature-extraction": ("spearman",),
}


@dataclass(frozen=True)
class Score:
    """A count of right answers. ``value``: that of float32; ``of`` counts for another model."""

    name: str
    value: float
    of: Callable[[Model], float]


def scored(model: Model, task: str, samples: Sequence[Sample], name: str) -> Score:
    """The score of a model that answers labelled samples.

    Raises:
        InputError: a label is none of the model's, labels are missing, or float32 is right nowhere.
    """
    missing = next((number for number, sample in enumerate(samples, 1) if sample.label is None), None)
    if missing is not None:
        raise InputError(f"data: sample {missing} has no label.")
    if name == "spearman":
        of = _rank_correlation(samples)
    else:
        of = _classified(task, samples, _labels(model, samples), {"accuracy": accuracy, "f1": macro_f1}[name])
    value = of(model)
    if not value > 0:
        raise InputError(
            f"data: the float32 model has {name} {value:.3f} on the labels given, so that nothing can be lost. Are "
            "they the model's?"
        )
    return Score(name, value, of)


def accuracy(right: Sequence[str], found: Sequence[str]) -> float:
    """Share of answers that are right."""
    return float(np.mean([one == other for one, other in zip(right, found, strict=True)]))


def macro_f1(right: Sequence[str], found: Sequence[str]) -> float:
    """Mean over the labels that occur of the harmonic mean of precision and recall."""
    pairs = list(zip(right, found, strict=True))
    each = []
    for label in sorted({*right, *found}):
        hits = sum(one == other == label for one, other in pairs)
        each.append(2 * hits / (sum(one == label for one in right) + sum(one == label for one in found)))
    return float(np.mean(each))


def spearman(first: Sequence[float] | Array, second: Sequence[float] | Array) -> float:
    """Correlation of ranks, ties sharing the mean of theirs."""
    ranks = [_ranks(np.asarray(values, np.float64)) for values in (first, second)]
    if any(np.ptp(each) == 0 for each in ranks):
        return 0.0
    return float(np.corrcoef(np.stack(ranks))[0, 1])


def _ranks(values: np.ndarray) -> np.ndarray:
    _, places, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return np.asarray((last - (counts - 1) / 2)[places])


def _labels(model: Model, samples: Sequence[Sample]) -> list[str]:
    """The labels as the model calls them: names, or their numbers."""
    out = model.component.output("logits")
    size = out.shape[out.axis] if out is not None else 0
    names = {
        index: str(name) for index, name in enumerate(id2label(model.config, size if isinstance(size, int) else 0))
    }
    made = []
    for number, sample in enumerate(samples, 1):
        label = sample.label
        text = str(label)
        if text in names.values():
            made.append(text)
        elif text.isdecimal() and int(text) in names:
            made.append(names[int(text)])
        else:
            raise InputError(
                f"data: sample {number} has the label {label!r}; the model's are {listing(names.values(), 8)}, or "
                "their numbers."
            )
    return made


def _classified(
    task: str, samples: Sequence[Sample], right: Sequence[str], count: Callable[[Sequence[str], Sequence[str]], float]
) -> Callable[[Model], float]:
    items = [sample.input for sample in samples]
    cut = {"truncation": True} if task == "text-classification" else {}

    def of(model: Model) -> float:
        answers: Any = pipeline(task, model)(items, top_k=1, **cut)
        return count(right, [(answer[0] if isinstance(answer, list) else answer)["label"] for answer in answers])

    return of


def _rank_correlation(samples: Sequence[Sample]) -> Callable[[Model], float]:
    pairs: list[tuple[str, str]] = []
    values: list[float] = []
    for number, sample in enumerate(samples, 1):
        item = sample.input
        if not isinstance(item, Mapping) or not {"text", "text_pair"} <= item.keys():
            raise InputError(
                f"data: spearman compares pairs of texts (columns text and text_pair, or sentence1 and sentence2); "
                f"sample {number} is {item!r:.80}."
            )
        pairs.append((item["text"], item["text_pair"]))
        try:
            values.append(float(sample.label))
        except (TypeError, ValueError):
            raise InputError(
                f"data: the label of sample {number} must be a number; it is {sample.label!r:.80}."
            ) from None

    def of(model: Model) -> float:
        first, second = (model.encode([pair[side] for pair in pairs]) for side in (0, 1))
        return spearman(PAIRWISE[model.similarity_fn_name](first, second), values)

    return of
