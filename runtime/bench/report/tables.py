"""The record as tables: all rows, the absent, the environment; and the whole of it as Markdown."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from precast.runtime.bench.report.text import capital, count, duration, engineering, finite, plural, sig, size
from precast.runtime.bench.report.text import times as ratio_text
from precast.runtime.bench.report.view import Row, View, as_estimate
from precast.runtime.bench.report.words import Table, glance, interval, summary

__all__ = ["READING", "absent", "described", "engines", "environment", "headline", "markdown", "rows"]

READING = (
    "An interval is where a repeat of the whole run, in fresh processes, is expected to land 95 times of 100. It comes "
    "from how much the launches of this run differ, not from how much the calls within one launch do.",
    "A ratio is the peer's time divided by ours, from turns taken next to each other. Above 1 Precast is faster. Where "
    "an interval reaches 1 the run cannot tell the two apart.",
    "Hollow marks are engines in a reduced precision. In the ratios a hollow mark is a peer in another precision than "
    "ours: int8 against fp32 is not the same computation, and the errors beside the times tell what it costs.",
    "Every contender had the same weights, inputs and threads, ran in a process of its own, and had its result "
    "compared with the reference before anything was timed.",
)


def headline(view: View) -> list[tuple[str, str]]:
    """(what, value) for the top of the page."""
    machine, settings = view.machine, view.settings
    found = [("", str(machine.get("cpu") or "unknown CPU"))]
    given = settings.get("threads")
    threads = [value for each in (given if isinstance(given, list) else [given]) if (value := finite(each))]
    if threads:
        found.append(("thread" if threads == [1] else "threads", ", ".join(map(count, threads))))
    device = _device(machine.get("device"))
    found.append(("", device) if device else ("no accelerator in this run", ""))
    launches = finite(settings.get("launches"))
    if launches:
        found.append(("launch" if launches == 1 else "launches", count(launches)))
    created = str(view.raw.get("created") or "")
    return [*found, ("", created[:10])] if created else found


def described(about: Mapping[str, Any]) -> str:
    parts = [str(about.get("description") or "").strip().rstrip(".")]
    parameters = finite(about.get("parameters"))
    parts += [f"{engineering(parameters)} parameters".replace(" G p", " B p")] if parameters else []
    return ". ".join(part for part in parts if part) + "." if any(parts) else ""


def rows(view: View, workload: str) -> Table:
    """Every row of a workload; columns that would be empty are left out."""
    found = view.of(workload)
    columns: dict[str, list[str]] = {
        "Engine": [view.title(row.engine) for row in found],
        "Precision": [row.precision for row in found],
        "Scenario": [row.point.scenario for row in found],
        "Batch × length": [view.place(row.point, long=False).split(", ")[-1] for row in found],
        "Threads": [str(row.point.threads or "") for row in found],
        "Device": [row.point.device for row in found],
        "Time": [_estimate(row, duration, "time") for row in found],
        "Device time": [_estimate(row, duration, "device_time") for row in found],
        "Floor": [_estimate(row, duration, "floor") for row in found],
        **{name: [_plain(row, duration, "quantiles", name) for row in found] for name in ("p50", "p90", "p99")},
        "Throughput": [_throughput(row) for row in found],
        "First token": [_estimate(row, duration, "first_token") for row in found],
        "Per token": [_estimate(row, duration, "per_token") for row in found],
        "Load held": [_estimate(row, lambda rate: f"{sig(rate)}/s", "server", "held_per_second") for row in found],
        "Peak memory": [_bytes(row, "peak_bytes") for row in found],
        "Device memory": [_bytes(row, "device_bytes") for row in found],
        "Error": [f"{sig(row.error[1])} ({row.error[0]})" if row.error else "" for row in found],
        "Against": [str(row.get("error", "against") or "") for row in found],
    }
    kept = {name: cells for name, cells in columns.items() if any(cells)}
    return Table(list(kept), list(zip(*kept.values(), strict=True)))


def absent(view: View) -> Table:
    listed = [
        (
            view.title(str(entry.get("engine") or "unnamed")),
            view.workload_title(str(entry["workload"])) if entry.get("workload") else "all",
            str(entry.get("reason") or "no reason recorded"),
        )
        for entry in view.absent
    ]
    return Table(("Contender", "Workload", "Why it is absent"), listed)


def engines(view: View) -> Table:
    listed = []
    for name, about in view.engines.items():
        versions = about.get("versions")
        others = (
            _pairs({key: value for key, value in versions.items() if key != about.get("package")})
            if isinstance(versions, Mapping)
            else ""
        )
        package = " ".join(str(about[key]) for key in ("package", "version") if about.get(key))
        listed.append(
            (view.title(name), package, str(about.get("precision") or ""), str(about.get("python") or ""), others)
        )
    return Table(("Engine", "Package", "Precision", "Python", "With"), listed)


def environment(view: View) -> list[tuple[str, str]]:
    machine = view.machine
    features = machine.get("features")
    memory = finite(machine.get("memory_bytes"))
    found = [
        ("Date", str(view.raw.get("created") or "")),
        ("CPU", str(machine.get("cpu") or "")),
        ("Cores", str(machine.get("cores") or "")),
        ("Instruction sets", ", ".join(map(str, features)) if isinstance(features, list) else ""),
        ("Memory", size(memory) if memory else ""),
        ("System", str(machine.get("system") or "")),
        ("Accelerator", _device(machine.get("device")) or "none in this run"),
        ("Settings", _pairs(view.settings)),
        ("Calibration", _calibration(view)),
    ]
    return [(name, value) for name, value in found if value]


def markdown(record: dict[str, Any]) -> str:
    """The record as Markdown: summaries, a table of ratios, one of figures a workload, the absent, the environment.

    Raises:
        InputError: ``record`` is of another format.
    """
    view = View(record)
    parts = []
    cells = glance(view)
    if cells:
        peers = [name for name in view.peers if any(peer == name for _, peer in cells)]
        lines = [
            [view.workload_title(name), *(_cell(cells.get((name, peer))) for peer in peers)]
            for name in dict.fromkeys(name for name, _ in cells)
        ]
        parts.append(_markdown(Table(["times as fast as", *map(view.title, peers)], lines)))
    if not view.rows:
        parts.append("This record has no rows: nothing was measured, or nothing could be.")
    for name in view.workloads:
        if any(row.workload == name for row in view.rows):
            parts += _section(view, name)
    if view.absent:
        parts += ["### Not in this run", _markdown(absent(view))]
    parts += ["### Environment", "\n".join(f"- {_text(name)}: {_text(value)}" for name, value in environment(view))]
    versions = engines(view)
    if versions.rows:
        parts.append(_markdown(versions))
    if view.raw.get("command"):
        parts += ["To repeat it:", "\n".join(f"    {line}" for line in str(view.raw["command"]).splitlines())]
    parts.append(READING[0])
    return "\n\n".join(part for part in parts if part) + "\n"


def _section(view: View, name: str) -> list[str]:
    about = summary(view, name)
    parts = [f"### {_text(view.workload_title(name))}", _text(described(view.workloads[name]))]
    for heading, lines in (("Behind", about.behind), ("Perhaps behind: the interval reaches level", about.unsure)):
        if lines:
            parts += [f"**{heading}**", "\n".join(f"- {_text(capital(line))}" for line in lines)]
    parts += [_text(about.lead), "\n".join(f"- {_text(line)}" for line in about.more)]
    compared = [
        (
            view.place(item.theirs.point),
            view.title(item.ours.engine),
            view.title(item.theirs.engine),
            ratio_text(item.ratio.value),
            interval(item.ratio) or "not known",
            "" if item.alike else f"{item.theirs.precision} against our {item.ours.precision}",
        )
        for item in view.comparisons
        if item.theirs.workload == name
    ]
    if compared:
        parts.append(_markdown(Table(("At", "Ours", "Peer", "As fast", "Interval", "Precision"), compared)))
    return [*parts, _markdown(rows(view, name))]


def _markdown(table: Table) -> str:
    lines = ["| " + " | ".join(_text(cell) for cell in row) + " |" for row in (table.columns, *table.rows)]
    return "\n".join([lines[0], "| " + " | ".join("---" for _ in table.columns) + " |", *lines[1:]])


def _text(value: str) -> str:
    """Text of a record as text: no markup of Markdown's tables or of HTML, on one line."""
    for plain, safe in (("\\", "\\\\"), ("&", "&amp;"), ("<", "&lt;"), ("|", "\\|"), ("`", "\\`"), ("*", "\\*")):
        value = value.replace(plain, safe)
    return " ".join(value.split())


def _cell(cell: tuple[str, str, str] | None) -> str:
    return " ".join(part for part in (cell[0], cell[2] and f"({cell[2]})") if part) if cell else ""


def _estimate(row: Row, show: Callable[[float], str], *path: str) -> str:
    value = row.estimate(*path)
    if value is None:
        return ""
    known = interval(value, show)
    return f"{show(value.value)} ({known})" if known else show(value.value)


def _plain(row: Row, show: Callable[[float], str], *path: str) -> str:
    value = row.estimate(*path)
    return "" if value is None else show(value.value)


def _bytes(row: Row, key: str) -> str:
    value = row.number("memory", key)
    return size(value) if value else ""


def _throughput(row: Row) -> str:
    return ", ".join(
        f"{sig(value.value)} {name.removesuffix('_per_second').replace('_', ' ')}/s"
        for name, value in row.throughput.items()
    )


def _device(device: Any) -> str:
    if not isinstance(device, Mapping):
        return str(device or "")
    memory, clocks = finite(device.get("memory_bytes")), device.get("clocks")
    parts = [str(device.get("name") or "unnamed")]
    parts += [f"driver {device['driver']}"] if device.get("driver") else []
    parts += [size(memory)] if memory else []
    parts += [f"clocks {_pairs(clocks)}"] if isinstance(clocks, Mapping) and clocks else []
    return ", ".join(parts)


def _calibration(view: View) -> str:
    about = view.calibration
    gemm = about.get("gemm")
    known = {name: as_estimate(value) for name, value in gemm.items()} if isinstance(gemm, Mapping) else {}
    parts = [f"{name} products {engineering(value.value)}op/s" for name, value in known.items() if value]
    read = as_estimate(about.get("read"))
    parts += [f"reads {sig(read.value / 1e9)} GB/s"] if read else []
    threads = finite(about.get("threads"))
    parts += [f"with {plural(int(threads), 'thread')}"] if threads and parts else []
    return ", ".join(parts)


def _pairs(values: Any) -> str:
    if not isinstance(values, Mapping):
        return ""
    return ", ".join(
        f"{str(name).replace('_', ' ')} {value if isinstance(value, str) else json.dumps(value, default=str)}"
        for name, value in values.items()
    )
