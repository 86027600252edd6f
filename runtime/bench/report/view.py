"""A record as the report reads it: whatever is missing or malformed in it is absent here, nothing raises later."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

from precast.runtime.bench.report.text import finite
from precast.runtime.bench.statistics import Estimate, ratio
from precast.runtime.errors import InputError

__all__ = ["Comparison", "Point", "Row", "View", "as_estimate"]

FORMAT = "precast-bench/1"
_SCENARIOS = ("single", "offline", "server", "generate", "cold")


class Point(NamedTuple):
    """What two rows share when they may be compared."""

    scenario: str
    batch: int
    length: str
    threads: int
    device: str


def as_estimate(value: Any) -> Estimate | None:
    """E of the record, or a bare number; an interval that nothing is known of is 0 to infinity."""
    if not isinstance(value, Mapping):
        number = finite(value)
        return None if number is None else Estimate(number, 0.0, math.inf, 1)
    number = finite(value.get("value"))
    if number is None:
        return None
    low, high = finite(value.get("low")), finite(value.get("high"))
    runs = finite(value.get("runs"))
    return Estimate(
        number,
        0.0 if low is None else min(low, number),
        math.inf if high is None else max(high, number),
        int(runs or 1),
    )


@dataclass(frozen=True, eq=False)
class Row:
    """One row, with the parts of it that could be read."""

    workload: str
    engine: str
    precision: str
    point: Point
    raw: Mapping[str, Any]

    def estimate(self, *path: str) -> Estimate | None:
        return as_estimate(self.get(*path))

    def get(self, *path: str) -> Any:
        found: Any = self.raw
        for key in path:
            found = found.get(key) if isinstance(found, Mapping) else None
        return found

    def number(self, *path: str) -> float | None:
        return finite(self.get(*path))

    @property
    def time(self) -> Estimate | None:
        found = self.estimate("time")
        return found if found is not None and found.value > 0 else None

    @property
    def error(self) -> tuple[str, float] | None:
        """What of the error is told: its name and how large it is, smaller being better."""
        worst = self.number("error", "max_abs")
        if worst is not None:
            return "largest absolute error", abs(worst)
        for key, name in (("cosine", "1 - cosine"), ("agreement", "share of results that differ")):
            value = self.number("error", key)
            if value is not None:
                return name, max(0.0, 1 - value)
        return None

    @property
    def throughput(self) -> dict[str, Estimate]:
        found = self.get("throughput")
        named = {str(key): as_estimate(value) for key, value in found.items()} if isinstance(found, Mapping) else {}
        return {key: value for key, value in named.items() if value is not None and value.value > 0}


@dataclass(frozen=True, eq=False)
class Comparison:
    """How many times as long the peer takes as ours, at one point; ``alike``: in one precision."""

    ours: Row
    theirs: Row
    ratio: Estimate
    alike: bool

    @property
    def behind(self) -> bool:
        return self.ratio.value < 1

    @property
    def certain(self) -> bool:
        """Whether the interval leaves out that the two are level."""
        return self.ratio.high < 1 or self.ratio.low > 1


class View:
    """A record, read once.

    Raises:
        InputError: ``document`` is not a record of the format this report reads.
    """

    def __init__(self, document: Mapping[str, Any]) -> None:
        received = document.get("format") if isinstance(document, Mapping) else type(document).__name__
        if received != FORMAT:
            raise InputError(
                f'A report is made from a record of format "{FORMAT}"; received {received!r}. '
                "Give what precast bench --json wrote."
            )
        self.raw = document
        self.settings = _mapping(document.get("settings"))
        self.machine = _mapping(document.get("machine"))
        self.calibration = _mapping(document.get("calibration"))
        self.rows = [self._row(row) for row in _mappings(document.get("rows")) if "engine" in row]
        self.absent = _mappings(document.get("absent"))
        self.exports = _mappings(document.get("exports"))
        self.installs = _mappings(document.get("installs"))
        declared = _mapping(document.get("engines"))
        self.engines = {str(name): _mapping(about) for name, about in declared.items()}
        for row in self.rows:
            self.engines.setdefault(row.engine, {})
        for entry in (*self.exports, *self.installs):
            if "engine" in entry:
                self.engines.setdefault(str(entry["engine"]), {})
        about = _mapping(document.get("workloads"))
        self.workloads = {str(name): _mapping(entry) for name, entry in about.items()}
        for row in self.rows:
            self.workloads.setdefault(row.workload, {})

    def _row(self, raw: Mapping[str, Any]) -> Row:
        settings = self.settings
        engine = str(raw["engine"])
        about = _mapping(_mapping(self.raw.get("engines")).get(engine))
        point = Point(
            str(raw.get("scenario", "single")),
            int(finite(raw.get("batch")) or 1),
            str(raw.get("length", "")),
            int(finite(raw.get("threads")) or finite(settings.get("threads")) or 0),
            str(raw.get("device") or settings.get("device") or "cpu"),
        )
        rounds = raw.get("rounds")
        launches = [
            [second for second in map(finite, launch) if second is not None and second > 0]
            for launch in (rounds if isinstance(rounds, list) else ())
            if isinstance(launch, list)
        ]
        workload = str(raw.get("workload", ""))
        whole = {**raw, **point._asdict(), "workload": workload, "engine": engine, "rounds": launches}
        return Row(workload, engine, str(raw.get("precision") or about.get("precision") or ""), point, whole)

    @cached_property
    def ours(self) -> list[str]:
        """Engines that are Precast's: by their name, or as a variant that `precast bench` ran."""
        return [
            name for name, about in self.engines.items() if name.startswith("precast") or _package(about) == "precast"
        ]

    @cached_property
    def peers(self) -> list[str]:
        return [name for name in self.engines if name not in self.ours]

    @cached_property
    def titles(self) -> dict[str, str]:
        """A name for every engine that no other has: its title, with the precision where that tells it apart."""
        plain = {name: str(about.get("title") or name) for name, about in self.engines.items()}
        named = {}
        for name, title in plain.items():
            precision = str(self.engines[name].get("precision") or "")
            alone = sum(title == other for other in plain.values()) == 1
            spoken = precision.casefold() in title.casefold()
            named[name] = (
                title if not precision or spoken or (alone and precision == "fp32") else f"{title} {precision}"
            )
        taken = list(named.values())
        return {name: title if taken.count(title) == 1 else f"{title} ({name})" for name, title in named.items()}

    def title(self, engine: str) -> str:
        return self.titles.get(engine, engine)

    def workload_title(self, workload: str) -> str:
        return str(self.workloads.get(workload, {}).get("title") or workload or "Unnamed workload")

    def of(self, workload: str, *scenarios: str) -> list[Row]:
        """A workload's rows, in the order of the engines."""
        order = list(self.engines)
        found = [
            row for row in self.rows if row.workload == workload and row.point.scenario in (scenarios or _SCENARIOS)
        ]
        return sorted(found, key=lambda row: order.index(row.engine))

    def points(self, rows: Iterable[Row]) -> list[Point]:
        return sorted({row.point for row in rows}, key=_order)

    @cached_property
    def usual_threads(self) -> int:
        """The thread count of most rows: only another one is told with a point."""
        counts = [row.point.threads for row in self.rows]
        return max(counts, key=counts.count, default=0)

    def place(self, point: Point, *, long: bool = True) -> str:
        """A point in words: 1 × 128, with threads and device where they are not those of most rows."""
        words = {"offline": "offline, ", "cold": "cold start", "server": "server, "}.get(point.scenario, "")
        length = {"": "", "natural": " × natural lengths"}.get(point.length, f" × {point.length}")
        text = words if point.scenario == "cold" else f"{words}{point.batch}{length}"
        if long and point.threads not in (0, self.usual_threads):
            text += f", {point.threads} thread{'s' * (point.threads != 1)}"
        devices = [row.point.device for row in self.rows]
        if long and point.device != max(devices, key=devices.count, default=point.device):
            text += f", {point.device}"
        return text

    @cached_property
    def comparisons(self) -> list[Comparison]:
        """Every peer's row beside our first engine of its precision; where there is none, beside our first, marked."""
        found = []
        for theirs in self.rows:
            if theirs.engine in self.ours or theirs.time is None or theirs.point.scenario == "server":
                continue
            near = [
                row
                for row in self.of(theirs.workload)
                if row.point == theirs.point and row.engine in self.ours and row.time is not None
            ]
            alike = [row for row in near if row.precision == theirs.precision]
            for ours in (alike or near)[:1]:
                value = self.ratio(theirs, ours)
                if value is not None:
                    found.append(Comparison(ours, theirs, value, bool(alike)))
        return found

    def ratio(self, theirs: Row, ours: Row) -> Estimate | None:
        """How many times as long ``theirs`` takes, from turns taken side by side where the record has them."""
        if any(theirs.raw["rounds"]) and any(ours.raw["rounds"]):
            return as_estimate(ratio(theirs.raw, ours.raw, self._raws))
        # Only the two medians are left: nothing is known of the interval.
        if theirs.time is None or ours.time is None:
            return None
        return as_estimate(theirs.time.value / ours.time.value)

    @cached_property
    def _raws(self) -> list[Mapping[str, Any]]:
        return [row.raw for row in self.rows]


def _order(point: Point) -> tuple[Any, ...]:
    scenario = _SCENARIOS.index(point.scenario) if point.scenario in _SCENARIOS else len(_SCENARIOS)
    number = int(point.length) if point.length.isdecimal() else math.inf
    return scenario, point.batch, number, point.length, point.threads, point.device


def _package(about: Mapping[str, Any]) -> str:
    return str(about.get("package") or "")


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _mappings(value: Any) -> list[Mapping[str, Any]]:
    return [entry for entry in value if isinstance(entry, Mapping)] if isinstance(value, list) else []
