"""The kinds of charts, by Plotly's own validated objects. Text colours come from the page's style, never from here.

Every function takes what is to be drawn and returns a `Chart`; one that would be empty is None.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from precast.runtime.bench.report.layout import (
    bar_of,
    bounds_of,
    faint,
    group_layout,
    known_interval,
    log_axis,
    log_range,
    marker_of,
    markup,
    plane_layout,
    row_layout,
    shape,
    tick_texts,
)
from precast.runtime.bench.report.palette import Mark
from precast.runtime.bench.report.scales import linear, logarithmic
from precast.runtime.bench.report.text import Unit, count
from precast.runtime.bench.report.words import Table
from precast.runtime.bench.statistics import Estimate
from precast.runtime.errors import DependencyError

__all__ = ["Chart", "Item", "Series", "bars", "boxes", "dots", "lines", "plotly", "races", "scatter"]


@dataclass(frozen=True)
class Chart:
    """A figure with its words. ``alt`` says what it shows to who cannot see it; ``legend`` names engines."""

    title: str
    alt: str
    figure: dict[str, Any]
    height: int
    table: Table | None = None
    note: str = ""
    legend: Sequence[str] = ()


@dataclass(frozen=True)
class Item:
    """One mark or bar: a row's label, a figure, its look. ``text`` ends the row; ``hollow`` overrules the mark."""

    label: str
    value: Estimate
    mark: Mark
    text: str
    hollow: bool | None = None


@dataclass(frozen=True)
class Series:
    """One line: (x, figure) in order of x."""

    label: str
    points: Sequence[tuple[float, Estimate]]
    mark: Mark
    hover: Sequence[str] = field(default_factory=tuple)


def plotly() -> tuple[Any, str]:
    """plotly.graph_objects and plotly.js as text.

    Raises:
        DependencyError: plotly is not installed.
    """
    try:
        import plotly.graph_objects as objects
        from plotly.offline import get_plotlyjs
    except ImportError as error:
        raise DependencyError(
            'A page needs plotly, which is not installed: pip install "precast[report]". '
            "The Markdown tables and the JSON record need nothing."
        ) from error
    return objects, str(get_plotlyjs())


def dots(
    items: Sequence[Item],
    *,
    title: str,
    axis: str,
    alt: str,
    unit: Unit | None = None,
    level: bool = False,
    reach: Sequence[float] = (),
    note: str = "",
    table: Table | None = None,
    suffix: str = "",
) -> Chart:
    """A row an item: dot and interval on a log axis. ``level``: a line at 1; ``reach``: values that must fit in."""
    go, _ = plotly()
    factor = unit.factor if unit else 1.0
    shown = [(item, *bounds_of(item.value, factor)) for item in items]
    values = [number for _, *figures in shown for number in figures]
    low, high = log_range([*values, *reach, *([1.0] if level else [])])
    traces = []
    for place, (item, value, least, most) in enumerate(shown):
        traces.append(
            go.Scatter(
                x=[value],
                y=[place],
                mode="markers",
                marker=marker_of(item.mark, 10, item.hollow),
                error_x={
                    "type": "data",
                    "array": [most - value],
                    "arrayminus": [value - least],
                    "thickness": 2.4,
                    "width": 0,
                    "color": item.mark.colour,
                },
                hovertemplate=_hover(item, known_interval(least, most, suffix)),
            )
        )
    shapes = []
    if level:
        shapes = [
            shape(type="rect", x0=low, x1=1, y0=0, y1=1, fillcolor="rgba(128,128,128,0.10)", line={"width": 0}),
            shape(type="line", x0=1, x1=1, y0=0, y1=1, line={"color": "rgba(128,128,128,0.9)", "width": 1.4}),
        ]
    layout = row_layout([item.label for item in items], [item.text for item in items], axis)
    if level:
        for item, beside in zip(items, layout["annotations"], strict=True):
            beside["text"] = f"<b>{beside['text']}</b>" if item.value.value < 1 else beside["text"]
    layout["xaxis"] |= log_axis(low, high, first=[1.0] if level else (), suffix=suffix)
    layout |= {"shapes": shapes}
    return _chart(go, traces, layout, title=title, alt=alt, note=note, table=table)


def bars(
    items: Sequence[Item], *, title: str, axis: str, alt: str, unit: Unit, note: str = "", table: Table | None = None
) -> Chart:
    """A bar an item from zero, with its interval where one is known."""
    go, _ = plotly()
    shown = [(item, *bounds_of(item.value, unit.factor)) for item in items]
    top = max(most for *_, most in shown) or 1.0
    traces = [
        go.Bar(
            x=[value],
            y=[place],
            orientation="h",
            width=0.56,
            marker=bar_of(item.mark),
            error_x={
                "type": "data",
                "array": [most - value],
                "arrayminus": [value - least],
                "thickness": 1.6,
                "width": 4,
                "color": "rgb(128,128,128)",
                "visible": most > least,
            },
            hovertemplate=_hover(item, known_interval(least, most)),
        )
        for place, (item, value, least, most) in enumerate(shown)
    ]
    layout = row_layout([item.label for item in items], [item.text for item in items], axis)
    ticks = linear(0.0, top * 1.04, most=5)
    layout["xaxis"] |= {"range": [0, top * 1.04], **tick_texts(ticks)}
    return _chart(go, traces, layout, title=title, alt=alt, note=note, table=table)


def races(
    groups: Sequence[tuple[str, Sequence[Item]]],
    *,
    title: str,
    axis: str,
    alt: str,
    table: Table,
    legend: Sequence[str],
) -> Chart:
    """Ratios as bars from the level line on a log axis, to the right above 1 and to the left below; a group a point."""
    go, _ = plotly()
    layout, places = group_layout([label for label, _ in groups], [len(items) for _, items in groups], axis)
    shown = [
        (label, item, place, *bounds_of(item.value, 1.0))
        for (label, items), rows in zip(groups, places, strict=True)
        for item, place in zip(items, rows, strict=True)
    ]
    traces = []
    for mark in dict.fromkeys(item.mark for _, item, *_ in shown):
        own = [one for one in shown if one[1].mark == mark]
        traces.append(
            go.Bar(
                base=[1] * len(own),
                x=[value - 1 for *_, value, _, _ in own],
                y=[place for _, _, place, *_ in own],
                orientation="h",
                width=0.86,
                marker=bar_of(mark),
                error_x={
                    "type": "data",
                    "array": [most - value for *_, value, _, most in own],
                    "arrayminus": [value - least for *_, value, least, _ in own],
                    "thickness": 1.2,
                    "width": 0,
                    "color": "rgb(128,128,128)",
                },
                hovertemplate=[
                    f"{markup(label)}<br>{_hover(item, known_interval(least, most, ' ×'))}"
                    for label, item, _, _, least, most in own
                ],
            )
        )
    values = [1.0, *(figure for *_, value, least, most in shown for figure in (value, least, most))]
    low, high = log_range(values)
    layout["xaxis"] |= log_axis(low, high, first=[1.0], suffix=" ×")
    layout["barmode"] = "overlay"
    layout["shapes"] = [
        shape(type="rect", x0=low, x1=1, y0=0, y1=1, fillcolor="rgba(128,128,128,0.10)", line={"width": 0}),
        shape(type="line", x0=1, x1=1, y0=0, y1=1, line={"color": "rgb(128,128,128)", "width": 2}) | {"layer": "above"},
    ]
    return _chart(go, traces, layout, title=title, alt=alt, note="", table=table, legend=legend)


def boxes(
    items: Sequence[tuple[Item, Sequence[float]]],
    *,
    title: str,
    axis: str,
    alt: str,
    unit: Unit,
    note: str = "",
    table: Table | None = None,
) -> Chart:
    """A row an item: the middle half as a box, the median in it, a line from the 1st to the 99th percentile.

    Args:
        items: with the 1st, 25th, 50th, 75th and 99th percentile each.
    """
    go, _ = plotly()
    traces = []
    values = [figure * unit.factor for _, figures in items for figure in figures]
    low, high = log_range(values)
    for place, (item, figures) in enumerate(items):
        lowest, first, middle, third, highest = (figure * unit.factor for figure in figures)
        traces.append(
            go.Box(
                lowerfence=[lowest],
                q1=[first],
                median=[middle],
                q3=[third],
                upperfence=[highest],
                y=[place],
                orientation="h",
                width=0.5,
                line={"color": item.mark.colour, "width": 2},
                fillcolor=faint(item.mark.colour),
                whiskerwidth=0.4,
                hoverinfo="x",
            )
        )
    layout = row_layout([item.label for item, _ in items], [item.text for item, _ in items], axis)
    layout["xaxis"] |= log_axis(low, high)
    return _chart(go, traces, layout, title=title, alt=alt, note=note, table=table)


def scatter(
    points: Sequence[tuple[str, float, float, Mark, str]],
    *,
    title: str,
    axes: tuple[str, str],
    alt: str,
    roofs: Sequence[tuple[str, float, float]] = (),
    note: str = "",
    table: Table | None = None,
    legend: Sequence[str] = (),
) -> Chart:
    """Points (engine, x, y, mark, hover) on two log axes; ``roofs``: (name, operations/s, bytes/s) in y's units."""
    go, _ = plotly()
    reach = [peak / read for _, peak, read in roofs]
    left, right = log_range([*(point[1] for point in points), *reach], pad=0.12)
    right *= (right / left) ** 0.3 if roofs else 1.0  # room for the roofs' names beside the points
    bottom, top = log_range([*(point[2] for point in points), *(peak for _, peak, _ in roofs)], pad=0.12)
    traces, notes = [], []
    for place, (name, peak, read) in enumerate(sorted(roofs, key=lambda roof: roof[1])):
        edge = min(max(peak / read, left), right)
        start = max(left, bottom / read) if bottom / read < edge else left
        traces.append(
            go.Scatter(
                x=[start, edge, right],
                y=[min(peak, start * read), min(peak, edge * read), peak],
                mode="lines",
                line={"color": "rgb(128,128,128)", "width": 1.8, "dash": ("solid", "dash", "dot")[place % 3]},
                hoverinfo="skip",
            )
        )
        notes.append(
            {
                "x": math.log10(right),
                "y": math.log10(peak),
                "text": markup(name),
                "showarrow": False,
                "xanchor": "right",
                "yanchor": "bottom",
                "font": {"size": 12},
            }
        )
    for _, x, y, mark, hover in points:
        traces.append(
            go.Scatter(
                x=[x],
                y=[y],
                mode="markers",
                marker=marker_of(mark, 12),
                hovertemplate=f"{markup(hover)}<extra></extra>",
            )
        )
    layout = plane_layout(axes)
    layout["xaxis"] |= log_axis(left, right)
    layout["yaxis"] |= log_axis(bottom, top)
    # The highest roof's name stands above its line.
    layout["margin"]["t"] = 26 if roofs else 8
    layout["annotations"] = notes
    return _chart(go, traces, layout, title=title, alt=alt, note=note, table=table, legend=legend, height=330)


def lines(
    series: Sequence[Series],
    *,
    title: str,
    axes: tuple[str, str],
    alt: str,
    unit: Unit | None = None,
    note: str = "",
    table: Table | None = None,
    legend: Sequence[str] = (),
) -> Chart:
    """A line an engine over batch, length or threads, both axes logarithmic: proportional growth is a straight line."""
    go, _ = plotly()
    factor = unit.factor if unit else 1.0
    traces = []
    places = sorted({x for one in series for x, _ in one.points})
    values: list[float] = []
    for one in series:
        bounds = [bounds_of(value, factor) for _, value in one.points]
        values += [number for bound in bounds for number in bound]
        traces.append(
            go.Scatter(
                x=[x for x, _ in one.points],
                y=[value for value, _, _ in bounds],
                mode="lines+markers",
                marker=marker_of(one.mark, 9),
                line={"color": one.mark.colour, "width": 2.2, "dash": one.mark.dash},
                error_y={
                    "type": "data",
                    "array": [most - value for value, _, most in bounds],
                    "arrayminus": [value - least for value, least, _ in bounds],
                    "thickness": 1.6,
                    "width": 0,
                    "color": one.mark.colour,
                },
                hovertemplate=f"{markup(one.label)}<br>%{{x}}: %{{y:.3~g}} {unit.name if unit else ''}<extra></extra>",
            )
        )
    low, high = log_range(values)
    layout = plane_layout(axes)
    known = [(place, count(place)) for place in places]
    shown = [place for place, _ in logarithmic(places[0], places[-1], most=6, first=[places[0], places[-1], *places])]
    layout["xaxis"] |= log_axis(*log_range(places)) | tick_texts([tick for tick in known if tick[0] in shown])
    layout["yaxis"] |= log_axis(low, high)
    return _chart(go, traces, layout, title=title, alt=alt, note=note, table=table, legend=legend, height=300)


def _hover(item: Item, interval: str) -> str:
    return f"{markup(item.label)}<br>{markup(item.text)}{interval}<extra></extra>"


def _chart(
    go: Any,
    traces: list[Any],
    layout: dict[str, Any],
    *,
    height: int | None = None,
    title: str,
    alt: str,
    note: str,
    table: Table | None,
    legend: Sequence[str] = (),
) -> Chart:
    height = height or layout["height"]
    figure = go.Figure(traces, {**layout, "height": height, "template": go.layout.Template()})
    return Chart(title, alt, json.loads(figure.to_json(validate=False)), height, table, note, legend)
