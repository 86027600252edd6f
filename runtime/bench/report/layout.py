"""How every chart is laid out: axes, rows with their labels, marks. Nothing here has a text colour: the page has."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from precast.runtime.bench.report.palette import Mark
from precast.runtime.bench.report.scales import logarithmic
from precast.runtime.bench.report.text import esc, shortened, sig
from precast.runtime.bench.statistics import Estimate

__all__ = [
    "bar_of",
    "bounds_of",
    "faint",
    "group_layout",
    "known_interval",
    "log_axis",
    "log_range",
    "marker_of",
    "markup",
    "plane_layout",
    "row_layout",
    "shape",
    "tick_texts",
]

FONT = 'system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif'
GRID = "rgba(128,128,128,0.22)"
_LABEL = 17  # characters of a row's label in one line: a phone must have room for the marks


def _base(axis: str) -> dict[str, Any]:
    return {
        "font": {"family": FONT, "size": 12.5},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "showlegend": False,
        "hovermode": "closest",
        "hoverlabel": {"bgcolor": "#22262d", "bordercolor": "#22262d", "font": {"color": "#f4f3ef", "size": 12.5}},
        # However small a phone makes it, no label is left without its room.
        "minreducedwidth": 40,
        "minreducedheight": 20,
        "margin": {"l": 8, "r": 14, "t": 8, "b": 8},
        "xaxis": {
            "title": {"text": axis, "standoff": 8, "font": {"size": 12.5}},
            "automargin": True,
            "gridcolor": GRID,
            "zeroline": False,
            "fixedrange": True,
        },
        "yaxis": {"automargin": True, "zeroline": False, "fixedrange": True},
        "dragmode": False,
    }


def row_layout(labels: Sequence[str], texts: Sequence[str], axis: str) -> dict[str, Any]:
    """Rows from top to bottom, the label on the left and the figure on the right."""
    wrapped = [shortened(label, _LABEL) for label in labels]
    most = max(len(parts) for parts in wrapped)
    layout = _base(axis)
    layout["height"] = len(labels) * (26 if most == 1 else 36) + 66
    layout["margin"] |= {"r": 16 + round(7.6 * max(map(len, texts)))}
    layout["yaxis"] |= {
        "range": [len(labels) - 0.4, -0.6],
        "tickvals": list(range(len(labels))),
        "ticktext": ["<br>".join(esc(part) for part in parts) for parts in wrapped],
        "showgrid": False,
        "ticks": "",
        "ticklabelstandoff": 6,
    }
    layout["annotations"] = [
        {
            "x": 1,
            "xref": "paper",
            "xanchor": "left",
            "xshift": 8,
            "y": place,
            "text": markup(text),
            "showarrow": False,
            "font": {"size": 12.5},
        }
        for place, text in enumerate(texts)
    ]
    return layout


def group_layout(labels: Sequence[str], sizes: Sequence[int], axis: str) -> tuple[dict[str, Any], list[list[float]]]:
    """Groups of rows from top to bottom, one label a group; and the place of every row."""
    wrapped = [shortened(label, _LABEL) for label in labels]
    places: list[list[float]] = []
    top = 0.0
    for parts, count in zip(wrapped, sizes, strict=True):
        room = max(count, 1 + len(parts))  # a line of a label is as high as a row and a half
        places.append([top + (room - count) / 2 + row for row in range(count)])
        top += room + 1
    layout = _base(axis)
    layout["height"] = round(11 * top) + 74
    layout["yaxis"] |= {
        "range": [top, -1],
        "tickvals": [(rows[0] + rows[-1]) / 2 for rows in places],
        "ticktext": ["<br>".join(esc(part) for part in parts) for parts in wrapped],
        "showgrid": False,
        "ticks": "",
        "ticklabelstandoff": 6,
    }
    return layout, places


def plane_layout(axes: tuple[str, str]) -> dict[str, Any]:
    layout = _base(axes[0])
    layout["yaxis"] |= {"title": {"text": axes[1], "standoff": 8, "font": {"size": 12.5}}, "gridcolor": GRID}
    return layout


def marker_of(mark: Mark, size: float, hollow: bool | None = None) -> dict[str, Any]:
    symbol = f"{mark.symbol}-open" if (mark.hollow if hollow is None else hollow) else mark.symbol
    width = 2.2 if symbol.endswith("-open") else 0
    return {"color": mark.colour, "symbol": symbol, "size": size, "line": {"width": width, "color": mark.colour}}


def bar_of(mark: Mark) -> dict[str, Any]:
    filled = faint(mark.colour) if mark.hollow else mark.colour
    return {"color": filled, "line": {"color": mark.colour, "width": 1.6 if mark.hollow else 0}}


def faint(colour: str) -> str:
    red, green, blue = (int(colour[at : at + 2], 16) for at in (1, 3, 5))
    return f"rgba({red},{green},{blue},0.22)"


def shape(**keys: Any) -> dict[str, Any]:
    return {"xref": "x", "yref": "paper", "layer": "below", **keys}


def bounds_of(value: Estimate, factor: float) -> tuple[float, float, float]:
    """(value, low, high); an unknown interval has no width."""
    known = value.low > 0 and math.isfinite(value.high)
    low, high = (value.low, value.high) if known else (value.value, value.value)
    return value.value * factor, low * factor, high * factor


def known_interval(low: float, high: float, suffix: str = "") -> str:
    return f"<br>interval {sig(low)} to {sig(high)}{suffix}" if high > low else ""


def log_range(values: Sequence[float], pad: float = 0.06) -> tuple[float, float]:
    kept = [value for value in values if value > 0] or [1.0]
    low, high = min(kept), max(kept)
    if high / low < 1.6:  # nearly one value: a log axis over nothing would make noise look large
        low, high = low / 1.25, high * 1.25
    room = (high / low) ** pad
    return low / room, high * room


def log_axis(low: float, high: float, *, first: Sequence[float] = (), suffix: str = "") -> dict[str, Any]:
    ticks = logarithmic(low, high, first=first, suffix=suffix)
    return {"type": "log", "range": [math.log10(low), math.log10(high)], **tick_texts(ticks)}


def tick_texts(ticks: Sequence[tuple[float, str]]) -> dict[str, Any]:
    return {"tickvals": [value for value, _ in ticks], "ticktext": [text for _, text in ticks]}


def markup(text: str) -> str:
    """Text where Plotly reads markup and %{...} references; line breaks stay."""
    return "<br>".join(esc(part).replace("%{", "% {") for part in text.split("\n"))
