"""One self-contained page from one record: no request leaves it, light and dark, a screen or a phone."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from precast.runtime.bench.report import tables
from precast.runtime.bench.report.charts import Chart, plotly
from precast.runtime.bench.report.costs import installs
from precast.runtime.bench.report.opening import opening
from precast.runtime.bench.report.palette import Mark, marks
from precast.runtime.bench.report.sections import groups
from precast.runtime.bench.report.style import SCRIPT, STYLE
from precast.runtime.bench.report.text import capital, esc, plural
from precast.runtime.bench.report.view import View
from precast.runtime.bench.report.words import Summary, Table, glance, summary

__all__ = ["digest", "html"]

# The page asks nobody for anything, and no text in a record can make it.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data: blob:"

_OPENING = (
    "How many times as fast Precast is as each peer in the same precision: a bar a peer and point, from the level "
    "line. To the right Precast is faster, to the left the peer; the thin line is where a repeat of it is expected."
)


def html(record: dict[str, Any], *, title: str | None = None) -> str:
    """The page as one HTML document with everything in it, about 5 MB, nearly all of it plotly.js.

    Args:
        record: a document of the format ``precast-bench/1``; whatever is missing in it is left out or said to be.
        title: the heading; by default it names what was measured.

    Raises:
        InputError: ``record`` is of another format.
        DependencyError: plotly is not installed.
    """
    view = View(record)
    _, library = plotly()
    page = _Page(view)
    heading = title or _heading(view)
    body = page.body(heading)
    # Inside a script element only "</" could end it; JSON may say it with an escape.
    figures = json.dumps(page.figures, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        f'<meta name="precast-record" content="{digest(record)}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<link rel="icon" href="data:,">\n<title>{esc(heading)}</title>\n<style>{STYLE}</style>\n</head>\n'
        f'<body>\n{body}\n<script type="application/json" id="figures">{figures}</script>\n'
        f"<script>{library}</script>\n<script>{SCRIPT}</script>\n</body>\n</html>\n"
    )


def digest(record: Mapping[str, Any]) -> str:
    """SHA-256 of what a record says: a page carries that of its own, so that a stale one can be told."""
    return hashlib.sha256(json.dumps(record, sort_keys=True, default=str).encode()).hexdigest()


def _heading(view: View) -> str:
    names = [view.workload_title(name) for name in view.workloads]
    what = names[0] if len(names) == 1 else plural(len(names), "workload") if names else "an empty record"
    packages = {str(view.engines[name].get("title") or name) for name in view.peers}
    return f"Precast beside {plural(len(packages), 'peer')} on {what}" if packages else f"Precast on {what}"


class _Page:
    def __init__(self, view: View) -> None:
        self.view = view
        self.marks: dict[str, Mark] = marks(view)
        self.figures: dict[str, Any] = {}
        self.summaries: dict[str, Summary] = {}

    def body(self, heading: str) -> str:
        view = self.view
        names = [name for name in view.workloads if any(row.workload == name for row in view.rows)]
        summaries = self.summaries = {name: summary(view, name) for name in names}
        parts = [self._top(heading), self._jump(names), "<main>", self._glance(summaries)]
        parts += [self._workload(index, name, summaries[name]) for index, name in enumerate(names)]
        parts += [self._installs(), self._absent(), self._environment(), self._reading(), "</main>"]
        return "\n".join(parts)

    def _top(self, heading: str) -> str:
        facts = [f"<li><b>{esc(value)}</b> {esc(name)}</li>" for name, value in tables.headline(self.view)]
        return (
            f'<header class="top"><p class="eyebrow">Precast benchmark</p><h1>{esc(heading)}</h1>'
            f'<ul class="facts">{"".join(facts)}</ul></header>'
        )

    def _jump(self, names: Sequence[str]) -> str:
        links = [("glance", "At a glance")] if len(names) != 1 else []
        links += [(f"w{index}", self.view.workload_title(name)) for index, name in enumerate(names)]
        links += [("environment", "Environment"), ("reading", "How to read")]
        shown = "".join(f'<a href="#{target}">{esc(text)}</a>' for target, text in links)
        return f'<nav class="jump" aria-label="Sections"><div><div class="scroll">{shown}</div></div></nav>'

    def _glance(self, summaries: Mapping[str, Summary]) -> str:
        """All workloads together, the picture first; one alone says the same by itself."""
        view = self.view
        if len(summaries) == 1:
            return ""
        parts = ['<section id="glance"><h2>At a glance</h2>', self._opening(summaries)]
        if not view.rows:
            parts.append("<p>This record has no rows: nothing was measured, or nothing could be.</p>")
        behind = [f"{view.workload_title(name)}, {line}" for name, one in summaries.items() for line in one.behind]
        unsure = [f"{view.workload_title(name)}, {line}" for name, one in summaries.items() for line in one.unsure]
        parts.append(_behind(behind, unsure))
        if not behind and not unsure and view.comparisons:
            parts.append('<p class="lead">Precast is behind no peer at any point of this record.</p>')
        cells = glance(view)
        if cells:
            parts.append("<h3>From the worst point to the best</h3>")
            parts.append(self._matrix(cells))
        elif not view.peers:
            parts += [f"<p>{esc(view.workload_title(name))}: {esc(one.lead)}</p>" for name, one in summaries.items()]
        return "".join([*parts, "</section>"])

    def _opening(self, names: Iterable[str]) -> str:
        """A picture a workload, and one legend for all of them."""
        charts = [chart for name in names if (chart := opening(self.view, name, self.marks)) is not None]
        if not charts:
            return ""
        legend = self._legend(engine for chart in charts for engine in chart.legend)
        shown = "".join(self._figure(chart, legend=False) for chart in charts)
        alone = " alone" if len(charts) == 1 else ""
        return f'{legend}<div class="grid{alone}">{shown}</div><p class="note">{esc(_OPENING)}</p>'

    def _matrix(self, cells: Mapping[tuple[str, str], tuple[str, str, str]]) -> str:
        view = self.view
        peers = [name for name in view.peers if any(peer == name for _, peer in cells)]
        head = "".join(f'<th scope="col">{esc(view.title(name))}</th>' for name in peers)
        lines = []
        for workload in dict.fromkeys(name for name, _ in cells):
            shown = []
            for peer in peers:
                text, kind, more = cells.get((workload, peer), ("", "", ""))
                small = f"<small>{esc(more)}</small>" if more else ""
                kind = kind or "none"
                shown.append(f'<td class="number {kind}">{esc(text) or self._why_empty(workload, peer)}{small}</td>')
            lines.append(f'<tr><th scope="row">{esc(view.workload_title(workload))}</th>{"".join(shown)}</tr>')
        return (
            '<div class="scroll" tabindex="0" role="region" aria-label="Speed against peers"><table class="glance">'
            f"<thead><tr><td></td>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table></div>"
        )

    def _why_empty(self, workload: str, peer: str) -> str:
        ran = any(row.engine == peer and row.time is not None for row in self.view.of(workload))
        return "no equal of ours" if ran else "not run"

    def _workload(self, index: int, name: str, found: Summary) -> str:
        view = self.view
        about = view.workloads[name]
        parts = [f'<section id="w{index}"><h2>{esc(view.workload_title(name))}</h2>']
        if len(self.summaries) == 1:
            parts.append(self._opening([name]))
        described = tables.described(about)
        if described:
            parts.append(f'<p class="soft">{esc(described)}</p>')
        parts.append(_behind([*map(capital, found.behind)], [*map(capital, found.unsure)]))
        parts.append(f'<p class="lead">{esc(found.lead)}</p>')
        if found.more and view.peers:
            parts.append(_folded(f"{plural(len(found.more), 'peer')}, one by one.", found.more))
        elif found.more:
            parts.append(_listed(found.more))
        missing: list[str] = []
        for group in groups(view, name, self.marks):
            missing += group.missing
            if not group.charts:
                continue
            parts.append(f"<h3>{esc(group.title)}</h3>")
            if group.intro:
                parts.append(f'<p class="note">{esc(group.intro)}</p>')
            parts.append(self._grid(group.charts))
        if missing:
            parts.append("<h3>Not drawn</h3>" + "".join(f'<p class="missing">{esc(line)}</p>' for line in missing))
        rows = tables.rows(view, name)
        parts.append(
            f"<h3>Every row</h3><details><summary>{plural(len(rows.rows), 'row')}</summary>{_table(rows)}</details>"
        )
        return "".join([*parts, "</section>"])

    def _grid(self, charts: Iterable[Chart]) -> str:
        charts = list(charts)
        wide = " wide" if len(charts) in (1, 2, 4) else ""
        legends = [tuple(chart.legend) for chart in charts]
        shared = legends[0] if len(charts) > 1 and len(set(legends)) == 1 else ()
        shown = "".join(self._figure(chart, legend=not shared) for chart in charts)
        return f'{self._legend(shared)}<div class="grid{wide}">{shown}</div>'

    def _legend(self, engines: Iterable[str]) -> str:
        items = "".join(
            f"<li>{self.marks[engine].svg()}<span>{esc(self.view.title(engine))}</span></li>"
            for engine in dict.fromkeys(engines)
        )
        return f'<ul class="legend">{items}</ul>' if items else ""

    def _figure(self, chart: Chart, *, legend: bool) -> str:
        name = f"chart{len(self.figures)}"
        self.figures[name] = chart.figure
        engines = self._legend(chart.legend) if legend else ""
        note = f" {esc(chart.note)}" if chart.note else ""
        table = f"<details><summary>Numbers</summary>{_table(chart.table)}</details>" if chart.table else ""
        return (
            f'<figure><h4>{esc(chart.title)}</h4><div class="plot" id="{name}" role="img" '
            f'aria-label="{esc(chart.alt)}" style="height:{chart.height}px"></div>{engines}'
            f"<figcaption>{note.strip()}</figcaption>{table}</figure>".replace("<figcaption></figcaption>", "")
        )

    def _installs(self) -> str:
        charts = installs(self.view, self.marks)
        if not charts:
            return ""
        return (
            '<section id="installs"><h2>Before any model</h2><h3>Install and import</h3><p>An environment holds all '
            "that its pinned file brings, what converts checkpoints included: where a peer converts with torch, torch "
            "counts. Precast's is the one that runs artifacts; it exports in another.</p>"
            f"{self._grid(charts)}</section>"
        )

    def _absent(self) -> str:
        listed = tables.absent(self.view)
        if not listed.rows:
            return ""
        return (
            '<section id="absent"><h2>Not in this run</h2><p>Asked for, but without a row, and why.</p>'
            f"{_table(listed)}</section>"
        )

    def _environment(self) -> str:
        view = self.view
        facts = "".join(f"<dt>{esc(name)}</dt><dd>{esc(value)}</dd>" for name, value in tables.environment(view))
        command = str(view.raw.get("command") or "")
        repeat = f"<pre>{esc(command)}</pre>" if command else "<p>The record names no command.</p>"
        return (
            f'<section id="environment"><h2>Environment</h2><dl>{facts}</dl><h3>Engines</h3>'
            f"{_table(tables.engines(view))}<h3>How to repeat it</h3>{repeat}</section>"
        )

    def _reading(self) -> str:
        lines = "".join(f"<p>{esc(line)}</p>" for line in tables.READING)
        return f'<section id="reading"><h2>How to read this page</h2>{lines}</section>'


def _behind(behind: Sequence[str], unsure: Sequence[str]) -> str:
    """A sentence a list, which folds out into its places."""
    parts = []
    if behind:
        parts.append(_folded(f"Behind a peer at {plural(len(behind), 'point')}, by more than the interval.", behind))
    if unsure:
        text = f"Perhaps behind at {plural(len(unsure), 'point')}: the interval reaches level."
        parts.append(_folded(text, unsure))
    return f'<div class="behind" role="note">{"".join(parts)}</div>' if parts else ""


def _folded(sentence: str, lines: Sequence[str]) -> str:
    return f"<details><summary>{esc(sentence)}</summary>{_listed(lines)}</details>"


def _listed(lines: Sequence[str]) -> str:
    return f'<ul class="points">{"".join(f"<li>{esc(line)}</li>" for line in lines)}</ul>'


def _table(table: Table) -> str:
    head = "".join(f'<th scope="col">{esc(name)}</th>' for name in table.columns)
    lines = []
    for row in table.rows:
        cells = "".join(f"<td{_kind(cell)}>{esc(cell)}</td>" for cell in row[1:])
        lines.append(f'<tr><th scope="row">{esc(row[0])}</th>{cells}</tr>')
    return (
        '<div class="scroll" tabindex="0" role="region" aria-label="Table"><table>'
        f"<thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table></div>"
    )


def _kind(cell: str) -> str:
    return ' class="number"' if len(cell) < 32 else ""
