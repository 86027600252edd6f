"""What a workload's rows say, in plain sentences: where we are behind comes first."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from precast.runtime.bench.report.text import duration, plural, sig
from precast.runtime.bench.report.view import Comparison, Row, View
from precast.runtime.bench.statistics import Estimate

__all__ = ["Summary", "Table", "glance", "interval", "spread", "summary"]


@dataclass(frozen=True)
class Table:
    """The same figures as text."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Summary:
    """``behind`` beyond the interval, ``unsure``: a sentence a place; ``lead``: over all; ``more``: peer by peer."""

    lead: str
    behind: list[str]
    unsure: list[str]
    more: list[str]


def interval(value: Estimate, show: Callable[[float], str] = sig) -> str:
    """``1.20 to 1.27``, or an empty text where nothing is known."""
    return f"{show(value.low)} to {show(value.high)}" if value.low > 0 and math.isfinite(value.high) else ""


def spread(values: Sequence[float]) -> str:
    """``1.2 to 3.1 ×``, or one figure."""
    low, high = sig(min(values)), sig(max(values))
    return f"{low} ×" if low == high else f"{low} to {high} ×"


def summary(view: View, workload: str) -> Summary:
    """A workload in words."""
    found = [item for item in view.comparisons if item.theirs.workload == workload]
    places = [
        *(
            (_behind(view, item), item.certain)
            for item in sorted(found, key=lambda item: item.ratio.value)
            if item.behind
        ),
        *_served(view, workload),
    ]
    behind = [line for line, certain in places if certain]
    unsure = [line for line, certain in places if not certain]
    if not found:
        return Summary(_alone(view, workload), behind, unsure, _variants(view, workload))
    alike = [item for item in found if item.alike]
    more = []
    for peer in dict.fromkeys(item.theirs.engine for item in found):
        items = [item for item in found if item.theirs.engine == peer]
        more.append(_beside(view, peer, items))
    return Summary(_lead(alike, found), behind, unsure, more)


def _lead(alike: list[Comparison], found: list[Comparison]) -> str:
    peers = {item.theirs.engine for item in alike}
    if not alike:
        return (
            f"No peer computes in a precision of ours here; {plural(len(found), 'comparison')} across precisions "
            "below are marked as such."
        )
    ahead = sum(item.ratio.value > 1 and item.certain for item in alike)
    lost = sum(item.behind and item.certain for item in alike)
    level = len(alike) - ahead - lost
    parts = [f"ahead in {ahead}"] if ahead else []
    parts += [f"level within the interval in {level}"] if level else []
    parts += [f"behind in {lost}"] if lost else []
    counted = ", ".join(parts)
    if ahead == len(alike):
        counted = "ahead in all of them"
    elif lost == len(alike):
        counted = "behind in all of them"
    return (
        f"Against {plural(len(peers), 'peer')} in the same precision, {plural(len(alike), 'comparison')}: "
        f"Precast is {counted}."
    )


def _beside(view: View, peer: str, items: list[Comparison]) -> str:
    ours = " and ".join(dict.fromkeys(view.title(item.ours.engine) for item in items))
    values = [item.ratio for item in items]
    text = f"{ours}: {_over(values)} as fast as {view.title(peer)}{_doubt(values)}"
    if not all(item.alike for item in items):
        text += f", {_unlike(items[0])}"
    return text + "."


def _over(values: Sequence[Estimate]) -> str:
    return spread([value.value for value in values])


def _doubt(values: Sequence[Estimate]) -> str:
    """Over how many points, and at how many of them the interval reaches level."""
    level = sum(value.low <= 1 <= value.high for value in values)
    if not level:
        return f" ({plural(len(values), 'point')})"
    if len(values) == 1:
        return " (1 point; the interval reaches level)"
    return f" ({len(values)} points; the interval reaches level at {level if level < len(values) else 'all'})"


def _unlike(item: Comparison) -> str:
    theirs, ours = item.theirs.precision or "unknown precision", item.ours.precision or "unknown precision"
    return f"which is {theirs} against our {ours} and so not the same computation"


def _behind(view: View, item: Comparison) -> str:
    """One place where the peer is faster."""
    value = item.ratio
    longer = Estimate(1 / value.value, 1 / value.high, 1 / value.low if value.low else math.inf, value.runs)
    place = view.place(item.theirs.point)
    ours, theirs = view.title(item.ours.engine), view.title(item.theirs.engine)
    if longer.value >= 2:
        takes = f"takes {sig(longer.value)} times as long as {theirs}"
        known = interval(longer)
    else:
        takes = f"takes {sig((longer.value - 1) * 100, 2)} % longer than {theirs}"
        low, high = ((bound - 1) * 100 for bound in (longer.low, longer.high))
        known = f"{sig(low, 2)} to {sig(high, 2)} %" if longer.low > 0 and math.isfinite(high) else ""
    text = f"{place}: {ours} {takes}"
    text += f" (interval {known})" if known else " (no interval known)"
    if not item.alike:
        text += f"; {_unlike(item)}"
    return text + "."


def _served(view: View, workload: str) -> list[tuple[str, bool]]:
    """Where a peer holds more load, or sends its first token sooner."""
    found = []
    for what, path, better, scenarios in (
        ("holds {} % less load than {}", ("server", "held_per_second"), 1, ("server",)),
        ("takes {} % longer to the first token than {}", ("first_token",), -1, ("generate",)),
    ):
        rows = view.of(workload, *scenarios)
        for theirs in rows:
            if theirs.engine in view.ours:
                continue
            for ours in rows:
                same = ours.point == theirs.point and ours.precision == theirs.precision
                mine, other = ours.estimate(*path), theirs.estimate(*path)
                if ours.engine not in view.ours or not same or not mine or not other or other.value <= 0:
                    continue
                if mine.value and (mine.value - other.value) * better < 0:
                    share = sig(abs(mine.value / other.value - 1) * 100, 2)
                    text = what.format(share, view.title(theirs.engine))
                    apart = mine.high < other.low or other.high < mine.low
                    found.append((f"{view.place(theirs.point)}: {view.title(ours.engine)} {text}.", apart))
    return found


def _timed(view: View, workload: str) -> list[Row]:
    return [row for row in view.of(workload) if row.time is not None and row.point.scenario not in ("cold", "server")]


def _alone(view: View, workload: str) -> str:
    """Without peers: what a call takes, at the first point and the last."""
    rows = _timed(view, workload)
    if not rows:
        return "No times in this record for this workload."
    first = [row for row in rows if row.engine == rows[0].engine]
    said = []
    for row in dict.fromkeys((first[0], first[-1])):
        assert row.time is not None
        known = interval(row.time, duration)
        said.append(f"{duration(row.time.value)} at {view.place(row.point)}" + (f" ({known})" if known else ""))
    return f"{view.title(rows[0].engine)} takes {' and '.join(said)}. No peers in this run."


def _variants(view: View, workload: str) -> list[str]:
    rows = _timed(view, workload)
    found = []
    for engine in dict.fromkeys(row.engine for row in rows):
        pairs = [
            view.ratio(other, row)
            for row in rows
            for other in rows
            if row.engine == engine != rows[0].engine == other.engine and row.point == other.point
        ]
        values = [value for value in pairs if value is not None]
        if values:
            found.append(
                f"{view.title(engine)}: {_over(values)} as fast as {view.title(rows[0].engine)}{_doubt(values)}."
            )
    return found


def glance(view: View) -> dict[tuple[str, str], tuple[str, str, str]]:
    """(workload, peer) -> (ratios from worst to best, ``ahead | lost | level``, a remark), same precision only."""
    found: dict[tuple[str, str], list[Comparison]] = {}
    for item in view.comparisons:
        if item.alike:
            found.setdefault((item.theirs.workload, item.theirs.engine), []).append(item)
    cells = {}
    for place, items in found.items():
        text = spread([item.ratio.value for item in items])
        lost = [item for item in items if item.behind and item.certain]
        near = [item for item in items if not item.certain]
        of = f" of {len(items)}" if len(items) > 1 else ""
        if lost:
            cells[place] = (text, "lost", f"behind at {len(lost)}{of}")
        elif near:
            cells[place] = (text, "level", f"level at {len(near)}{of}")
        else:
            cells[place] = (text, "ahead", "")
    return cells
