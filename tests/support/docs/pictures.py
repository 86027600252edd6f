"""The picture of a recorded run as a file: what the benchmark's page opens with, for a page that runs no script."""

from __future__ import annotations

import math
from html import escape
from typing import Any

from precast.runtime.bench.report.layout import log_range
from precast.runtime.bench.report.opening import raced
from precast.runtime.bench.report.palette import marks
from precast.runtime.bench.report.scales import logarithmic
from precast.runtime.bench.report.view import View

__all__ = ["drawing"]

_WIDTH, _LEFT, _RIGHT, _ROW, _LINE = 860, 190, 20, 9, 20
# Read on a light page and on a dark one.
_STYLE = """<style>
text { font: 12.5px system-ui, -apple-system, "Segoe UI", Roboto, Arial, sans-serif; fill: #3d434c; }
.title { font-weight: 650; }
.place { text-anchor: end; }
.tick { text-anchor: middle; }
.grid { stroke: #80808040; }
.level { stroke: #808080; stroke-width: 2; }
.interval { stroke: #808080; }
@media (prefers-color-scheme: dark) { text { fill: #c3c8d0; } }
</style>"""


def drawing(record: dict[str, Any]) -> str:
    """An SVG: a bar a peer and point, from the level line on a log axis, for every workload of a record."""
    view = View(record)
    looks = marks(view)
    workloads = {name: found for name in view.workloads if (found := raced(view, name))}
    everyone = [item for found in workloads.values() for items in found.values() for item in items]
    low, high = log_range([1.0, *(value for item in everyone for value in (item.ratio.value, *_known(item)))])

    def x(value: float) -> float:
        share = math.log(min(max(value, low), high) / low) / math.log(high / low)
        return round(_LEFT + share * (_WIDTH - _LEFT - _RIGHT), 1)

    colours = {view.engines[item.theirs.engine].get("title"): looks[item.theirs.engine].colour for item in everyone}
    parts, y = _legend(colours)
    top = y
    for workload, found in workloads.items():
        y += _LINE
        parts.append(f'<text class="title" x="0" y="{y}">{escape(view.workload_title(workload))}</text>')
        y += _ROW
        for place, items in found.items():
            # A label is as high as two rows.
            room = max(len(items), 2) * _ROW
            parts.append(f'<text class="place" x="{_LEFT - 10}" y="{y + room / 2 + 4}">{escape(place)}</text>')
            for item in items:
                colour, (least, most) = looks[item.theirs.engine].colour, _known(item)
                start, end = sorted((x(1), x(item.ratio.value)))
                title = escape(f"{view.title(item.theirs.engine)}: {item.ratio.value:.2f}")
                bar = f'x="{start}" y="{y + 1}" width="{max(end - start, 0.5):.1f}" height="{_ROW - 2}" fill="{colour}"'
                line = f'x1="{x(least)}" x2="{x(most)}" y1="{y + _ROW / 2}" y2="{y + _ROW / 2}"'
                parts.append(f'<rect {bar}><title>{title}</title></rect><line class="interval" {line}/>')
                y += _ROW
            y += max(0, room - len(items) * _ROW) + _ROW
    axis = []
    for value, text in logarithmic(low, high, first=[1.0], suffix=" ×"):
        kind = "level" if value == 1 else "grid"
        axis.append(f'<line class="{kind}" x1="{x(value)}" x2="{x(value)}" y1="{top}" y2="{y}"/>')
        axis.append(f'<text class="tick" x="{x(value)}" y="{y + 16}">{escape(text)}</text>')
    behind = f'<rect x="{_LEFT}" y="{top}" width="{x(1) - _LEFT:.1f}" height="{y - top}" fill="#8080801a"/>'
    words = "times as fast as the peer in the same precision; left of 1 × the peer is faster"
    axis.append(f'<text class="tick" x="{(_LEFT + _WIDTH) / 2}" y="{y + 34}">{words}</text>')
    size = f'viewBox="0 0 {_WIDTH} {y + 42}" width="{_WIDTH}" height="{y + 42}"'
    body = "\n".join([_STYLE, behind, *axis, *parts])
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img">\n{body}\n</svg>\n'


def _known(item: Any) -> tuple[float, float]:
    ratio = item.ratio
    known = ratio.low > 0 and math.isfinite(ratio.high)
    return (ratio.low, ratio.high) if known else (ratio.value, ratio.value)


def _legend(colours: dict[Any, str]) -> tuple[list[str], int]:
    parts, x, y = [], 0, 0
    for name, colour in colours.items():
        width = 32 + round(7.6 * len(str(name)))
        if x + width > _WIDTH:
            x, y = 0, y + _LINE
        parts.append(f'<rect x="{x}" y="{y + 2}" width="11" height="11" fill="{colour}"/>')
        parts.append(f'<text x="{x + 16}" y="{y + 12}">{escape(str(name))}</text>')
        x += width
    return parts, y + _LINE
