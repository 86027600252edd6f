"""A measurement: every contender started several times, and at every point of the grid timed in turns with others."""

from __future__ import annotations

import math
import os
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from precast.runtime.bench import device
from precast.runtime.bench.contender import Contender, Process
from precast.runtime.bench.server import serve
from precast.runtime.bench.statistics import Estimate, Spread, estimate, floor, pool, quantile
from precast.runtime.errors import BenchmarkError

__all__ = ["Plan", "Point", "Session"]

_QUANTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99}
_SHOWN = 200
_LEAST_TURNS = 3
_BLOCKS = 4  # turns that go once through a mix of lengths
_LONG = 0.5  # seconds a call from which a turn needs no call to settle in


class Point(NamedTuple):
    """A point of the grid: what every contender is asked, again and again.

    ``feeds`` are .npz files, one for a fixed length, of many lengths for a mix. ``amounts`` is what one call holds on
    average (texts, tokens, images, seconds_of_sound).
    """

    scenario: str
    batch: int
    length: int | str
    feeds: tuple[str, ...]
    amounts: Mapping[str, float]
    bound: float | None = None  # seconds: what the server scenario holds its 99th percentile to

    @property
    def label(self) -> str:
        return f"{self.scenario} {self.batch} x {self.length}"


class Plan(NamedTuple):
    """How long to measure: ``seconds`` for each contender at each point, over all ``launches``.

    ``turn``: seconds a contender is asked for at a time; ``pause``: before each turn, so that idle threads of the one
    before stop spinning; ``warm``: the most seconds spent to get stable at a point.
    """

    launches: int = 3
    seconds: float = 2.0
    turn: float = 0.1
    pause: float = 0.03
    warm: float = 1.0


class _Measured:
    """What was taken at one point of one contender."""

    def __init__(self) -> None:
        self.rounds: list[list[float]] = []
        self.calls: list[list[float]] = []
        self.marks: list[list[list[float]]] = []
        self.on_device: list[list[float]] = []
        self.memory: dict[str, int] = {}
        self.extra: dict[str, Any] = {}
        self.unstable = 0

    def begin(self) -> None:
        self.rounds.append([])
        self.calls.append([])
        self.marks.append([])
        self.on_device.append([])

    def add(self, answer: Mapping[str, Any], mixed: bool) -> None:
        """One turn. Calls of one kind have a median; of many lengths, only a mean is the same work for all."""
        seconds = answer["seconds"]
        self.rounds[-1].append(sum(seconds) / len(seconds) if mixed else quantile(seconds, 0.5))
        self.calls[-1] += seconds
        self.marks[-1] += answer.get("marks", [])
        # The adapter counts every call since it was last asked: what came before the turn's own is left out.
        self.on_device[-1] += answer.get("device_seconds", [])[-len(seconds) :]


class Session:
    """Measures contenders of one workload at its points; `rows`, `absent` and `versions` are the outcome.

    ``check``: called once for each contender and point with the .npz of its outputs, before anything is timed; what it
    returns goes into the row's ``error``, and a BenchmarkError it raises takes the contender out, with the reason.
    ``describe``: what else a row says (the error an artifact's own record states, the work of a call).
    ``until``: a time of `time.perf_counter` after which nothing new is begun; points not reached are in `absent`.
    """

    def __init__(
        self,
        workload: str,
        contenders: Sequence[Contender],
        points: Sequence[Point],
        plan: Plan,
        *,
        scratch: Path,
        progress: Callable[[str], None] = lambda _: None,
        check: Callable[[Contender, Point, Path], Mapping[str, Any]] | None = None,
        describe: Callable[[Contender, Point], Mapping[str, Any]] = lambda contender, point: {},
        until: float = math.inf,
    ) -> None:
        self.workload, self.plan = workload, plan
        self.absent: list[dict[str, Any]] = []
        self.versions: dict[str, dict[str, Any]] = {}
        self._contenders = list(contenders)
        self._points = list(points)
        self._scratch, self._progress, self._check, self._describe = scratch, progress, check, describe
        self._until = until
        self._taken: dict[tuple[str, int], _Measured] = defaultdict(_Measured)
        self._cold: dict[str, list[float]] = defaultdict(list)
        self._loaded: dict[str, list[float]] = defaultdict(list)
        self._errors: dict[tuple[str, int], dict[str, Any]] = {}
        self._served: dict[tuple[str, int], dict[str, Any]] = {}

    def run(self) -> None:
        """All launches of all contenders at all points.

        Raises:
            BenchmarkError: not one contender could be measured.
        """
        for launch in range(self.plan.launches):
            if launch and self._late():
                break
            running: dict[str, Process] = {}
            try:
                for contender in list(self._contenders):
                    self._guard(contender, partial(self._start, contender, running))
                for index, point in enumerate(self._points):
                    if self._late():
                        break
                    self._progress(f"{self.workload}: {point.label}, launch {launch + 1} of {self.plan.launches}")
                    self._measure(launch, index, point, running)
            finally:
                for process in running.values():
                    process.close()
        if not self._contenders:
            raise BenchmarkError("; ".join(entry["reason"] for entry in self.absent))
        reached = {index for (_, index), taken in self._taken.items() if taken.rounds}
        self.absent += [
            {"engine": "all", "workload": self.workload, "reason": f"{point.label} was not reached: the time was up"}
            for index, point in enumerate(self._points)
            if index not in reached
        ]

    def _late(self) -> bool:
        return time.perf_counter() >= self._until

    # -- taking ----------------------------------------------------------------------------------------------------

    def _start(self, contender: Contender, running: dict[str, Process]) -> None:
        """Start, load and answer once: the time of a cold process to its first result."""
        self._progress(f"{self.workload}: starting {contender.engine}")
        process = Process(contender)
        running[contender.engine] = process
        hello = process.ask("hello")
        loaded = process.load()
        process.ask("run", feed=self._points[0].feeds[0])
        self._cold[contender.engine].append(time.perf_counter() - process.began)
        self._loaded[contender.engine].append(loaded["seconds"])
        self.versions[contender.engine] = {"python": hello["python"], "versions": loaded["versions"]}

    def _measure(self, launch: int, index: int, point: Point, running: dict[str, Process]) -> None:
        def each(act: Callable[[Contender, Process], None], order: Iterable[Contender] | None = None) -> None:
            for contender in list(self._contenders if order is None else order):
                if contender in self._contenders:
                    process = running[contender.engine]
                    self._guard(contender, partial(act, contender, process))

        if launch == 0:
            each(partial(self._checked, index, point))
        speeds: dict[str, float] = {}
        each(partial(self._warm, index, point, speeds))
        if not speeds:
            return
        turns = self._turns(max(speeds.values()), len(point.feeds))
        for turn in range(turns):
            shift = turn % max(1, len(self._contenders))
            order = self._contenders[shift:] + self._contenders[:shift]
            each(partial(self._turn, index, point, turn, speeds), order if turn % 2 == 0 else order[::-1])
        if launch == 0:
            each(partial(self._afterwards, index, point))
        if launch == self.plan.launches - 1 and point.scenario == "server":
            each(partial(self._serve, index, point))

    def _checked(self, index: int, point: Point, contender: Contender, process: Process) -> None:
        process.ask("memory", reset=True)
        if self._check is not None:
            save = self._scratch / f"{index}-{contender.engine}.npz"
            process.ask("run", feed=point.feeds[0], save=os.fspath(save))
            self._errors[contender.engine, index] = dict(self._check(contender, point, save))
            save.unlink(missing_ok=True)

    def _warm(self, index: int, point: Point, speeds: dict[str, float], contender: Contender, process: Process) -> None:
        taken = self._taken[contender.engine, index]
        taken.begin()
        # Many lengths never look stable from call to call: once through all of them is what warm means there.
        if len(point.feeds) > 1:
            answer = process.ask("time", feeds=list(point.feeds), seconds=0.0, least=len(point.feeds), settle=False)
            speeds[contender.engine] = sum(answer["seconds"]) / len(answer["seconds"])
            return
        answer = process.ask("warm", feeds=list(point.feeds), seconds=min(self.plan.warm, self.plan.seconds / 2))
        taken.unstable += not answer["stable"]
        speeds[contender.engine] = process.ask("run", feed=point.feeds[0])["seconds"]

    def _turns(self, slowest: float, feeds: int) -> int:
        """How often each contender is asked in one launch; a mix of lengths is gone through whole, in blocks."""
        share = self.plan.seconds / self.plan.launches
        if feeds > 1:
            return _BLOCKS * max(1, round(share / (slowest * feeds)))
        return max(_LEAST_TURNS, math.ceil(share / max(self.plan.turn, slowest)))

    def _turn(
        self, index: int, point: Point, turn: int, speeds: Mapping[str, float], contender: Contender, process: Process
    ) -> None:
        time.sleep(self.plan.pause)
        feeds = list(point.feeds)
        request: dict[str, Any] = {"seconds": self.plan.turn, "settle": speeds[contender.engine] < _LONG}
        if len(feeds) > 1:
            # The same texts for all in the same turn, and every text as often in one launch as in another.
            block = max(1, len(feeds) // _BLOCKS)
            request |= {"seconds": 0.0, "least": block, "most": block, "first": turn * block}
        self._taken[contender.engine, index].add(process.ask("time", feeds=feeds, **request), len(feeds) > 1)

    def _afterwards(self, index: int, point: Point, contender: Contender, process: Process) -> None:
        taken = self._taken[contender.engine, index]
        taken.memory = {key: value for key, value in process.ask("memory").items() if value is not None}
        taken.extra = process.ask("details", feed=point.feeds[0])
        if contender.options.get("device", "cpu") != "cpu":
            on_device, state = device.process_memory(process.pid), device.device_state()
            if on_device is not None:
                taken.memory["device_bytes"] = on_device
            if state is not None:
                # Read while the device is still warm from the turns: an idle one has stepped its clocks down.
                taken.extra["device_state"] = state

    def _serve(self, index: int, point: Point, contender: Contender, process: Process) -> None:
        self._progress(f"{self.workload}: {point.label}, load that {contender.engine} holds")
        typical = self._taken[contender.engine, index].calls
        mean = sum(map(sum, typical)) / sum(map(len, typical))
        self._served[contender.engine, index] = serve(
            process, list(point.feeds), mean=mean, bound=point.bound, seconds=self.plan.seconds
        )

    def _guard(self, contender: Contender, act: Callable[[], None]) -> None:
        """A contender that fails leaves the run, and the record says why; the others go on."""
        try:
            act()
        except BenchmarkError as error:
            self._contenders.remove(contender)
            self.absent.append({"engine": contender.engine, "workload": self.workload, "reason": str(error)})

    # -- telling ---------------------------------------------------------------------------------------------------

    def rows(self) -> list[dict[str, Any]]:
        """The record's rows: one for each contender and point, and one for each contender's cold start."""
        rows = []
        for contender in self._contenders:
            taken = ((index, self._taken.get((contender.engine, index))) for index in range(len(self._points)))
            mine = [(index, found) for index, found in taken if found is not None and found.rounds]
            pooled = pool(taken.rounds for _, taken in mine)
            floors = pool([[floor(calls)] for calls in taken.calls] for _, taken in mine)
            rows += [self._row(contender, index, taken, pooled, floors) for index, taken in mine]
            rows.append(self._cold_row(contender))
        return rows

    def _row(
        self, contender: Contender, index: int, taken: _Measured, pooled: Spread | None, floors: Spread | None
    ) -> dict[str, Any]:
        point = self._points[index]
        calls = sorted(value for launch in taken.calls for value in launch)
        typical = estimate(taken.rounds, pooled=pooled)
        row = {
            **self._key(contender, point.scenario, point.batch, point.length),
            "time": typical.to_json(),
            "floor": estimate([[floor(launch)] for launch in taken.calls], pooled=floors or pooled).to_json(),
            "throughput": {f"{unit}_per_second": typical.inverse(n).to_json() for unit, n in point.amounts.items()},
            "quantiles": {
                name: estimate([[quantile(launch, q)] for launch in taken.calls], pooled=pooled).to_json()
                for name, q in _QUANTILES.items()
            },
            "calls": len(calls),
            "rounds": [[_short(value) for value in launch] for launch in taken.rounds],
            "floors": [_short(floor(launch)) for launch in taken.calls],
            "latencies": [_short(quantile(calls, i / (_SHOWN - 1))) for i in range(_SHOWN)] if len(calls) > _SHOWN
            else [_short(value) for value in calls],
            "memory": taken.memory,
            **taken.extra,
            **self._describe(contender, point),
        }  # fmt: skip
        if taken.unstable:
            row["unstable_launches"] = taken.unstable
        error = {**row.get("error", {}), **self._errors.get((contender.engine, index), {})}
        if error:
            row["error"] = error
        row |= _generation(taken.marks, point.batch, pooled)
        if taken.on_device and all(taken.on_device):
            row["device_time"] = estimate(taken.on_device, pooled=pooled).to_json()
        if (contender.engine, index) in self._served:
            row["server"] = self._served[contender.engine, index]
        return row

    def _cold_row(self, contender: Contender) -> dict[str, Any]:
        first = self._points[0]
        cold, loaded = self._cold[contender.engine], self._loaded[contender.engine]
        return {
            **self._key(contender, "cold", first.batch, first.length),
            "time": _of_launches(cold).to_json(),
            "load": _of_launches(loaded).to_json(),
            "rounds": [[_short(value)] for value in cold],
        }

    def _key(self, contender: Contender, scenario: str, batch: int, length: int | str) -> dict[str, Any]:
        options = contender.options
        key = {"workload": self.workload, "engine": contender.engine, "precision": options.get("precision", "fp32")}
        key |= {"device": options.get("device", "cpu"), "threads": options.get("threads")}
        return {**key, "scenario": scenario, "batch": batch, "length": length}


def _generation(marks: list[list[list[float]]], batch: int, pooled: Spread | None) -> dict[str, Any]:
    """Time to the first token and between tokens, where a contender said when its tokens came."""
    first = [[call[0] for call in launch if call] for launch in marks]
    steps = [[(call[-1] - call[0]) / (len(call) - 1) for call in launch if len(call) > 1] for launch in marks]
    found: dict[str, Any] = {}
    if all(first) and first:
        found["first_token"] = estimate(first, pooled=pooled).to_json()
        found["first_tokens"] = [_short(floor(launch)) for launch in first]
    if all(steps) and steps:
        per_token = estimate(steps, pooled=pooled)
        found |= {"per_token": per_token.to_json(), "decoded_per_second": per_token.inverse(batch).to_json()}
        found["per_tokens"] = [_short(floor(launch)) for launch in steps]
    return found


def _of_launches(values: Sequence[float]) -> Estimate:
    """One value a launch; of a single one nothing is known but itself."""
    if len(values) == 1:
        return Estimate(values[0], values[0], values[0], 1)
    return estimate([[value] for value in values])


def _short(value: float) -> float:
    return float(f"{value:.5g}")
