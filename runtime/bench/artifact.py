"""One artifact's variants as the contenders of a session: what ``precast bench ARTIFACT`` measures."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from precast.runtime.artifact import Artifact, Component, Variant
from precast.runtime.backends.onnxruntime import default_threads
from precast.runtime.bench import record, roofline
from precast.runtime.bench.contender import Contender
from precast.runtime.bench.points import artifact_inputs, artifact_pictured, artifact_prompts, make_point, port_sizes
from precast.runtime.bench.session import Plan, Point, Session
from precast.runtime.bench.work import work_of
from precast.runtime.errors import BenchmarkError, DependencyError, InputError, ProviderError
from precast.runtime.flow import needed
from precast.runtime.inspection import worst_errors
from precast.runtime.processors.joint import Places

__all__ = ["bench", "side_by_side"]

_ADAPTER = Path(__file__).with_name("adapter.py")
_GENERATOR = Path(__file__).with_name("generator.py")
NEW_TOKENS = 64


def bench(
    path: str,
    *,
    grid: Sequence[tuple[int, int | str]],
    scenarios: Sequence[str] = ("single",),
    variants: Sequence[str] | None = None,
    device: str = "cpu",
    threads: Sequence[int],
    plan: Plan,
    bound: float | None = None,
    calibration: bool = True,
    new_tokens: int = NEW_TOKENS,
    command: str = "precast bench",
    progress: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Measure an artifact and return the record.

    Args:
        grid: (batch, length) points; a length is a number, ``natural`` or ``uniform:LOW-HIGH``. Of a language model
            these are prompts, behind which ``new_tokens`` are generated, greedily.
        variants: their names; None: all of the device's that can run here.
        threads: CPU threads, one run each.
        bound: seconds the server scenario holds its 99th percentile to.
        calibration: whether to measure first what the machine can do at all.

    Raises:
        InputError: a length is more than the model takes; a scenario that language models do not have.
        ArtifactError, ProviderError: there is no such artifact, no variant for the device, or nothing to run it on.
    """
    artifact = Artifact.open(path)
    component = artifact.component_for(None)
    chosen, skipped = _runnable(artifact, component, variants, device)
    workload, manifest = Path(path).resolve().name, artifact.manifest
    document = record.new(
        command=command,
        settings={"launches": plan.launches, "seconds": plan.seconds, "device": device, "threads": list(threads)},
        calibration=roofline.machine_limits(threads=max(threads), device=device) if calibration else None,
    )
    document |= {"artifact": path, "digest": artifact.digest}
    document["workloads"][workload] = {
        "title": workload,
        "kind": component.name,
        "description": ", ".join((manifest.source.id, manifest.model_type, manifest.default_task)),
    }
    document["absent"] = skipped
    feeds = _feeds(artifact, new_tokens)
    if feeds.generating and set(scenarios) != {"single"}:
        other = next(name for name in scenarios if name != "single")
        raise InputError(f"A language model is timed generating, in the scenario single; received {other!r}.")
    if feeds.generating:
        document["settings"]["new_tokens"] = new_tokens
    for count in threads:
        with tempfile.TemporaryDirectory(prefix="precast-bench-") as folder:
            points = [
                feeds.point(scenario, batch, length, Path(folder), bound)
                for batch, length in grid
                for scenario in scenarios
            ]
            session = Session(
                workload,
                [_contender(path, variant, device, count, feeds) for variant in chosen],
                points,
                plan,
                scratch=Path(folder),
                progress=progress,
                describe=lambda contender, point: _described(feeds.components, component, contender.engine, point),
            )
            session.run()
        document["rows"] += [_with_plain_figures(row) for row in session.rows()]
        document["absent"] += session.absent
        for variant in chosen:
            document["engines"][variant.name] = _about(variant, session.versions.get(variant.name, {}))
    return document


def side_by_side(
    paths: Mapping[str, str],
    grid: Sequence[tuple[int, int | str]],
    *,
    plan: Plan,
    progress: Callable[[str], None] = lambda _: None,
) -> list[dict[str, Any]]:
    """Rows of several artifacts (by name) that take the same inputs, each with the variant `precast.load` chooses.

    Points that one of them does not take are left out.
    """
    feeds = [_feeds(Artifact.open(path), NEW_TOKENS) for path in paths.values()]
    if len({one.generating for one in feeds}) > 1:
        raise BenchmarkError("one artifact is a language model and the other is none: they do not take the same inputs")
    limits = [one.longest for one in feeds if one.longest is not None]
    longest = min(limits, default=None)
    narrow = min(feeds, key=lambda one: one.reads.vocab_size or 0)
    with tempfile.TemporaryDirectory(prefix="precast-bench-") as folder:
        points = [
            narrow.point("single", batch, length, Path(folder))
            for batch, length in grid
            if longest is None or not isinstance(length, int) or length <= longest
        ]
        options = {"threads": default_threads(), "device": "cpu", "precision": "", "workload": narrow.options}
        contenders = [
            Contender(name, sys.executable, narrow.adapter, Path(path), Path(path), options)
            for name, path in paths.items()
        ]
        session = Session("speed", contenders, points, plan, scratch=Path(folder), progress=progress)
        session.run()
    if session.absent:
        raise BenchmarkError(session.absent[0]["reason"])
    return session.rows()


def _runnable(
    artifact: Artifact, component: Component, variants: Sequence[str] | None, device: str
) -> tuple[list[Variant], list[dict[str, Any]]]:
    """The variants to measure, and why others are not."""
    from precast.runtime.backends.engines import backend_for

    target = device.partition(":")[0]
    if variants is None:
        entries = [entry for entry in artifact.variants(component.name) if entry.target == target]
    else:
        entries = [artifact.choose_variant(component.name, target=target, variant=name) for name in variants]
    if not entries:
        entries = [artifact.choose_variant(component.name, target=target)]  # says what there is instead
    chosen, skipped, failures = [], [], []
    for entry in entries:
        try:
            # Opened here once, so that what is missing is said as `precast run` says it.
            backend_for(entry.engine, entry.provider).load(
                artifact.file(entry.graph), session=entry.session, threads=1, isa=entry.isa
            )
            chosen.append(entry)
        except (DependencyError, ProviderError) as error:
            failures.append(error)
            skipped.append({"engine": entry.name, "workload": None, "reason": str(error)})
    if not chosen:
        raise failures[0]
    return chosen, skipped


@dataclass(frozen=True)
class _Feeds:
    """What an artifact is called with, and by which adapter: one call of a component, or a generation.

    ``components``: whose inputs these are; ``longest``: how many tokens a text may have.
    """

    components: tuple[Component, ...]
    longest: int | None
    generating: bool
    left: bool
    new_tokens: int
    places: Places | None = None
    """How a picture stands among the tokens of a prompt, where it does."""

    @property
    def reads(self) -> Component:
        """The component that reads the texts."""
        return self.components[0 if self.places is None else -1]

    @property
    def adapter(self) -> Path:
        return _GENERATOR if self.generating else _ADAPTER

    @property
    def options(self) -> dict[str, Any]:
        return {"generate": {"new_tokens": self.new_tokens}} if self.generating else {}

    def point(self, scenario: str, batch: int, length: int | str, folder: Path, bound: float | None = None) -> Point:
        if self.places is not None:
            make = artifact_pictured(self.components, self.places.token, self.places.count)
        elif self.generating:
            make = artifact_prompts(self.reads, left=self.left)
        else:
            make = artifact_inputs(self.components)
        made = make_point(scenario, batch, length, folder, make, longest=self.longest, bound=bound)
        if not self.generating:
            return made
        return made._replace(scenario="generate", amounts={"texts": batch, "tokens": batch * self.new_tokens})


def _feeds(artifact: Artifact, new_tokens: int) -> _Feeds:
    if artifact.reading("stages") or artifact.reading("ranked"):
        raise InputError(
            f"{artifact.path} speaks in stages, each as long as the one before makes it, and bench times no such call "
            "so far. Time model.generate."
        )
    component = artifact.component_for(None)
    every = tuple(artifact.components[name] for name in needed(artifact, component.name))
    if not component.states:
        longest = [part.longest for part in every if part.longest is not None]
        return _Feeds(every, min(longest, default=None), False, False, 0)
    if artifact.reading("join"):  # a picture in front of each text
        places = Places.from_data(artifact.reading("join"))
        room = None if component.longest is None else component.longest - places.count - new_tokens
        if room is not None and room < 1:
            raise InputError(
                f"This model has {component.longest} positions: a picture of {places.count} and {new_tokens} new "
                "tokens leave none for a prompt. Ask for fewer."
            )
        return _Feeds(every, room, True, True, new_tokens, places)
    if len(every) > 1:  # an encoder reads the text, and the decoder has its positions for itself
        return _Feeds(every[:1], every[0].longest, True, False, new_tokens)
    limit = component.longest
    if limit is not None and limit <= new_tokens:
        raise InputError(
            f"This model has {limit} positions: {new_tokens} new tokens leave none for a prompt. Ask for fewer."
        )
    return _Feeds(every, None if limit is None else limit - new_tokens, True, True, new_tokens)


def _contender(path: str, variant: Variant, device: str, threads: int, feeds: _Feeds) -> Contender:
    options = {
        "threads": threads,
        "device": device,
        "precision": variant.precision,
        "workload": {"variant": variant.name, **feeds.options},
    }
    return Contender(variant.name, sys.executable, feeds.adapter, Path(path), Path(path), options)


def _described(components: Sequence[Component], last: Component, name: str, point: Point) -> dict[str, Any]:
    """The parity error that the artifact records, and what a call costs in operations and bytes."""
    variant = last.variants[name]
    errors = worst_errors(variant.parity)
    described: dict[str, Any] = {"variant": variant.name}
    if errors:
        described["error"] = {"against": "the reference model in float64 (parity record)", **errors}
        divergence = variant.parity.get("divergence")
        if isinstance(divergence, Mapping) and "kl_mean" in divergence:
            described["error"]["kl_mean"] = divergence["kl_mean"]
    # A generation is many calls: no one cost is stated for it.
    if isinstance(point.length, int) and point.scenario != "generate":
        costs = [_cost(part, name, point.batch, point.length) for part in components]
        if all(cost is not None for cost in costs):
            described["work"] = {key: sum(cost[key] for cost in costs if cost) for key in costs[0] or {}}
    return described


def _cost(component: Component, variant: str, batch: int, length: int) -> dict[str, Any] | None:
    """Of one call of a component."""
    sizes: dict[str, int] = {}
    for port in component.inputs:
        sizes |= port_sizes(component, port, batch, length)
    return work_of(component.variants[variant], **sizes)


def _about(variant: Variant, versions: Mapping[str, Any]) -> dict[str, Any]:
    found = versions.get("versions", {})
    return {
        "title": variant.name,
        "package": "precast",
        "version": found.get("precast"),
        "precision": variant.precision,
        "python": versions.get("python"),
        "versions": found,
    }


def _with_plain_figures(row: dict[str, Any]) -> dict[str, Any]:
    """A row with its main figures once more as plain numbers, for programs that want no intervals."""
    time, error = row["time"], row.get("error", {})
    row["median_ms"] = round(time["value"] * 1e3, 6)
    if row["scenario"] != "cold":
        row["p10_ms"] = round(row["floor"]["value"] * 1e3, 6)
        row["p90_ms"] = round(row["quantiles"]["p90"]["value"] * 1e3, 6)
        row["runs"] = row["calls"]
        row |= {name: rate["value"] for name, rate in row["throughput"].items()}
        row["peak_memory_bytes"] = row["memory"].get("peak_bytes")
        row |= {"max_abs": error.get("max_abs"), "cosine": error.get("cosine")}
    return row
