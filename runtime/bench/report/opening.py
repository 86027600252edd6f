"""What a page opens with: how many times as fast, a bar a peer and point, the level line marked."""

from __future__ import annotations

from collections.abc import Mapping

from precast.runtime.bench.report.charts import Chart, Item, races
from precast.runtime.bench.report.palette import Mark
from precast.runtime.bench.report.text import capital, joined, plural
from precast.runtime.bench.report.text import times as ratio_text
from precast.runtime.bench.report.view import Comparison, View
from precast.runtime.bench.report.words import Table, interval

__all__ = ["opening", "raced"]


def raced(view: View, workload: str) -> dict[str, list[Comparison]]:
    """By point, all comparisons of a workload that are races: the same precision, and not a cold start."""
    found = [
        item
        for item in view.comparisons
        if item.theirs.workload == workload and item.alike and item.theirs.point.scenario != "cold"
    ]
    several = len({item.ours.precision for item in found}) > 1
    precisions = list(dict.fromkeys(item.ours.precision for item in found))
    points = {
        (precision, point): capital(view.place(point)) + (f", {precision}" if several else "")
        for precision in precisions
        for point in view.points(item.theirs for item in found)
    }
    groups = {
        label: [item for item in found if (item.ours.precision, item.theirs.point) == key]
        for key, label in points.items()
    }
    return {label: items for label, items in groups.items() if items}


def opening(view: View, workload: str, marks: Mapping[str, Mark]) -> Chart | None:
    """A workload's picture; None where there is nobody to compare with in a precision of ours."""
    groups = raced(view, workload)
    if not groups:
        return None
    everyone = [item for items in groups.values() for item in items]
    title = view.workload_title(workload)
    behind = dict.fromkeys(view.title(item.theirs.engine) for item in everyone if item.behind)
    rows = [
        (place, view.title(item.theirs.engine), ratio_text(item.ratio.value), interval(item.ratio) or "not known")
        for place, items in groups.items()
        for item in items
    ]
    bars = {place: [_bar(view, item, marks) for item in items] for place, items in groups.items()}
    return races(
        list(bars.items()),
        title=title,
        axis="times as fast; 1 × is level",
        alt=f"{title}: how many times as fast Precast is as its peers, {plural(len(everyone), 'bar')} from the line at "
        f"1 ×. {f'Behind {joined(list(behind))} at some point.' if behind else 'Ahead of all of them.'}",
        table=Table(("At", "Peer", "Precast is × as fast", "Interval"), rows),
        legend=list(dict.fromkeys(item.theirs.engine for item in everyone)),
    )


def _bar(view: View, item: Comparison, marks: Mapping[str, Mark]) -> Item:
    peer = item.theirs.engine
    return Item(view.title(peer), item.ratio, marks[peer], ratio_text(item.ratio.value))
