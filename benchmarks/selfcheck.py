"""Does the measuring hold? Two runs of one comparison must agree, and a variant that is slower by a tenth be found."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from precast.runtime.artifact import Artifact
from precast.runtime.bench import record
from precast.runtime.bench.compare import compare
from precast.runtime.bench.contender import Contender
from precast.runtime.bench.points import artifact_inputs, make_point
from precast.runtime.bench.session import Plan, Session
from precast.runtime.bench.statistics import ratios

__all__ = ["agreement", "planted"]

_ADAPTER = Path(__file__).with_name("slowed.py")
_GRID: tuple[tuple[int, int | str], ...] = ((1, 16), (1, 128), (8, 128), (1, "natural"))


def agreement(a: Mapping[str, Any], b: Mapping[str, Any], ours: str = "precast") -> list[dict[str, Any]]:
    """Every ratio that two records have in common, and whether each lies in the other's interval."""
    key = ("workload", "engine", "scenario", "batch", "length", "threads", "device")
    first, second = ({tuple(r[k] for k in key): r for r in ratios(record["rows"], ours)} for record in (a, b))
    found = []
    for name in first:
        if name in second:
            one, other = first[name]["ratio"], second[name]["ratio"]
            inside = one["low"] <= other["value"] <= one["high"] and other["low"] <= one["value"] <= other["high"]
            found.append({**first[name], "ratio": one, "again": other, "inside": inside})
    return found


def planted(artifact: str, *, slower: float, plan: Plan, threads: int, say: Callable[[str], None]) -> dict[str, Any]:
    """Three runs one after the other: as it is, as it is, and slowed; ``compare`` must tell the last from the first.

    Points longer than the model takes are left out.

    Returns: ``equal`` and ``slowed``, the two comparisons, and ``held``, whether the first is silent and the second
    finds the slow-down at every point.
    """
    runs = [_run(artifact, factor, plan, threads, say) for factor in (0.0, 0.0, slower)]
    equal, slowed = compare(runs[0], runs[1]), compare(runs[0], runs[2])
    times = [change for change in slowed["changes"] if change["what"] == "time" and change["regression"]]
    points = sum(row["scenario"] != "cold" for row in runs[0]["rows"])
    held = not equal["regressions"] and len(times) == points
    return {"equal": equal, "slowed": slowed, "found": len(times), "points": points, "held": held}


def _run(artifact: str, slower: float, plan: Plan, threads: int, say: Callable[[str], None]) -> dict[str, Any]:
    component = Artifact.open(artifact).component_for(None)
    longest = component.longest
    options = {"threads": threads, "device": "cpu", "precision": "fp32", "workload": {"slower": slower}}
    contender = Contender("precast", sys.executable, _ADAPTER, Path(artifact), Path(artifact), options)
    with tempfile.TemporaryDirectory(prefix="precast-bench-") as folder:
        points = [
            make_point("single", batch, length, Path(folder), artifact_inputs((component,)), longest=longest)
            for batch, length in _GRID
            if not isinstance(length, int) or longest is None or length <= longest
        ]
        session = Session("planted", [contender], points, plan, scratch=Path(folder), progress=say)
        session.run()
    settings = {"launches": plan.launches, "seconds": plan.seconds, "slower": slower}
    document = record.new(command="python -m benchmarks check", settings=settings, calibration=None)
    document["rows"] = session.rows()
    return document
