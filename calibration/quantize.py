"""quantize(): a variant of few bits beside those of an artifact, the fastest that a user's data lets pass. No torch."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from precast.calibration.cost import Cost, Progress
from precast.calibration.data import Data, Judged, data_of, model_of
from precast.calibration.opened import opened
from precast.calibration.samples import Samples, read_samples
from precast.calibration.scores import SCORES
from precast.calibration.shipped import figures, loaded, producer
from precast.calibration.staged import staged
from precast.calibration.trial import Trial
from precast.calibration.ways import Attempt, Ways
from precast.graphs.emit import Written
from precast.graphs.passes.base import run
from precast.graphs.passes.quantize_weights import QuantizeWeights
from precast.graphs.passes.raise_weights import RaiseWeights
from precast.graphs.recipes import Evidence, Recipe, assigned, recipes_for
from precast.runtime import arguments
from precast.runtime.artifact import Artifact, ArtifactWriter, Component, Manifest, Variant
from precast.runtime.backends.engines import backend_for
from precast.runtime.errors import ArtifactError, InputError, OutputExistsError, ParityError, listing
from precast.runtime.flow import in_order
from precast.runtime.gates import gate
from precast.runtime.model import Model
from precast.runtime.parity import Loaded, compare, run_cases
from precast.runtime.parity_record import read_record
from precast.runtime.timing import interleave

__all__ = ["MOST_LOST", "PRECISIONS", "BudgetError", "quantize"]

PRECISIONS = ("int8", "int4")
MOST_LOST = 0.01  # P3 of PARITY.md: 99 % of what float32 reaches
_MOST = 512  # samples


class BudgetError(ParityError):
    """No way of rounding meets the budget, or the gate of the precision; ``attempts`` has what each reached."""

    def __init__(self, message: str, attempts: Sequence[Attempt], parts: Mapping[str, Mapping[str, Any]]) -> None:
        super().__init__(message)
        self.attempts, self.parts = attempts, parts


def quantize(
    path: str | os.PathLike[str],
    data: Any = None,
    *,
    precision: str = "int8",
    budget: float | None = None,
    column: str | None = None,
    label: str | None = None,
    score: str | None = None,
    samples: int = _MOST,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Add variants of few bits to the artifact in a folder: of the ways to round its weights, from the fastest to the
    slowest, the first that keeps its answers to ``data`` within ``budget`` and within the gate of the precision.

    Args:
        data: a file or folder (`precast.calibration.samples.read_samples`), or a list of what the artifact's task
            takes; half of it is measured on, the other half judges. None: texts and pictures that are made up.
        precision: ``int8`` or ``int4``.
        budget: what may be lost, as a share: of right answers where there are labels; else of answers that change
            (classes), of the cosine (embeddings), or nats of divergence (language models); 0.01 at most. None: the gate
            of the precision, and 0.01 of what data of yours shows, but for divergence.
        column, label: of a table: which column holds the input, and which what is right.
        score: what labels are counted by: accuracy, f1 or spearman; None: what is usual for the task.
        samples: that are taken of the data at most, evenly spaced.

    Returns:
        What the manifest's ``calibration`` says of the variant, with its ``variants`` and their ``speed``.

    Raises:
        BudgetError: no way passes. The artifact is as it was, as it is after every error.
        InputError: there is no such precision, budget or data, or the model does not take it.
    """
    arguments.choice("precision", precision, PRECISIONS)
    number = isinstance(budget, (int, float)) and not isinstance(budget, bool)
    if budget is not None and not (number and 0 < budget <= MOST_LOST):
        raise InputError(
            f"budget must be above 0 and at most {MOST_LOST} (0.005 is half a percent): what loses more is not "
            f"shipped; received {budget!r:.80}."
        )
    for name, given in (("column", column), ("label", label), ("score", score)):
        if given is not None:
            arguments.text(name, given, instead=", or None")
    if data is None and (column or label or score):
        raise InputError("column, label and score say how data is read: give data too.")
    arguments.whole("samples", samples, 8)
    cost = Cost(None if progress is None else arguments.call("progress", progress))
    folder = arguments.path("path", path)
    Artifact.open(folder, check="size")  # says what is wrong with it in its own words, before a copy is made
    with ArtifactWriter(folder, mode="add") as writer, tempfile.TemporaryDirectory(prefix="precast-") as room:
        assert writer.base is not None
        cost.stage("reading data")
        base = writer.base
        score = _score(base.tasks[0], label, score)
        read = None if data is None else read_samples(data, column=column, label=label, most=samples)
        return _Work(base, writer, precision, budget, cost, Path(room)).done(read, score)


def _score(task: str, label: str | None, score: str | None) -> str | None:
    """What labels of a task are counted by."""
    if label is None:
        if score is not None:
            raise InputError(f"score {score!r} counts labels: say which column holds them (label).")
        return None
    known = SCORES.get(task, ())
    if not known:
        raise InputError(f"labels are counted for {listing(SCORES)} so far, not for {task}. Leave label out.")
    return arguments.choice("score", score, known) if score is not None else known[0]


class _Work:
    """One call of `quantize`."""

    def __init__(
        self,
        artifact: Artifact,
        writer: ArtifactWriter,
        precision: str,
        budget: float | None,
        cost: Cost,
        room: Path,
    ) -> None:
        self.artifact, self.writer, self.precision, self.budget, self.cost = artifact, writer, precision, budget, cost
        asked = artifact.component_for(None)
        self.components = {name: artifact.components[name] for name in in_order(artifact.components, asked.name)}
        self.made_by = self._fitting()
        self.general = artifact.choose_variant(asked.name, precision="fp32").name
        self.trials = {
            name: Trial(artifact, component, artifact.choose_variant(name, variant=self.general), room)
            for name, component in self.components.items()
        }

    def _fitting(self) -> list[dict[str, Recipe]]:
        """The recipe of each component in each variant that can be verified here."""
        base = self.artifact.manifest
        what = f"a {base.model_type} for {self.artifact.tasks[0]}"
        roles = {name: "step" if part.states else "call" for name, part in self.components.items()}
        known = recipes_for("cpu", self.precision)
        made = [
            recipes
            for recipes in assigned(known, roles, what)  # type: ignore[arg-type]
            if all(
                backend_for(one.engine, one.provider).supports(one.isa)
                and self._source(self.components[name], one.isa is not None) is not None
                for name, one in recipes.items()
            )
        ]
        if not made:
            raise ArtifactError(
                f"{self.artifact.path} has no fp32 variant for cpu that runs here, which quantize starts from. Export "
                "it with precision fp32."
            )
        names = [next(iter(recipes.values())).variant for recipes in made]
        held = sorted({name for component in self.components.values() for name in component.variants} & set(names))
        if held:
            raise OutputExistsError(
                f"{self.artifact.path} already holds {listing(held)}, which quantize does not replace. Quantise a copy "
                "of the artifact as it was before: an export in fp32."
            )
        return made

    def done(self, samples: Samples | None, score: str | None) -> dict[str, Any]:
        steps = {
            name: next(step for step in recipe.passes() if isinstance(step, QuantizeWeights))
            for name, recipe in self.made_by[0].items()
        }
        if not any(True for name, trial in self.trials.items() for _ in steps[name].roundings(trial.raised)):
            raise InputError(
                f"{self.artifact.path} has no weights of linear layers or token embeddings, which is what is made "
                f"{self.precision}: it would be what fp32 is."
            )
        self.cost.stage("answering in float32")
        # No name here holds the sessions: they are gone when it is answered.
        data = data_of(
            self.artifact,
            {name: trial.loaded({}) for name, trial in self.trials.items()},
            self.general,
            samples,
            score,
        )
        if self.budget is None and samples is not None and data.loss != "kl":
            self.budget = MOST_LOST
        ways = Ways(self.trials, steps, data, self.precision, self.budget, self.model, self.cost.stage)
        refused: ParityError | None = None
        for attempt, evidence in ways.passing():
            self.cost.stage(f"writing the graphs ({attempt.method})")
            before = self.writer.written
            self._last: Judged | None = None
            try:
                made = dict(self._made(evidence, data))
            except ParityError as error:
                # Graphs round what they multiply by the weights too.
                refused = error
                ways.refused(self._last)
                self.writer.discard(self.writer.written - before)
                continue
            return self._published(made, data, ways)
        reached = "; ".join(f"{one.method} {one.judged.loss:.4%}" for one in ways.attempts)
        what = f"the budget of {self.budget:.4%}" if self.budget is not None else f"the gate of {self.precision}"
        raise BudgetError(
            f"no way to round {self.artifact.path} to {self.precision} meets {what} ({data.loss}): {reached}. "
            "Nothing was published: give a larger budget, another precision, or more data.",
            ways.attempts,
            ways.parts(),
        ) from refused

    def _made(self, evidence: Mapping[str, Evidence], data: Data) -> Iterator[tuple[str, dict[str, Variant]]]:
        """Each variant's name, and it for each component; held to its gates."""
        written = Written()
        weights: dict[str, dict[str, Any]] = {name: {} for name in self.components}
        record = self.artifact.manifest.parity[list(self.components)[-1]]["file"]
        recorded = read_record(self.artifact.read_bytes(record), list(self.components.values()))
        for recipes in self.made_by:
            variants: dict[str, Variant] = {}
            for name, recipe in recipes.items():
                component = self.components[name]
                source = self._source(component, recipe.isa is not None)
                assert source is not None
                model = opened(self.artifact, source)
                run(model, [RaiseWeights(weights[name])])
                reports = run(model, recipe.passes(evidence[name]))
                variants[name] = staged(recipe, component, model, reports, source.fusions, self.writer, written)
            last = list(variants)[-1]
            made = variants[last].name
            parts = {name: loaded(variant, self.components[name], self.writer) for name, variant in variants.items()}
            measured = list(compare(parts, recorded))
            gate(self.precision, measured, made)
            judged = self._last = data.judged(parts, self.model)
            judged.metric.gate(self.precision, made)
            if self.budget is not None and judged.loss > self.budget:
                raise ParityError(f"variant {made} loses {judged.loss:.4%} ({data.loss}), above {self.budget:.4%}.")
            for name, variant in variants.items():
                said = figures(self.precision, [item for item in measured if item.component == name])
                if name == last:
                    said[data.evaluation.metric] = judged.metric.to_json()
                variants[name] = variant._replace(parity=said, producer=producer("onnx-ir"))
            del parts  # before the next variant's sessions are made
            yield made, variants

    def _source(self, component: Component, special: bool) -> Variant | None:
        """The float32 variant whose graph becomes that of few bits: one that runs here, for the same machines."""
        for variant in self.artifact.variants(component.name):
            plain = (variant.precision, variant.target, variant.isa is not None) == ("fp32", "cpu", special)
            if plain and backend_for(variant.engine, variant.provider).supports(variant.isa):
                return variant
        return None

    def model(self, parts: Mapping[str, Loaded]) -> Model:
        """Loaded components as pipelines take them."""
        return model_of(self.artifact, parts, self.general)

    def _published(self, made: Mapping[str, Mapping[str, Variant]], data: Data, ways: Ways) -> dict[str, Any]:
        assert self._last is not None
        self.cost.stage("timing it beside float32")
        speed = self._speed(made, data)
        found = {
            "data": data.to_json(),
            "metric": data.loss,
            "loss": float(f"{self._last.loss:.6g}"),
            "budget": self.budget,
            "method": ways.attempts[-1].method,
            "attempts": [attempt.to_json() for attempt in ways.attempts],
            "parts": ways.parts(),
        }
        self.cost.stage("publishing")
        base = self.artifact.manifest
        components = {
            name: component._replace(variants={key: variants[name] for key, variants in made.items()})
            for name, component in self.components.items()
        }
        spent = dict(base.cost.get("quantize", {})) | {self.precision: {**self.cost.to_json(), "speed": speed}}
        self.writer.publish(
            Manifest(
                source=base.source,
                model_type=base.model_type,
                tasks=base.tasks,
                default_task=base.default_task,
                components=components,
                producer=producer("onnx-ir"),
                processing=base.processing,
                parity={name: base.parity[name] for name in components},
                calibration=dict.fromkeys(made, found),
                cost={"quantize": spent},
            )
        )
        return {"artifact": os.fspath(self.artifact.path), "variants": list(made), "speed": speed, **found}

    def _speed(self, made: Mapping[str, Mapping[str, Variant]], data: Data) -> dict[str, float]:
        """How long the fastest variant takes, as a share of the float32 one for the same machines: the median of calls
        in turns."""
        recorded = data.evaluation.recorded
        largest = max((item.case for item in recorded), key=lambda case: sum(x.size for x in case.inputs.values()))
        chain = [item for item in recorded if item.case.name in (*largest.after, largest.name)]
        # The one that `load` takes here: those for these kernels come last.
        *_, (key, variants) = made.items()
        few = {name: loaded(variants[name], self.components[name], self.writer) for name in self.components}
        plain = {name: self._plain(component, variants[name]) for name, component in self.components.items()}
        calls: dict[str, Callable[[], Any]] = {
            "few": lambda: list(run_cases(few, chain)),
            "plain": lambda: list(run_cases(plain, chain)),
        }
        times = interleave(calls, seconds=1.0)
        return {key: round(times["few"].median / times["plain"].median, 3)}

    def _plain(self, component: Component, beside: Variant) -> Loaded:
        """The float32 graph for the same machines."""
        source = self._source(component, beside.isa is not None)
        assert source is not None
        runner = backend_for(source.engine, source.provider).load(
            self.artifact.file(source.graph), session=source.session, isa=source.isa, threads=None
        )
        return Loaded(runner, component.inputs, component.outputs, component.states, source.state)
