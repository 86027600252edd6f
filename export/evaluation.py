"""The evaluation set of a checkpoint's reference, and how far the reference is from what it was."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from precast.calibration.evaluation_set import EvaluationSet, answers_of
from precast.calibration.made_up import made_up, natural
from precast.export.parity import ReferenceRunner, successors
from precast.export.reference import Part
from precast.export.signatures import Component as WithPorts
from precast.runtime.artifact import Component
from precast.runtime.metrics import Metric

__all__ = ["evaluation_set", "judged_reference"]


def judged_reference(evaluation: EvaluationSet, parts: Sequence[Part]) -> Metric:
    """How far the reference is from what it was, now that some of its weights are others."""
    made = ReferenceRunner(parts).through([item.case for item in evaluation.recorded])
    return evaluation.figures((item, outputs) for item, (_, outputs) in zip(evaluation.recorded, made, strict=True))


def evaluation_set(parts: Sequence[Part], tokenizer: Mapping[str, bytes], metric: str) -> EvaluationSet:
    """Inputs for a model of these parts, and its answers; ``tokenizer`` are its files, none where it has none."""
    components = {
        part.name: Component(part.name, said.ports, said.outs, {}, said.dims, successors(said))
        for part in parts
        for said in (part.signature,)
    }
    answers = answers_of(components[parts[-1].name], metric)
    last = parts[-1].module
    assert isinstance(last, WithPorts)
    single = not any("sequence" in out.shape for out in answers)
    ends = {part.name: part.signature.ends for part in parts}
    return EvaluationSet.over(
        metric,
        answers,
        made_up(components, tokenizer, single=single, ends=ends, join=last.processing().get("join")),
        ReferenceRunner(parts).through,
        text=natural(components, tokenizer),
    )
