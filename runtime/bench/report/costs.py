"""What an engine costs beside its speed, as bars: cold start, memory, export, install size, import time."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial

from precast.runtime.bench.report.charts import Chart, Item, bars
from precast.runtime.bench.report.palette import Mark
from precast.runtime.bench.report.text import BYTES, SECONDS, Unit, duration, finite, sig, size, unit_of
from precast.runtime.bench.report.view import View, as_estimate
from precast.runtime.bench.report.words import Table, interval
from precast.runtime.bench.statistics import Estimate

__all__ = ["costs", "installs"]


def costs(view: View, workload: str, marks: dict[str, Mark]) -> list[Chart]:
    """Bars of one workload: cold start, peak memory, export."""
    charts: list[Chart] = []
    draw = partial(bar_chart, view, marks, of=view.workload_title(workload))
    for row_point in view.points(view.of(workload, "cold"))[:1]:
        here = [row for row in view.of(workload) if row.point == row_point]
        charts += draw(
            [(row.engine, row.time) for row in here], "Cold start", SECONDS, "a fresh process to its first result"
        )
    peaks: dict[str, Estimate] = {}
    device: dict[str, Estimate] = {}
    for row in view.of(workload):
        for found, key in ((peaks, "peak_bytes"), (device, "device_bytes")):
            peak = row.number("memory", key)
            if peak and peak > found.get(row.engine, _exact(0.0)).value:
                found[row.engine] = _exact(peak)
    charts += draw(peaks.items(), "Memory, peak of the process", BYTES, "over all points")
    charts += draw(device.items(), "Memory of the device, peak", BYTES, "over all points")
    exports = [entry for entry in view.exports if str(entry.get("workload")) == workload and "engine" in entry]
    for key, title, units, axis in (
        ("seconds", "Export or conversion, time", SECONDS, "done once"),
        ("peak_bytes", "Export or conversion, peak memory", BYTES, "done once"),
        ("size_bytes", "Size of what is loaded", BYTES, "on disk"),
    ):
        charts += draw(((str(entry["engine"]), as_estimate(entry.get(key))) for entry in exports), title, units, axis)
    return charts


def bar_chart(
    view: View,
    marks: dict[str, Mark],
    values: Iterable[tuple[str, Estimate | None]],
    title: str,
    units: Sequence[Unit],
    axis: str,
    of: str,
) -> list[Chart]:
    """One chart of bars, or none where no engine has a figure."""
    known = [(engine, value) for engine, value in values if value is not None and value.value > 0 and engine in marks]
    if not known:
        return []
    unit = unit_of((value.value for _, value in known), units)
    show = duration if units is SECONDS else size
    items = [Item(view.title(engine), value, marks[engine], sig(value.value * unit.factor)) for engine, value in known]
    rows = [
        (view.title(engine), show(value.value), interval(value, show) if value.high > value.low else "")
        for engine, value in known
    ]
    words = f"{of}: {title.lower()} of {len(known)} engines in {unit.name}; shorter is better."
    return [
        bars(
            items,
            title=title,
            axis=f"{unit.name}, {axis}",
            alt=words,
            unit=unit,
            table=Table(("Engine", title, "Interval"), rows),
        )
    ]


def installs(view: View, marks: dict[str, Mark]) -> list[Chart]:
    """What an engine costs before any model: size of its environment and time of its import."""
    entries = [entry for entry in view.installs if "engine" in entry]
    sizes = [(str(entry["engine"]), _maybe(entry.get("size_bytes"))) for entry in entries]
    imports = [(str(entry["engine"]), as_estimate(entry.get("import_seconds"))) for entry in entries]
    return [
        *bar_chart(view, marks, sizes, "Installed size", BYTES, "with all dependencies", "All engines"),
        *bar_chart(view, marks, imports, "Import time", SECONDS, "a fresh process", "All engines"),
    ]


def _exact(value: float) -> Estimate:
    return Estimate(value, value, value, 1)


def _maybe(value: object) -> Estimate | None:
    number = finite(value)
    return None if number is None else _exact(number)
