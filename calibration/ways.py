"""Ways to round a model's weights, from the fastest model to the slowest, and how far each of them is from float32."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import onnx_ir as ir

from precast.calibration.data import Data, Judged
from precast.calibration.observe import Moments, Range, observed
from precast.calibration.sensitivity import Sensitivity, kind_of, sensitive_kinds
from precast.calibration.smoothing import smoothing
from precast.calibration.trial import Trial
from precast.graphs.block_feedback import error_of, quantized_with_feedback
from precast.graphs.block_rounding import quantized
from precast.graphs.block_weight import Parts
from precast.graphs.passes.base import run
from precast.graphs.passes.quantize_weights import QuantizeWeights, Rounder, Rounding
from precast.graphs.passes.smooth_channels import SmoothChannels, smoothable
from precast.graphs.recipes import Evidence
from precast.runtime.backends.base import Array
from precast.runtime.model import Model
from precast.runtime.parity import Loaded

__all__ = ["Attempt", "Ways"]

# All weights rounded by themselves; channels of norms made alike; rounding that makes up for itself; and more bits for
# some weights.
_ROUNDED, _SMOOTHED, _FEEDBACK, _MIXED = "rounded", "smoothed", "feedback", "mixed"
_FEW = 4  # bits at which rounding with feedback is worth its time
_WIDER = 8  # bits in place of those; 8 become 12, which are nothing beside what else a graph rounds


@dataclass(frozen=True)
class Attempt:
    """A way that was tried: what it is called, how far it was from float32, and which weights it gave more bits."""

    method: str
    judged: Judged
    sensitivity: Sensitivity
    met: bool

    def to_json(self) -> dict[str, Any]:
        loss = {"loss": float(f"{self.judged.loss:.6g}"), **self.judged.metric.to_json()}
        score = {} if self.judged.score is None else {"score": round(self.judged.score, 6)}
        return {"method": self.method, "met": self.met, "wider": sorted(self.sensitivity.sensitive), **loss, **score}


@dataclass
class _Seen:
    """What is known of a component's weights, by name, once their inputs were seen.

    Args:
        smoothing: what their channels are multiplied by. parts: what they are rounded to with feedback.
        plain, left: the errors that rounding leaves in the products, by itself and as it is done now.
    """

    smoothing: dict[str, Array] = field(default_factory=dict)
    parts: dict[str, Parts] = field(default_factory=dict)
    plain: dict[str, float] = field(default_factory=dict)
    left: dict[str, float] = field(default_factory=dict)
    ranges: dict[str, Range] = field(default_factory=dict)

    def evidence(self, feedback: bool) -> Evidence:
        """What a recipe needs to know; with or without what weights are rounded to with feedback."""
        return Evidence(smoothing=self.smoothing, rounders=_known(self.parts if feedback else {}))


def _known(parts: Mapping[str, Parts]) -> dict[str, Rounder]:
    """Rounders of weights that are rounded already."""
    return {name: lambda *_, made=made: made for name, made in parts.items()}


class Ways:
    """Tries the ways for one model.

    Args:
        trials: its components. steps: the pass that rounds each one's weights plainly.
        model: loaded components as pipelines take them. stage: called with the name of each stage as it begins.
    """

    def __init__(
        self,
        trials: Mapping[str, Trial],
        steps: Mapping[str, QuantizeWeights],
        data: Data,
        precision: str,
        budget: float | None,
        model: Callable[[Mapping[str, Loaded]], Model],
        stage: Callable[[str], None],
    ) -> None:
        self._trials, self._steps, self._data = trials, steps, data
        self._precision, self._budget, self._model, self._stage = precision, budget, model, stage
        self._seen = {name: _Seen() for name in trials}
        self.attempts: list[Attempt] = []

    def passing(self) -> Iterator[tuple[Attempt, dict[str, Evidence]]]:
        """Each way that passes, when it is its turn, with what its recipe needs to know."""
        for method in self._methods():
            feedback = method in (_FEEDBACK, _MIXED)
            known = {name: seen.evidence(feedback) for name, seen in self._seen.items()}
            judge = _Rounded(self._trials, self._steps, known, self._judged)
            self._stage("finding weights that need more bits" if method == _MIXED else f"trying weights {method}")
            found = sensitive_kinds(judge.sizes, judge.shares) if method == _MIXED else Sensitivity({}, {})
            judged = judge.judged(set(judge.sizes) - set(found.sensitive))
            met = all(share <= 1 for share in judged.shares(self._precision, self._budget))
            self.attempts.append(Attempt(method, judged, found, met))
            if met:
                evidence = {}
                for name, before in known.items():
                    wide = [weight for kind in found.sensitive for weight in judge.names(kind, name)]
                    evidence[name] = replace(before, sensitive=wide, rounders=judge.rounders(name, wide))
                yield self.attempts[-1], evidence

    def refused(self, judged: Judged | None) -> None:
        """The way that was the last to pass does not after all, for its graphs are further away than weights say."""
        last = self.attempts[-1]
        self.attempts[-1] = Attempt(last.method, judged or last.judged, last.sensitivity, False)

    def _methods(self) -> Iterator[str]:
        yield _ROUNDED
        self._stage("measuring what weights are multiplied by")
        for name in self._trials:
            self._observe(name)
        if any(seen.smoothing for seen in self._seen.values()):
            yield _SMOOTHED
        if any(seen.parts for seen in self._seen.values()):
            yield _FEEDBACK
        yield _MIXED

    def _judged(self, parts: Mapping[str, Loaded], few: bool) -> tuple[Judged, tuple[float, ...]]:
        judged = self._data.judged(parts, self._model, few=few)
        return judged, judged.shares(self._precision, self._budget)

    def _observe(self, name: str) -> None:
        trial, step, seen = self._trials[name], self._steps[name], self._seen[name]
        wanted = [str(one.weight.name) for one in step.roundings(trial.raised)]
        norms = {frozenset(weights) for node in trial.raised.graph if (weights := smoothable(node))}
        for moments in observed(self._trials, name, self._data.cases, wanted):
            _look(trial, step, seen, moments, frozenset(moments.weights) in norms)

    def parts(self) -> dict[str, dict[str, Any]]:
        """What is known of each kind of weight: how much of the bound it takes alone, whether it has more bits; how
        much rounding it changes the products, plainly and as it was done in the end; how its inputs spread."""
        parts: dict[str, dict[str, Any]] = {}
        for attempt in self.attempts:
            for kind, share in attempt.sensitivity.alone.items():
                parts.setdefault(kind, {}).update(alone=share, wider=kind in attempt.sensitivity.sensitive)
        for name, seen in self._seen.items():
            for weight, plain in seen.plain.items():
                said = parts.setdefault(kind_of(name, weight), {})
                said["error_rounded"] = said.get("error_rounded", 0.0) + plain
                said["error"] = said.get("error", 0.0) + seen.left[weight]
                said["largest"] = max(said.get("largest", 0.0), seen.ranges[weight].largest)
                said["outlier"] = max(said.get("outlier", 0.0), seen.ranges[weight].outlier)
        return {
            kind: {key: value if isinstance(value, bool) else float(f"{value:.6g}") for key, value in said.items()}
            for kind, said in sorted(parts.items())
        }


def _look(trial: Trial, step: QuantizeWeights, seen: _Seen, moments: Moments, alone: bool) -> None:
    """Take in what some weights are multiplied by; ``alone``: they are all that reads a norm."""
    how = (step.bits, step.block, step.symmetric)
    weights = {name: trial.weights[name].numpy() for name in moments.weights}
    second = moments.second
    scales = smoothing(list(weights.values()), second, *how) if alone else None
    if scales is not None:
        second = second / np.outer(scales, scales)
    for name, weight in weights.items():
        seen.ranges[name] = moments.range
        if scales is not None or step.bits > _FEW:
            seen.plain[name] = seen.left[name] = error_of(weight, quantized(weight, *how), moments.second, step.bits)
        if scales is not None:
            weight = weight * scales
            seen.smoothing[name] = scales
            if step.bits > _FEW:
                seen.left[name] = error_of(weight, quantized(weight, *how), second, step.bits)
        if step.bits <= _FEW:
            made = quantized_with_feedback(weight, second, *how)
            seen.parts[name], seen.left[name] = made.parts, made.error
            seen.plain.setdefault(name, made.plain)


class _Rounded:
    """Judges float32 graphs that read rounded weights."""

    def __init__(
        self,
        trials: Mapping[str, Trial],
        steps: Mapping[str, QuantizeWeights],
        known: Mapping[str, Evidence],
        judge: Callable[[Mapping[str, Loaded], bool], tuple[Judged, tuple[float, ...]]],
    ) -> None:
        self._trials, self._steps, self._known, self._judge = trials, steps, known, judge
        self._found: dict[str, dict[str, list[Rounding]]] = {}
        self._parts: dict[tuple[str, str, bool], Parts] = {}
        self.sizes: dict[str, int] = {}
        for name, trial in trials.items():
            plain = steps[name]
            step = QuantizeWeights(plain.bits, plain.block, plain.symmetric, rounders=known[name].rounders)
            for rounding in step.roundings(_smoothed(trial.raised, known[name].smoothing)):
                kind = kind_of(name, str(rounding.weight.name))
                self._found.setdefault(kind, {}).setdefault(name, []).append(rounding)
                self.sizes[kind] = self.sizes.get(kind, 0) + math.prod(rounding.shape)

    def names(self, kind: str, component: str) -> list[str]:
        """The weights of a kind."""
        return [str(one.weight.name) for one in self._found[kind].get(component, ())]

    def shares(self, kinds: Collection[str], *, few: bool = False) -> Sequence[float]:
        """See `precast.calibration.sensitivity.Judge`; over a few inputs what is rounded is looked at alone."""
        return self._judge(self._loaded(kinds, alone=few), few)[1]

    def judged(self, kinds: Collection[str]) -> Judged:
        """How far the model is from float32 with these kinds rounded, and the others wider."""
        return self._judge(self._loaded(kinds), False)[0]

    def _loaded(self, kinds: Collection[str], *, alone: bool = False) -> dict[str, Loaded]:
        """The components with weights of these kinds rounded; the others as they are, or as wide as they would be."""
        loaded = {}
        for name, trial in self._trials.items():
            arrays = {}
            for kind, by_component in self._found.items():
                for one in by_component.get(name, ()):
                    if kind in kinds or not (alone or one.bits >= _WIDER):
                        arrays[str(one.weight.name)] = partial(self._values, name, one, kind not in kinds)
            loaded[name] = trial.loaded(arrays)
        return loaded

    def rounders(self, component: str, sensitive: Collection[str]) -> dict[str, Rounder]:
        """What was rounded already need not be once more for each graph."""
        return _known(
            {
                name: parts
                for (part, name, wider), parts in self._parts.items()
                if part == component and not wider and name not in sensitive
            }
        )

    def _values(self, component: str, one: Rounding, wider: bool) -> Array:
        """Floats of a rounded weight as the float32 graph reads it; the integers alone are held."""
        name = str(one.weight.name)
        key = (component, name, wider)
        if key not in self._parts:
            tensor = one.weight.const_value
            assert tensor is not None
            block = self._steps[component].block
            self._parts[key] = quantized(tensor.numpy(), _WIDER, block, True) if wider else one.parts()
        values = (replace(one, bits=_WIDER) if wider else one).values(self._parts[key])
        scales = self._known[component].smoothing.get(name)
        return values if scales is None else values / scales


def _smoothed(raised: ir.Model, scales: Mapping[str, Array]) -> ir.Model:
    model = raised.clone()
    run(model, [SmoothChannels(scales)] if scales else [])
    return model
