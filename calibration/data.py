"""What a model is measured on and judged by: a user's samples, or what `made_up` makes up, as calls of the model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from precast.calibration.evaluation_set import EvaluationSet, answers_of
from precast.calibration.made_up import generated, kept_positions, made_up, natural, perceives
from precast.calibration.running import through
from precast.calibration.samples import Sample, Samples
from precast.calibration.scores import Score, scored
from precast.calibration.sensitivity import FEW
from precast.runtime.artifact import Artifact, Component
from precast.runtime.backends.base import Array
from precast.runtime.catalogue import CATALOGUE
from precast.runtime.errors import InputError, PrecastError, listing
from precast.runtime.flow import Flow, Part
from precast.runtime.inputs import Inputs
from precast.runtime.metrics import METRICS, Metric
from precast.runtime.model import Model
from precast.runtime.parity import Case, Loaded
from precast.runtime.readers.audio import AudioReader
from precast.runtime.readers.base import Row
from precast.runtime.readers.image import ImageReader
from precast.runtime.readers.text import TextReader

__all__ = ["Data", "Judged", "data_of", "model_of"]

_LONGEST = 256  # tokens of a sample of a language model, and of any model that has no limit
_CALL, _ROWS = 512, 8  # tokens of a call, and rows of one that reads none


@dataclass(frozen=True)
class Judged:
    """How far a model is from float32.

    Args:
        metric: the figures of the gate. score: what the labels say, or None. loss: what a budget bounds.
    """

    metric: Metric
    score: float | None
    loss: float

    def shares(self, precision: str, budget: float | None) -> tuple[float, ...]:
        """How much of each bound is used; the first, to which small changes add up nearly, of the tighter one."""
        first, *others = self.metric.shares(precision)
        return (first if budget is None else max(first, self.loss / budget), *others)


@dataclass(frozen=True)
class Data:
    """Calls to measure on, and what judges.

    Args:
        cases: what is measured on; none of them judges, where the user gave enough.
        evaluation: what judges. loss: what a budget bounds (`Metric.losses`, or a score's name).
        score: of float32, by the labels of what judges, or None.
        digest: SHA-256 of the user's data; None: the inputs were made up.
    """

    cases: Sequence[Case]
    evaluation: EvaluationSet
    loss: str
    score: Score | None
    digest: str | None
    name: str
    samples: int

    def judged(
        self, parts: Mapping[str, Loaded], model: Callable[[Mapping[str, Loaded]], Model], *, few: bool = False
    ) -> Judged:
        """How far loaded components are from float32; ``few``: over a few of the calls, and without labels."""
        metric = (self.evaluation.every(FEW) if few else self.evaluation).judged(parts)
        if self.score is None or few:
            return Judged(metric, None, metric.losses.get(self.loss, 0.0))
        found = self.score.of(model(parts))
        return Judged(metric, found, max(0.0, (self.score.value - found) / self.score.value))

    def to_json(self) -> dict[str, Any]:
        said: dict[str, Any] = {"name": self.name, "samples": self.samples, "sha256": self.digest}
        return {**said, "judged_sha256": self.evaluation.data}


def model_of(artifact: Artifact, parts: Mapping[str, Loaded], variant: str) -> Model:
    """A model of loaded components, as pipelines take it."""
    flow = {
        name: Part(artifact.components[name], artifact.choose_variant(name, variant=variant), part.runner)
        for name, part in parts.items()
    }
    return Model(artifact, Flow(flow))


def data_of(
    artifact: Artifact, parts: Mapping[str, Loaded], variant: str, samples: Samples | None, score: str | None
) -> Data:
    """The user's samples as calls of the model, half to measure on and half to judge by; or what is made up.

    Args:
        parts: the components in float32, in running order. score: the name of what labels are counted by, or None.

    Raises:
        InputError: the model does not take such samples.
    """
    components = {name: artifact.components[name] for name in parts}
    last = components[list(parts)[-1]]
    task = artifact.tasks[0]
    metric = CATALOGUE[task].metric
    if metric is None:
        raise InputError(f"quantize: nothing judges what low precision changes of {task} yet. Export it with fp32.")
    answers = answers_of(last, metric)
    # The likeliest token of one position in a text says less of a language model than all of its divergence.
    loss = "kl" if last.states else METRICS[metric].loss
    model = model_of(artifact, parts, variant)

    def run(cases: Sequence[Case]) -> Any:
        return through(parts, cases)

    if samples is None:
        single = not any("sequence" in out.shape for out in answers)
        files = artifact.reading("text").get("files") or ()
        tokenizer = {name: artifact.read_bytes(name) for name in files}
        cases = made_up(components, tokenizer, single=single, join=_join(artifact))
        evaluation = EvaluationSet.over(metric, answers, cases, run, text=natural(components, tokenizer))
        return Data(cases, evaluation, loss, None, None, "made up", len(cases))
    measured, judging = samples.samples[0::2], samples.samples[1::2]
    reads = any(port.kind == "ids" for one in components.values() for port in one.given)
    text = reads and not all(map(_is_arrays, samples.samples))
    evaluation = EvaluationSet.over(metric, answers, _cases(model, components, judging), run, text=text)
    found = None if score is None else scored(model, task, judging, score)
    cases = _cases(model, components, measured)
    loss = loss if found is None else found.name
    return Data(cases, evaluation, loss, found, samples.digest, samples.name, len(samples.samples))


def _cases(model: Model, components: Mapping[str, Component], samples: Sequence[Sample]) -> list[Case]:
    """Samples as calls, those of one shape together: nothing is padded, so nothing that is none is measured."""
    *before, last = components.values()
    if last.states:
        return _generated(model, components, samples)
    if before:
        raise InputError(
            f"quantize: samples for a model of {listing(components)} are not read yet. Leave data out: texts and "
            "pictures are then made up."
        )
    groups: dict[Any, list[Row]] = {}
    for number, row in enumerate(_rows(model, last, samples), 1):
        if set(row) - {port.name for port in last.given}:
            raise InputError(
                f"data: sample {number} has {listing(row)}, and the model takes {listing(model.input_names)}."
            )
        groups.setdefault(tuple((name, row[name].shape) for name in sorted(row)), []).append(row)
    checked = Inputs(last.given, last.dims)
    cases: list[Case] = []
    for rows in groups.values():
        tokens = len(rows[0]["input_ids"]) if "input_ids" in rows[0] else _CALL // _ROWS
        step = max(1, _CALL // tokens)
        for start in range(0, len(rows), step):
            batch = {name: np.stack([row[name] for row in rows[start : start + step]]) for name in rows[0]}
            cases.append(Case(f"sample-{len(cases)}", dict(_filled(last, checked.checked(batch))), last.name))
    return cases


def _filled(component: Component, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
    return {port.name: np.ascontiguousarray(inputs[port.name]) for port in component.given}


def _is_arrays(sample: Sample) -> bool:
    return isinstance(sample.input, Mapping) and all(isinstance(value, np.ndarray) for value in sample.input.values())


def _rows(model: Model, component: Component, samples: Sequence[Sample]) -> list[Row]:
    """Each sample as the model's inputs without the batch axis; a long text is cut, or gives several."""
    if all(map(_is_arrays, samples)):
        return [dict(sample.input) for sample in samples]
    items = [sample.input for sample in samples]
    if not any(port.kind == "ids" for port in component.given):
        heard = any(port.kind in ("waveform", "features") for port in component.given)
        reader = (AudioReader if heard else ImageReader)(model, task="quantize")
        return [_one(number, lambda item=item: reader.row(item)) for number, item in enumerate(items, 1)]  # type: ignore[misc]
    if model.tasks[0] == "question-answering":
        from precast.runtime.tasks import pipeline

        answer = pipeline("question-answering", model)
        wrong = next(
            (item for item in items if not isinstance(item, Mapping) or {*item} != {"question", "context"}), None
        )
        if wrong is not None:
            raise InputError(f"data: question-answering takes columns question and context; received {wrong!r:.80}.")
        return [row for request in answer.prepare(items, {}) for row in request.rows]
    texts = TextReader(model, task="quantize")
    limit = min(texts.longest or _LONGEST, _CALL)
    return texts.rows(texts.encode(items, {"truncation": True, "max_length": limit}))


def _one(number: int, read: Callable[[], Row]) -> Row:
    try:
        return read()
    except PrecastError as error:
        raise type(error)(f"data: sample {number}: {error}") from None


def _generated(model: Model, components: Mapping[str, Component], samples: Sequence[Sample]) -> list[Case]:
    last = list(components.values())[-1]
    if last.vocab_size is None:
        raise InputError("quantize: the model generates, and reads no tokens.")
    join = _join(model.artifact)
    if perceives(components) and join is None:
        raise InputError(
            "quantize: samples for a model that writes what it hears or sees are not read yet. Leave data out: they "
            "are then made up."
        )
    longest = min(_LONGEST, last.longest or _LONGEST)
    if all(map(_is_arrays, samples)):
        rows = [np.asarray(sample.input.get("input_ids", ())) for sample in samples]
    else:
        reader = TextReader(model, task="quantize")
        encoding = reader.encode([sample.input for sample in samples], {"truncation": True, "max_length": longest})
        rows = [np.asarray(ids) for ids in encoding["input_ids"]]
    for number, row in enumerate(rows, 1):
        if (
            row.ndim != 1
            or len(row) < 2
            or row.dtype.kind not in "iu"
            or not (0 <= row.min() <= row.max() < last.vocab_size)
        ):
            raise InputError(
                f"data: sample {number} must be a text of two tokens or more, all below {last.vocab_size}; it has "
                f"{list(row)!r:.80}."
            )
    kept = kept_positions(len(rows), last.vocab_size)
    return [
        case
        for number, row in enumerate(rows)
        for case in generated(components, number, [int(token) for token in row[:longest]], kept, join)
    ]


def _join(artifact: Artifact) -> Mapping[str, Any] | None:
    """How pictures stand among the tokens of texts, where they do."""
    return artifact.reading("join") or None
