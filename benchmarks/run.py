"""The comparison: for each workload its checkpoint, every peer's conversion, the reference's outputs, one session."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.catalogue import HERE, Peer, Workload, peers
from benchmarks.feeds import points
from benchmarks.venvs import Environment, home
from precast.runtime.bench import record
from precast.runtime.bench.calibrate import calibrate
from precast.runtime.bench.contender import Contender, Process
from precast.runtime.bench.session import Plan, Point, Session
from precast.runtime.bench.work import work_of
from precast.runtime.errors import BenchmarkError, PrecastError

__all__ = ["compare"]

# What must hold before a peer is timed: outputs of one model, not equal ones. The figures themselves are in the record.
_CLOSE = {"fp32": 1e-3, "fp16": 5e-2, "bf16": 2e-1}  # max abs difference, at the reference's scale
_ALIKE = 0.8  # cosine, for int8 and int4
_AGREE = 0.5  # share of tokens before the first that differs, fp32
_CHECKPOINTS = HERE / "checkpoints.py"
Say = Callable[[str], None]


def compare(
    chosen: Sequence[Workload],
    contenders: Sequence[Peer],
    *,
    plan: Plan,
    threads: int,
    device: str = "cpu",
    precisions: Sequence[str] | None = None,
    scenarios: Sequence[str] = ("single", "offline", "server"),
    installs: bool = True,
    command: str,
    say: Say,
    save: Callable[[Mapping[str, Any]], None] = lambda _: None,
) -> dict[str, Any]:
    """Measure every workload with every peer that supports it; ``save`` gets the record after each workload."""
    document = record.new(
        command=command,
        settings={"launches": plan.launches, "seconds": plan.seconds, "device": device, "threads": threads},
        calibration=calibrate(threads=threads, device=device),
    )
    usable = [peer for peer in contenders if _usable(peer, document)]
    if installs:
        _installs(usable, document, say)
    for workload in chosen:
        try:
            _one(workload, usable, document, plan, threads, device, precisions, scenarios, say)
        except (PrecastError, subprocess.CalledProcessError) as error:
            document["absent"].append({"engine": "all", "workload": workload.name, "reason": _reason(error)})
        save(document)
    return document


def _usable(peer: Peer, document: dict[str, Any]) -> bool:
    reason = Environment(peer.environment).why_not()
    if reason is not None:
        document["absent"].append({"engine": peer.name, "workload": None, "reason": reason})
    return reason is None


def _installs(usable: Sequence[Peer], document: dict[str, Any], say: Say) -> None:
    seen: set[tuple[str, str]] = set()
    for peer in usable:
        if (peer.environment, peer.module) not in seen:
            seen.add((peer.environment, peer.module))
            say(f"measuring the install of {peer.name}")
            document["installs"].append(Environment(peer.environment).describe(peer))


def _one(
    workload: Workload,
    usable: Sequence[Peer],
    document: dict[str, Any],
    plan: Plan,
    threads: int,
    device: str,
    precisions: Sequence[str] | None,
    scenarios: Sequence[str],
    say: Say,
) -> None:
    """One workload into the record."""
    upstream = Environment("upstream")
    if upstream.why_not():
        raise BenchmarkError(f"upstream makes the checkpoints and the reference: {upstream.why_not()}")
    folder = home() / "workloads" / f"{workload.name}-{_digest(workload)}"
    checkpoint = folder / "checkpoint"
    if not (checkpoint / "config.json").is_file():
        say(f"{workload.name}: making the checkpoint")
        _upstream("make", workload, checkpoint)
    grid = points(
        workload, folder / "feeds", scenarios=scenarios, speech=lambda path: _upstream("feed", workload, path)
    )
    if not grid:
        raise BenchmarkError(f"{workload.name} has no point of the scenarios {', '.join(scenarios)}.")
    say(f"{workload.name}: what upstream computes")
    expected = folder / "reference"
    missing = sorted(
        {point.feeds[0] for point in grid} - {str(folder / "feeds" / p.name) for p in expected.glob("*.npz")}
    )
    if missing:
        _upstream("reference", workload, checkpoint, expected, *missing)
    contenders = _contenders(workload, usable, checkpoint, folder, document, threads, device, precisions, say)
    weights = sum(file.stat().st_size for file in checkpoint.glob("*.safetensors"))
    document["workloads"][workload.name] = {
        "title": workload.title, "kind": workload.kind, "family": workload.family,
        "description": workload.description, "weights_bytes": weights,
    }  # fmt: skip
    work = _work(contenders)
    with tempfile.TemporaryDirectory(prefix="precast-bench-") as scratch:
        session = Session(
            workload.name, contenders, grid, plan, scratch=Path(scratch), progress=say,
            check=lambda contender, point, path: _checked(contender, point, path, expected),
            describe=lambda contender, point: work(point),
        )  # fmt: skip
        session.run()
    document["rows"] += session.rows()
    document["absent"] += session.absent
    for contender in contenders:
        found = session.versions.get(contender.engine)
        if found is not None:
            about = document["engines"].setdefault(contender.engine, dict(contender.about))
            about |= {"version": found["versions"].get(about["package"]), **found}


def _contenders(
    workload: Workload,
    usable: Sequence[Peer],
    checkpoint: Path,
    folder: Path,
    document: dict[str, Any],
    threads: int,
    device: str,
    precisions: Sequence[str] | None,
    say: Say,
) -> list[Contender]:
    """Everything that can run the workload, converted; what cannot is in the record with the reason."""
    ready = []
    for peer in usable:
        offered = peer.precisions(workload.kind, device)
        if not offered:
            reason = f"no adapter for {workload.kind} models on {device}"
            document["absent"].append({"engine": peer.name, "workload": workload.name, "reason": reason})
        for precision in offered:
            if precisions is not None and precision not in precisions:
                continue
            engine = peer.name if precision == "fp32" else f"{peer.name}-{precision}"
            environment = Environment(peer.environment)
            # Both of ours run one artifact; a peer's conversion belongs to it, its precision and its environment.
            owner = "precast" if peer.ours else engine
            prepared = folder / "prepared" / f"{owner}-{environment.digest}-{precision}"
            contender = Contender(
                engine, os.fspath(environment.python), peer.adapter(workload.kind), checkpoint, prepared,
                {"threads": threads, "device": device, "precision": precision, "workload": dict(workload.table)},
                {"title": peer.title, "package": peer.package, "precision": precision, "environment": peer.environment},
            )  # fmt: skip
            try:
                _prepare(contender, peer, document, workload, device, say)
                ready.append(contender)
            except BenchmarkError as error:
                reason = _reason(error)
                document["absent"].append({"engine": engine, "workload": workload.name, "reason": reason})
    return ready


def _prepare(
    contender: Contender, peer: Peer, document: dict[str, Any], workload: Workload, device: str, say: Say
) -> None:
    """Convert once: into a folder beside, moved when it is whole, with what it cost."""
    cost = contender.prepared.with_name(contender.prepared.name + ".json")
    if not cost.is_file():
        say(f"{workload.name}: converting for {contender.engine}")
        shutil.rmtree(contender.prepared, ignore_errors=True)
        part = contender.prepared.with_name(contender.prepared.name + ".part")
        shutil.rmtree(part, ignore_errors=True)
        if peer.ours:
            part.parent.mkdir(parents=True, exist_ok=True)
            answer = _export(contender.checkpoint, part, contender.options["precision"], device)
        else:
            part.mkdir(parents=True)
            process = Process(contender._replace(prepared=part))
            try:
                answer = process.prepare()
            finally:
                process.close()
        os.replace(part, contender.prepared)
        size = sum(file.stat().st_size for file in contender.prepared.rglob("*") if file.is_file())
        cost.write_text(json.dumps({**answer, "size_bytes": size}))
    known = json.loads(cost.read_text())
    if known["size_bytes"]:  # nothing written: the peer runs the checkpoint as it is
        entry = {"workload": workload.name, "engine": contender.engine, **known}
        if not any(e["workload"] == workload.name and e["engine"] == contender.engine for e in document["exports"]):
            document["exports"].append(entry)


def _export(checkpoint: Path, out: Path, precision: str, device: str) -> dict[str, Any]:
    """Our own conversion, by the Python that runs this (the one with torch)."""
    entry = "from precast.runtime.cli import main; main()"
    command = [sys.executable, "-c", entry, "export", os.fspath(checkpoint), os.fspath(out)]
    command += ["--precision", precision, "--target", device, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BenchmarkError(done.stderr.strip().splitlines()[-1] if done.stderr.strip() else "the export failed")
    cost = json.loads(done.stdout)["cost"]
    return {"seconds": cost["seconds"], "peak_bytes": cost["peak_memory_bytes"]}


def _work(contenders: Sequence[Contender]) -> Callable[[Point], dict[str, Any]]:
    """What a call costs, from our artifact: the same arithmetic whoever does it."""
    from precast.runtime.artifact import Artifact

    ours = next((contender for contender in contenders if contender.about["package"] == "precast"), None)
    if ours is None:
        return lambda point: {}
    artifact = Artifact.open(ours.prepared, check="size")
    variant = artifact.choose_variant(artifact.component_for(None).name, target=ours.options["device"])

    def describe(point: Point) -> dict[str, Any]:
        work = work_of(variant, batch=point.batch, sequence=point.length) if isinstance(point.length, int) else None
        return {} if work is None else {"work": work}

    return describe


def _checked(contender: Contender, point: Point, path: Path, expected: Path) -> dict[str, Any]:
    """The outputs against upstream's; BenchmarkError where they are those of another model."""
    precision = contender.options["precision"]
    with np.load(path) as ours, np.load(expected / Path(point.feeds[0]).name) as reference:
        name = reference.files[0]
        if name not in ours.files:
            raise BenchmarkError(f"{contender.engine} has no output {name!r}: {', '.join(ours.files)}.")
        mine, exact = ours[name], reference[name]
    if name == "tokens":
        return _agreement(contender, mine, exact, precision)
    if mine.shape != exact.shape:
        raise BenchmarkError(f"{contender.engine} computes {name} of shape {mine.shape}; upstream {exact.shape}.")
    with np.load(point.feeds[0]) as feed:
        mask = feed["attention_mask"].astype(bool) if "attention_mask" in feed.files else None
    texts = [
        (mine[i][mask[i]], exact[i][mask[i]]) if mask is not None else (mine[i], exact[i]) for i in range(len(mine))
    ]
    worst = max(float(np.abs(a - b).max()) for a, b in texts)
    cosine = min(_cosine(a, b) for a, b in texts)
    scale = max(1.0, float(np.abs(exact).max()))
    wrong = worst > _CLOSE[precision] * scale if precision in _CLOSE else cosine < _ALIKE
    if not np.isfinite(worst) or wrong:
        raise BenchmarkError(
            f"{contender.engine} computes something else at {point.label}: max abs difference {worst:.2e}, "
            f"cosine {cosine:.4f} to upstream in float64."
        )
    return {"against": "upstream in float64", "max_abs": float(f"{worst:.3g}"), "cosine": round(cosine, 10)}


def _agreement(contender: Contender, mine: Any, exact: Any, precision: str) -> dict[str, Any]:
    """The share of tokens before the first that differs, over all rows."""
    mine, exact = np.atleast_2d(mine), np.atleast_2d(exact)
    width = min(mine.shape[1], exact.shape[1])
    same = np.cumprod(mine[:, :width] == exact[:, :width], axis=1).sum(axis=1)
    share = float(same.mean() / exact.shape[1])
    if precision == "fp32" and share < _AGREE:
        raise BenchmarkError(
            f"{contender.engine} generates other tokens: {share:.0%} agree before the first difference."
        )
    return {"against": "upstream's tokens in float32", "agreement": round(share, 4)}


def _cosine(a: Any, b: Any) -> float:
    a, b = np.ravel(a).astype(np.float64), np.ravel(b).astype(np.float64)
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))


def _upstream(command: str, workload: Workload, *paths: str | os.PathLike[str]) -> None:
    arguments = [os.fspath(path) for path in (HERE / "workloads" / f"{workload.name}.toml", *paths)]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}
    done = subprocess.run(
        [Environment("upstream").python, _CHECKPOINTS, command, *arguments],
        capture_output=True, text=True, check=False, env=environment,
    )  # fmt: skip
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        raise BenchmarkError(f"{workload.name}: {command} failed: {' | '.join(lines[-2:])}")


def _digest(workload: Workload) -> str:
    """What the checkpoint is made from: when it changes, everything made from it is made anew."""
    parts = {"source": workload.source, "class": workload.model_class, "inputs": workload.table.get("inputs"),
             "generate": workload.table.get("generate")}  # fmt: skip
    made = hashlib.sha256(json.dumps(parts, sort_keys=True).encode())
    made.update(_CHECKPOINTS.read_bytes())
    if "script" in workload.source:
        made.update((HERE / "workloads" / workload.source["script"]).read_bytes())
    return made.hexdigest()[:12]


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:400]


def supported(chosen: Sequence[Workload], device: str) -> list[Peer]:
    """Peers that have an adapter for one of the workloads."""
    return [peer for peer in peers() if any(peer.precisions(workload.kind, device) for workload in chosen)]
