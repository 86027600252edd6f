"""Replay an artifact's parity record without torch: recorded inputs in, the gates of its precision held again."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

from precast.runtime.artifact import Artifact
from precast.runtime.backends.base import backend_for
from precast.runtime.errors import ArtifactError, DependencyError, ProviderError
from precast.runtime.parity import Measured, compare, gate, read_record

__all__ = ["summarise", "verify"]


def summarise(measured: list[Measured]) -> dict[str, dict[str, float]]:
    """The worst figures of each output over all cases."""
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
        ``{"artifact", "digest", "variants": {name: {"status", "cases", "outputs": {output: worst figures}}}}``;
        a variant whose device is not here has the status ``"skipped"`` and a ``"reason"``.

    Raises:
        IntegrityError: a file differs from what was exported.
        ParityError: a variant does not reproduce its record.
        ProviderError: none of the variants can run here.
    """
    say = progress or (lambda stage: None)
    say("checking digests")
    artifact = Artifact.open(path)
    report: dict[str, Any] = {"artifact": os.fspath(path), "digest": artifact.digest, "variants": {}}
    reasons: list[str] = []
    for component in artifact.components.values():
        record = artifact.manifest.parity.get(component.name)
        if not isinstance(record, Mapping) or "file" not in record:
            raise ArtifactError(
                f"{artifact.path} holds no parity record for component {component.name!r}. Export it again."
            )
        recorded = read_record(artifact.read_bytes(record["file"]))
        names = [variant] if variant is not None else sorted(component.variants)
        for name in names:
            chosen = artifact.choose_variant(component.name, variant=name)
            say(f"replaying {name}")
            try:
                runner = backend_for(chosen.provider).load(
                    artifact.file(chosen.graph), session=chosen.session, threads=threads, isa=chosen.isa
                )
            except (ProviderError, DependencyError) as error:
                report["variants"][name] = {"status": "skipped", "reason": str(error)}
                reasons.append(str(error))
                continue
            measured = list(compare(runner, recorded))
            gate(chosen.precision, measured, name)
            report["variants"][name] = {"status": "verified", "cases": len(recorded), "outputs": summarise(measured)}
    if not any(entry["status"] == "verified" for entry in report["variants"].values()):
        raise ProviderError(f"no variant of {artifact.path} can be run here: {'; '.join(reasons)}")
    return report
