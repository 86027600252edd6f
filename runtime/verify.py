"""Replay an artifact's parity record without torch: recorded inputs in, the gates of its precision held again."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from precast.runtime import arguments
from precast.runtime.artifact import Artifact, Component, Variant
from precast.runtime.backends.agreement import check_graph
from precast.runtime.backends.engines import backend_for
from precast.runtime.errors import ArtifactError, DependencyError, ProviderError, listing
from precast.runtime.gates import GATES, Measured, populations, replayed, share
from precast.runtime.parity import Loaded, compare
from precast.runtime.parity_record import read_record

__all__ = ["summarise", "verify"]


def summarise(precision: str, measured: Sequence[Measured]) -> dict[str, dict[str, float]]:
    """The worst figures of each output over all cases; ``share`` is how much of the gate they use, where that is
    bounded by eager's own errors."""
    worst: dict[str, dict[str, float]] = {}
    for item in measured:
        entry = worst.setdefault(
            item.output,
            {
                "max_abs": 0.0,
                "max_rel": 0.0,
                "cosine": 1.0,
                "argmax": 1.0,
                "error": 0.0,
                "reference_error": 0.0,
                "excess": 0.0,
            },
        )
        for key in entry:
            pick = min if key in ("cosine", "argmax") else max
            entry[key] = pick(entry[key], getattr(item, key))
    for population in populations(measured):
        used = share(precision, population)
        if used is not None:
            entry = worst[population.name]
            entry["share"] = max(entry.get("share", 0.0), used)
    return worst


def verify(
    path: str | os.PathLike[str],
    *,
    variant: str | None = None,
    threads: int | None = None,
    progress: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Check every digest, then run every variant that this machine can run on the recorded inputs.

    Returns:
        ``{"artifact", "digest", "variants": {name: {"status", "precision", "cases", "outputs": {output: worst
        figures}}}}``; a variant whose device is not here has the status ``"skipped"`` and a ``"reason"``.

    Raises:
        IntegrityError: a file differs from what was exported.
        ParityError: a variant does not reproduce its record.
        ProviderError: none of the variants can run here.
    """
    threads = arguments.threads(threads)
    say = (lambda stage: None) if progress is None else arguments.call("progress", progress)
    say("checking digests")
    report = Artifact.use(path, lambda artifact: _replayed(artifact, variant, threads, say))
    return {"artifact": os.fspath(path), **report}


def _replayed(
    artifact: Artifact, variant: str | None, threads: int | None, say: Callable[[str], None]
) -> dict[str, Any]:
    report: dict[str, Any] = {"digest": artifact.digest, "variants": {}}
    reasons: list[str] = []
    for file, components in _records(artifact).items():
        recorded = read_record(artifact.read_bytes(file), components)
        made = sorted(set.intersection(*(set(component.variants) for component in components)))
        if not made:
            raise ArtifactError(
                f"{artifact.path} holds no variant of all of {listing(component.name for component in components)}, "
                "which are replayed together. Export it again."
            )
        for name in made if variant is None else [variant]:
            chosen = [artifact.choose_variant(component.name, variant=name) for component in components]
            if chosen[0].precision not in GATES:
                raise ArtifactError(
                    f"variant {name} must be of a precision with a gate ({listing(GATES)}), got "
                    f"{chosen[0].precision!r}. Upgrade precast, or export it again."
                )
            say(f"replaying {name}")
            try:
                parts = {
                    part.name: _loaded(artifact, part, one, threads)
                    for part, one in zip(components, chosen, strict=True)
                }
            except (ProviderError, DependencyError) as error:
                report["variants"][name] = {"status": "skipped", "reason": str(error)}
                reasons.append(str(error))
                continue
            measured = list(compare(parts, recorded))
            expected = {"measured": [entry for one in chosen for entry in one.parity.get("measured", ())]}
            replayed(chosen[0].precision, measured, expected, name)
            report["variants"][name] = {
                "status": "verified",
                "precision": chosen[0].precision,
                "cases": len(recorded),
                "outputs": summarise(chosen[0].precision, measured),
            }
    if not any(entry["status"] == "verified" for entry in report["variants"].values()):
        raise ProviderError(f"no variant of {artifact.path} can be run here: {'; '.join(reasons)}")
    return report


def _records(artifact: Artifact) -> dict[str, list[Component]]:
    """Record file -> the components it replays; those of one model are replayed together."""
    files: dict[str, list[Component]] = {}
    for component in artifact.components.values():
        record = artifact.manifest.parity.get(component.name)
        if not isinstance(record, Mapping) or "file" not in record:
            raise ArtifactError(
                f"{artifact.path} holds no parity record for component {component.name!r}. Export it again."
            )
        files.setdefault(record["file"], []).append(component)
    return files


def _loaded(artifact: Artifact, component: Component, variant: Variant, threads: int | None) -> Loaded:
    runner = backend_for(variant.engine, variant.provider).load(
        artifact.file(variant.graph), session=variant.session, threads=threads, isa=variant.isa
    )
    check_graph(component, variant, runner)
    return Loaded(runner, component.inputs, component.outputs, component.states, variant.state)
