"""The charts of one workload, in the order they are read, and a line for every chart without data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from precast.runtime.bench.report.charts import Chart, Item, Series, boxes, dots, lines, scatter
from precast.runtime.bench.report.costs import costs
from precast.runtime.bench.report.layout import bounds_of
from precast.runtime.bench.report.palette import Mark
from precast.runtime.bench.report.text import (
    FLOPS,
    SECONDS,
    capital,
    duration,
    engineering,
    finite,
    joined,
    rate_name,
    sig,
    unit_of,
)
from precast.runtime.bench.report.text import times as ratio_text
from precast.runtime.bench.report.view import Comparison, Point, Row, View, as_estimate
from precast.runtime.bench.report.words import Table, interval
from precast.runtime.bench.statistics import Estimate, quantile

__all__ = ["Group", "groups"]

_UNLIKE = "A hollow mark: the peer computes in another precision than ours. That is another computation, not a race."
_LEVEL = (
    "Each peer beside ours of its precision. Right of the line Precast is faster. The bar is the interval in which a "
    "repeat of the run is expected."
)
_BOX = (
    "A box is the middle half of the calls, with the median in it; its line goes from the 1st to the 99th percentile."
)
_QUANTILES = (0.01, 0.25, 0.5, 0.75, 0.99)


@dataclass(frozen=True)
class Group:
    """Charts under one heading; ``missing``: a sentence for each that the record has no data for."""

    title: str
    charts: list[Chart]
    missing: Sequence[str] = ()
    intro: str = ""


def groups(view: View, workload: str, marks: dict[str, Mark]) -> list[Group]:
    """Everything there is to draw of a workload; a group that does not apply to it is not there."""
    one = _Workload(view, workload, marks)
    error, roofline = one.accuracy(), one.roofline()
    lacking = [] if error else ["Accuracy against speed: no row has an error against the reference."]
    lacking += [] if roofline else [f"Roofline: {one.why_no_roofline()}."]
    found = [
        _group("Speed against peers", one.ratios(), one.why_no_ratios(), _LEVEL),
        _group("Time of a call", one.times() if not view.peers else []),
        _group("Latency and load", [*one.latencies(), *one.server()], one.why_no_latencies(), _BOX),
        Group("Accuracy, and distance from the limit", [*error, *roofline], lacking),
        _group("Scaling", one.scaling(), "the run has one batch size, one length and one thread count"),
        _group("Generation", one.generation()),
        _group("Cold start, memory, export", costs(view, workload, marks), "none of them was recorded"),
    ]
    return [group for group in found if group.charts or group.missing]


def _group(title: str, charts: list[Chart], missing: str = "", intro: str = "") -> Group:
    return Group(title, charts, [f"{title}: {missing}."] if missing and not charts else [], intro)


class _Workload:
    def __init__(self, view: View, workload: str, marks: dict[str, Mark]) -> None:
        self.view, self.name, self.marks = view, workload, marks
        self.title = view.workload_title(workload)
        self.rows = [row for row in view.of(workload) if row.time is not None]

    def ratios(self) -> list[Chart]:
        view = self.view
        found = [
            item
            for item in view.comparisons
            if item.theirs.workload == self.name and item.theirs.point.scenario != "cold"
        ]
        reach = [bound for item in found for bound in bounds_of(item.ratio, 1.0)]
        charts = []
        # Ours of each precision share a panel; a second engine of ours in one precision has panels of its own.
        ranks = {
            name: [other for other in view.ours if self._precision(other) == self._precision(name)].index(name)
            for name in view.ours
        }
        for rank in sorted(set(ranks.values())):
            mine = [item for item in found if ranks[item.ours.engine] == rank]
            for point in view.points(item.theirs for item in mine):
                here = sorted((item for item in mine if item.theirs.point == point), key=lambda item: not item.alike)
                place = view.place(point)
                ours = joined(list(dict.fromkeys(view.title(item.ours.engine) for item in here)))
                charts.append(self._ratio(here, capital(f"{ours} at {place}" if rank else place), reach))
        return charts

    def _precision(self, engine: str) -> str:
        return str(self.view.engines[engine].get("precision") or "")

    def _ratio(self, here: Sequence[Comparison], title: str, reach: Sequence[float]) -> Chart:
        view = self.view
        items = [
            Item(
                self.view.title(item.theirs.engine),
                item.ratio,
                self.marks[item.theirs.engine],
                ratio_text(item.ratio.value),
                not item.alike,
            )
            for item in here
        ]
        rows = [
            (
                view.title(item.theirs.engine),
                ratio_text(item.ratio.value),
                interval(item.ratio) or "not known",
                duration(item.ours.time.value) if item.ours.time else "",
                duration(item.theirs.time.value) if item.theirs.time else "",
                "" if item.alike else f"{item.theirs.precision} against our {item.ours.precision}",
            )
            for item in here
        ]
        slower = [view.title(item.theirs.engine) for item in here if item.behind]
        return dots(
            items,
            title=title,
            axis="times as fast as the peer",
            alt=f"{self.title}, {title}: how many times as fast Precast is as each of {len(here)} peers. "
            + (f"Behind {joined(slower)}." if slower else "Ahead of all of them."),
            level=True,
            reach=reach,
            suffix=" ×",
            note=_UNLIKE if any(not item.alike for item in here) else "",
            table=Table(("Peer", "Precast is × as fast", "Interval", "Precast takes", "Peer takes", "Precision"), rows),
        )

    def why_no_ratios(self) -> str:
        if not self.view.peers:
            return ""  # a run of one artifact: there is nothing to explain
        return "no peer has a row at a point of ours"

    def why_no_latencies(self) -> str:
        return "no single latencies were recorded" if self.view.of(self.name, "single") else ""

    def times(self) -> list[Chart]:
        """Without peers the variants are beside each other, in time."""
        charts: list[Chart] = []
        rows = [row for row in self.rows if row.point.scenario in ("single", "offline", "generate")]
        for point in self.view.points(rows):
            here = [row for row in rows if row.point == point]
            charts += self._dots(here, ("time",), capital(self.view.place(point)), "median with its interval")
        return charts

    def latencies(self) -> list[Chart]:
        charts = []
        rows = [(row, sorted(_numbers(row.get("latencies")))) for row in self.view.of(self.name, "single")]
        rows = [(row, values) for row, values in rows if values and values[0] > 0]
        for point in self.view.points(row for row, _ in rows):
            here = [(row, [quantile(values, q) for q in _QUANTILES]) for row, values in rows if row.point == point]
            unit = unit_of((figures[2] for _, figures in here), SECONDS)
            place = self.view.place(point)
            charts.append(
                boxes(
                    [(self._item(row, Estimate(f[2], f[2], f[2], 1), sig(f[2] * unit.factor)), f) for row, f in here],
                    title=place,
                    axis=f"{unit.name} a call",
                    alt=f"{self.title} at {place}: the distribution of single latencies of {len(here)} engines.",
                    unit=unit,
                    table=Table(
                        ("Engine", "p1", "p25", "median", "p75", "p99"),
                        [(self.view.title(row.engine), *map(duration, figures)) for row, figures in here],
                    ),
                )
            )
        return charts

    def accuracy(self) -> list[Chart]:
        charts = []
        rows = [row for row in self.rows if row.error is not None and row.point.scenario in ("single", "generate")]
        for point in self.view.points(rows)[:1]:
            here = [row for row in rows if row.point == point]
            kinds = [row.error[0] for row in here if row.error]
            kind = max(kinds, key=kinds.count)
            here = [row for row in here if row.error and row.error[0] == kind]
            worst = [row.error[1] for row in here if row.error]
            least = min((value for value in worst if value > 0), default=1e-7) / 4
            unit = unit_of((row.time.value for row in here if row.time), SECONDS)
            place = self.view.place(point)
            points, table = [], []
            for row, error in zip(here, worst, strict=True):
                assert row.time is not None
                name, said = self.view.title(row.engine), sig(error) if error else "0 (exact; drawn at the bottom)"
                hover = f"{name}\n{duration(row.time.value)}\n{kind} {said}"
                points.append((name, row.time.value * unit.factor, error or least, self.marks[row.engine], hover))
                table.append(
                    (name, row.precision, duration(row.time.value), said, str(row.get("error", "against") or ""))
                )
            charts.append(
                scatter(
                    points,
                    title=f"Error against time, {place}",
                    axes=(f"{unit.name} a call", kind),
                    alt=f"{self.title} at {place}: {kind} against the time of a call; lower left is better.",
                    note="Lower left is better.",
                    table=Table(("Engine", "Precision", "Time", kind.capitalize(), "Against"), table),
                    legend=[row.engine for row in here],
                )
            )
        return charts

    def _roofs(self) -> list[tuple[str, float, float]]:
        about = self.view.calibration
        read = as_estimate(about.get("read"))
        gemm = about.get("gemm")
        peaks = {name: as_estimate(value) for name, value in gemm.items()} if isinstance(gemm, dict) else {}
        if read is None or read.value <= 0:
            return []
        return [
            (f"{name} {engineering(peak.value)}op/s", peak.value, read.value)
            for name, peak in peaks.items()
            if peak is not None and peak.value > 0
        ]

    def _worked(self) -> list[tuple[Row, float, float]]:
        about = self.view.calibration
        threads, device = about.get("threads"), about.get("device")
        found = [(row, row.number("work", "flops"), row.number("work", "bytes")) for row in self.rows]
        return [
            (row, flops, moved)
            for row, flops, moved in found
            if flops
            and moved
            and flops > 0
            and moved > 0
            # Roofs hold for the threads and the device they were measured with.
            and threads in (None, row.point.threads)
            and device in (None, row.point.device)
            and row.point.scenario in ("single", "offline")
        ]

    def roofline(self) -> list[Chart]:
        roofs, worked = self._roofs(), self._worked()
        if not roofs or not worked:
            return []
        factor = FLOPS[1].factor  # G
        points, table = [], []
        for row, flops, moved in worked:
            assert row.time is not None
            rate, intensity = flops / row.time.value, flops / moved
            # A precision that was not measured is held to fp32's products, or to the fastest there are.
            peaks = {name.split(" ")[0]: peak for name, peak, _ in roofs}
            peak = peaks.get(row.precision) or peaks.get("fp32") or max(peaks.values())
            limit = min(peak, intensity * roofs[0][2])
            name, place = self.view.title(row.engine), self.view.place(row.point)
            share = f"{sig(rate / limit * 100)} %"
            said = f"{engineering(rate)}op/s, {share} of the limit"
            points.append((name, intensity, rate * factor, self.marks[row.engine], f"{name}, {place}\n{said}"))
            table.append((name, place, f"{sig(intensity)} op/byte", f"{engineering(rate)}op/s", share))
        return [
            scatter(
                points,
                title="Roofline: achieved against what this machine can do",
                axes=("operations for each byte moved", "G operations a second"),
                alt=f"{self.title}: operations a second against operations for each byte, under the measured limits.",
                roofs=[(name, peak * factor, read * factor) for name, peak, read in roofs],
                note=f"Limits by calibration: matrix products for each type, and {sig(roofs[0][2] / 1e9)} GB/s read.",
                table=Table(("Engine", "Point", "Intensity", "Achieved", "Of the limit of its precision"), table),
                legend=list(dict.fromkeys(row.engine for row, _, _ in worked)),
            )
        ]

    def why_no_roofline(self) -> str:
        if not self.view.calibration:
            return "the run was not calibrated"
        if not any(row.get("work") for row in self.rows):
            return "no row says how much work a call is"
        return "the rows have other threads or another device than the calibration"

    def scaling(self) -> list[Chart]:
        rate: Callable[[Row], Estimate | None] = lambda row: next(iter(row.throughput.values()), None)  # noqa: E731
        first = next((next(iter(row.throughput)) for row in self.rows if row.throughput), "texts_per_second")
        unit = rate_name(first)
        found = [
            self._lines("batch", "batch size", rate, unit, lambda point: point.batch),
            self._lines("length", "length in tokens", lambda row: row.time, "", lambda point: _length(point)),
            self._lines("threads", "threads", rate, unit, lambda point: point.threads),
        ]
        return [chart for chart in found if chart is not None]

    def _lines(
        self,
        key: str,
        axis: str,
        figure: Callable[[Row], Estimate | None],
        unit: str,
        place: Callable[[Point], int | None],
    ) -> Chart | None:
        """A line an engine along ``key``, where all else is held; the line with the most places is drawn."""
        rows = [row for row in self.rows if row.point.scenario in ("single", "offline", "generate") and figure(row)]
        held: dict[tuple[object, ...], list[Row]] = {}
        for row in rows:
            if place(row.point):
                rest = {**row.point._asdict(), key: None}
                # One text alone and a batch of one are the same call.
                rest["scenario"] = "generate" if row.point.scenario == "generate" else None
                held.setdefault(tuple(rest.values()), []).append(row)
        best = max(held.values(), key=lambda group: len({place(row.point) for row in group}), default=[])
        if len({place(row.point) for row in best}) < 2:
            return None
        series, table = [], []
        unit_time = unit_of((row.time.value for row in best if row.time), SECONDS)
        for engine in dict.fromkeys(row.engine for row in best):
            along: dict[int, Estimate] = {}
            for row in best:
                x, y = place(row.point), figure(row)
                if row.engine == engine and x and y is not None and y.value > 0:
                    along.setdefault(x, y)
            name = self.view.title(engine)
            if along:
                series.append(Series(name, sorted((float(x), y) for x, y in along.items()), self.marks[engine]))
            show = duration if not unit else sig
            table += [(name, str(x), show(y.value), interval(y, show)) for x, y in sorted(along.items())]
        others = best[0].point
        fixed = [f"batch {others.batch}"] if key != "batch" else []
        fixed += [f"length {others.length}"] if key != "length" and others.length else []
        return lines(
            series,
            title=f"With {key}",
            axes=(axis, unit or f"{unit_time.name} a call"),
            alt=f"{self.title}: {unit or 'time of a call'} against {axis} for {len(series)} engines.",
            unit=None if unit else unit_time,
            note=f"{joined(fixed).capitalize()}. Both axes are logarithmic." if fixed else "",
            table=Table(("Engine", axis.capitalize(), unit.capitalize() if unit else "Time", "Interval"), table),
            legend=list(dict.fromkeys(row.engine for row in best)),
        )

    def generation(self) -> list[Chart]:
        charts: list[Chart] = []
        rows = self.view.of(self.name, "generate")
        for point in self.view.points(rows):
            here = [row for row in rows if row.point == point]
            for key, title in (("first_token", "time to first token"), ("per_token", "time for each further token")):
                charts += self._dots(here, (key,), f"{capital(title)}, {self.view.place(point)}", "lower is better")
        return charts

    def server(self) -> list[Chart]:
        charts: list[Chart] = []
        rows = self.view.of(self.name, "server")
        for point in self.view.points(rows):
            here = [row for row in rows if row.point == point]
            bounds = {value for row in here if (value := row.number("server", "bound_seconds"))}
            within = f", 99 % within {duration(min(bounds))}" if len(bounds) == 1 else ""
            charts += self._dots(
                here,
                ("server", "held_per_second"),
                f"Load held{within}",
                "calls a second; higher is better",
                timed=False,
            )
        return charts

    def _item(self, row: Row, value: Estimate, text: str) -> Item:
        return Item(self.view.title(row.engine), value, self.marks[row.engine], text)

    def _dots(
        self, rows: Sequence[Row], path: tuple[str, ...], title: str, axis: str, *, timed: bool = True
    ) -> list[Chart]:
        known = [(row, value) for row in rows if (value := row.estimate(*path)) is not None and value.value > 0]
        if not known:
            return []
        unit = unit_of((value.value for _, value in known), SECONDS) if timed else None
        factor = unit.factor if unit else 1.0
        show = duration if timed else sig
        return [
            dots(
                [self._item(row, value, sig(value.value * factor)) for row, value in known],
                title=title,
                axis=f"{unit.name}, {axis}" if unit else axis,
                alt=f"{self.title}: {title} of {len(known)} engines, with intervals.",
                unit=unit,
                table=Table(
                    ("Engine", title, "Interval"),
                    [(self.view.title(row.engine), show(value.value), interval(value, show)) for row, value in known],
                ),
            )
        ]


def _numbers(values: object) -> list[float]:
    return [number for value in (values if isinstance(values, list) else ()) if (number := finite(value)) is not None]


def _length(point: Point) -> int | None:
    return int(point.length) if point.length.isdecimal() else None
