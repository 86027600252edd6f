"""The comparison: for each workload its checkpoint, every peer's conversion, the reference's outputs, one session."""

from __future__ import annotations

import hashlib
import json
import math
import os
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.catalogue import HERE, Peer, Workload, peers
from benchmarks.conversion import converted
from benchmarks.feeds import points
from benchmarks.outputs import checked
from benchmarks.venvs import Environment, home
from precast.runtime.artifact import Artifact
from precast.runtime.bench import record, roofline
from precast.runtime.bench.contender import Contender
from precast.runtime.bench.session import Plan, Point, Session
from precast.runtime.bench.work import work_of
from precast.runtime.errors import BenchmarkError, PrecastError

__all__ = ["Comparison", "supported"]

_CHECKPOINTS = HERE / "checkpoints.py"


@dataclass
class Comparison:
    """How workloads are measured; `run` does it and returns the record.

    ``environment``: where a peer lives, by the name in its peer.toml; `Here` where nothing can be installed.
    ``until``: a time of `time.perf_counter` after which nothing new is begun; the record says what was not reached.
    ``save``: given the record after each workload.
    """

    plan: Plan
    threads: int
    device: str = "cpu"
    precisions: Sequence[str] | None = None
    scenarios: Sequence[str] = ("single", "offline", "server")
    installs: bool = True
    command: str = "python -m benchmarks run"
    say: Callable[[str], None] = lambda _: None
    save: Callable[[Mapping[str, Any]], None] = lambda _: None
    environment: Callable[[str], Environment] = Environment
    until: float = math.inf
    document: dict[str, Any] = field(default_factory=dict)

    def run(self, chosen: Sequence[Workload], contenders: Sequence[Peer]) -> dict[str, Any]:
        """Measure every workload with every peer that supports it."""
        settings = {"launches": self.plan.launches, "seconds": self.plan.seconds, "device": self.device}
        self.document = record.new(
            command=self.command,
            settings={**settings, "threads": self.threads},
            calibration=roofline.machine_limits(threads=self.threads, device=self.device),
        )
        usable = [peer for peer in contenders if self._usable(peer)]
        if self.installs:
            self._installs(usable)
        for workload in chosen:
            try:
                self._one(workload, usable)
            except PrecastError as error:
                self._absent("all", workload.name, error)
            self.save(self.document)
        return self.document

    def _usable(self, peer: Peer) -> bool:
        reason = self.environment(peer.environment).why_not()
        if reason is not None:
            self._absent(peer.name, None, reason)
        return reason is None

    def _installs(self, usable: Sequence[Peer]) -> None:
        """Size and import time of each environment, once for every module that is imported in it."""
        firsts = {(peer.environment, peer.module): peer for peer in reversed(usable)}
        for peer in reversed(firsts.values()):
            self.say(f"measuring the install of {peer.name}")
            self.document["installs"].append(self.environment(peer.environment).describe(peer))

    def _one(self, workload: Workload, usable: Sequence[Peer]) -> None:
        """One workload into the record."""
        folder = home() / "workloads" / f"{workload.name}-{_digest(workload)}"
        checkpoint, expected = folder / "checkpoint", folder / "reference"
        if not (checkpoint / "config.json").is_file():
            self.say(f"{workload.name}: making the checkpoint")
            self._upstream("make", workload, checkpoint)
        grid = points(
            workload,
            folder / "feeds",
            scenarios=self.scenarios,
            speech=lambda path: self._upstream("feed", workload, path),
        )
        if not grid:
            raise BenchmarkError(f"{workload.name} has no point of the scenarios {', '.join(self.scenarios)}.")
        missing = sorted({point.feeds[0] for point in grid if not (expected / Path(point.feeds[0]).name).is_file()})
        if missing:
            self.say(f"{workload.name}: what upstream computes")
            self._upstream("reference", workload, checkpoint, expected, *missing)
        contenders = self._contenders(workload, usable, checkpoint, folder / "prepared")
        if not contenders:
            raise BenchmarkError(f"nothing can run {workload.name} on {self.device}.")
        self.document["workloads"][workload.name] = {
            "title": workload.title,
            "kind": workload.kind,
            "family": workload.family,
            "description": workload.description,
            "weights_bytes": sum(file.stat().st_size for file in checkpoint.glob("*.safetensors")),
        }
        self._session(workload, contenders, grid, expected)
        for count in workload.scaling.get("threads", ()):
            fewer = [point for point in grid if f"{point.batch}x{point.length}" in workload.scaling["points"]]
            others = [entry._replace(options={**entry.options, "threads": count}) for entry in contenders]
            self._session(workload, others, fewer, expected)

    def _session(
        self, workload: Workload, contenders: Sequence[Contender], grid: Sequence[Point], expected: Path
    ) -> None:
        with tempfile.TemporaryDirectory(prefix="precast-bench-") as scratch:
            session = Session(
                workload.name,
                contenders,
                grid,
                self.plan,
                scratch=Path(scratch),
                progress=self.say,
                check=lambda contender, point, path: checked(contender, point, path, expected),
                describe=_work(contenders),
                until=self.until,
            )
            session.run()
        self.document["rows"] += session.rows()
        self.document["absent"] += session.absent
        for contender in contenders:
            found = session.versions.get(contender.engine)
            if found is not None:
                about = self.document["engines"].setdefault(contender.engine, dict(contender.about))
                about |= {"version": found["versions"].get(about["package"]), **found}

    def _contenders(
        self, workload: Workload, usable: Sequence[Peer], checkpoint: Path, prepared: Path
    ) -> list[Contender]:
        """Everything that can run the workload, converted; what cannot is in the record with the reason."""
        ready = []
        for peer in usable:
            offered = peer.precisions(workload.kind, self.device)
            if not offered:
                self._absent(peer.name, workload.name, f"no adapter for {workload.kind} models on {self.device}")
            for precision in offered:
                if self.precisions is not None and precision not in self.precisions:
                    continue
                contender = self._contender(workload, peer, precision, checkpoint, prepared)
                self.say(f"{workload.name}: {contender.engine}")
                try:
                    cost = converted(contender, peer)
                except BenchmarkError as error:
                    self._absent(contender.engine, workload.name, error)
                    continue
                ready.append(contender)
                if cost is not None:
                    entry = {"workload": workload.name, "engine": contender.engine, **cost}
                    self.document["exports"].append(entry)
        return ready

    def _contender(self, workload: Workload, peer: Peer, precision: str, checkpoint: Path, prepared: Path) -> Contender:
        engine = peer.name if precision == "fp32" else f"{peer.name}-{precision}"
        environment = self.environment(peer.environment)
        # Ours run one artifact; a peer's conversion is its own, of its precision, its environment and its adapter.
        adapter = peer.adapter(workload.kind)
        owner = "precast" if peer.ours else f"{peer.name}-{_digest_of(adapter)}"
        options = {"threads": self.threads, "device": self.device, "precision": precision}
        return Contender(
            engine,
            os.fspath(environment.python),
            adapter,
            checkpoint,
            prepared / f"{owner}-{precision}-{self.device}-{environment.digest}",
            {**options, "workload": dict(workload.table)},
            {"title": peer.title, "package": peer.package, "precision": precision, "environment": peer.environment},
        )

    def _upstream(self, command: str, workload: Workload, *paths: str | os.PathLike[str]) -> None:
        """checkpoints.py in upstream's environment."""
        upstream = self.environment("upstream")
        if upstream.why_not():
            raise BenchmarkError(f"upstream makes the checkpoints and the reference: {upstream.why_not()}")
        arguments = [os.fspath(path) for path in (workload.path, *paths)]
        done = subprocess.run(
            [upstream.python, _CHECKPOINTS, command, *arguments],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"},
        )
        if done.returncode:
            lines = [line for line in done.stderr.splitlines() if line.strip()]
            raise BenchmarkError(f"{workload.name}: {command} failed: {' | '.join(lines[-2:])}")

    def _absent(self, engine: str, workload: str | None, reason: str | Exception) -> None:
        text = " ".join(str(reason).split())[:400]
        self.document["absent"].append({"engine": engine, "workload": workload, "reason": text})


def _work(contenders: Sequence[Contender]) -> Callable[[Contender, Point], dict[str, Any]]:
    """What a call costs, from our artifact: the same arithmetic whoever does it."""
    ours = next((contender for contender in contenders if contender.about["package"] == "precast"), None)
    if ours is None:
        return lambda contender, point: {}
    artifact = Artifact.open(ours.prepared, check="size")
    variant = artifact.choose_variant(artifact.component_for(None).name, target=ours.options["device"])

    def describe(contender: Contender, point: Point) -> dict[str, Any]:
        if point.scenario == "generate" or not isinstance(point.length, int):
            return {}  # many calls, each with more behind it than the one before
        work = work_of(variant, batch=point.batch, sequence=point.length)
        return {} if work is None else {"work": work}

    return describe


def _digest(workload: Workload) -> str:
    """What the checkpoint is made from: when it changes, everything made from it is made anew."""
    parts = {name: workload.table.get(name) for name in ("source", "model_class", "inputs", "generate")}
    made = hashlib.sha256(json.dumps(parts, sort_keys=True).encode())
    made.update(_CHECKPOINTS.read_bytes())
    if "script" in workload.source:
        made.update(workload.path.with_name(workload.source["script"]).read_bytes())
    return made.hexdigest()[:12]


def _digest_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:8]


def supported(chosen: Sequence[Workload], device: str) -> list[Peer]:
    """Peers that have an adapter for one of the workloads."""
    return [peer for peer in peers() if any(peer.precisions(workload.kind, device) for workload in chosen)]
