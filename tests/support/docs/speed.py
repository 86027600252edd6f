"""Figures of recorded runs: tables of ratios, and a picture of each."""

from __future__ import annotations

import statistics
from functools import cache
from pathlib import Path
from typing import Any

from support import ROOT
from support.docs.pictures import drawing
from support.docs.tables import markdown

__all__ = [
    "ENCODERS",
    "GENERATION",
    "PICTURES",
    "encoders",
    "generation",
    "int8",
    "opening",
    "page",
    "picture",
    "vision",
]

RESULTS = ROOT / "benchmarks" / "results"
ENCODERS = RESULTS / "encoders.json"
INT8 = (RESULTS / "minilm-int8-vnni.json",)
VISION = RESULTS / "vision.json"
GENERATION = tuple(RESULTS / f"{name}.json" for name in ("llama-134m", "t5-small", "marian"))


@cache
def _record(path: Path) -> dict[str, Any]:
    from precast.runtime.bench import record

    return record.read(path)


def encoders() -> str:
    """Ratios with their intervals, and for int8 what it costs in accuracy."""
    document = _record(ENCODERS)
    exact, others = _peers(document, "fp32"), _peers(document, "int8")
    return "\n\n".join(
        [
            _measured_on(document),
            "Milliseconds of Precast (fp32), then how many times as long the others took: above 1 they are slower. In "
            "brackets, where a repeat is expected to land.",
            _table(document, "precast", exact),
            "The same against int8, which is another trade: these are less exact (1 - cosine to upstream in float64, "
            "the worst text).",
            _table(document, "precast", others),
        ]
    )


def int8() -> str:
    """Ratios of int8 to int8, and what each costs in accuracy."""
    parts = []
    for path in INT8:
        document = _record(path)
        parts += [_measured_on(document), _table(document, "precast-int8", _peers(document, "int8"))]
    said = "Milliseconds of Precast's int8, then how many times as long the others took; 1 - cosine, of the worst text."
    return "\n\n".join([said, *parts])


def vision() -> str:
    """Ratios with their intervals."""
    document = _record(VISION)
    return "\n\n".join([_measured_on(document), _table(document, "precast", _peers(document, "fp32"))])


def _peers(document: dict[str, Any], precision: str) -> list[str]:
    """Engines of others in a precision."""
    return [
        name
        for name, about in document["engines"].items()
        if about["title"] != "Precast" and about["precision"] == precision
    ]


def _measured_on(document: dict[str, Any]) -> str:
    machine, settings = document["machine"], document["settings"]
    versions = ", ".join(
        f"{about['title']} {about['version']}"
        for about in {about["title"]: about for about in document["engines"].values()}.values()
    )
    taken = f"{settings['threads']} threads, {document['created'][:10]}, {settings['launches']} launches"
    return f"{machine['cpu']}, {taken}: {versions}."


def _point(row: Any) -> Any:
    return row["workload"], row["scenario"], row["batch"], row["length"]


def _table(document: dict[str, Any], base: str, peers: list[str]) -> str:
    """The points of ``base``, one of ours, and how many times as long each peer took there."""
    from precast.runtime.bench.statistics import ratios

    usual = document["settings"]["threads"]
    rows = [row for row in document["rows"] if row["scenario"] != "cold" and row["threads"] == usual]
    found: dict[Any, dict[str, Any]] = {}
    for entry in ratios(document["rows"], base):
        if entry["scenario"] != "cold" and entry["threads"] == usual:
            found.setdefault(_point(entry), {})[entry["engine"]] = entry["ratio"]
    lines = []
    by_key = {(*_point(row), row["engine"]): row for row in rows}
    for row in rows:
        if row["engine"] != base:
            continue
        workload, scenario, batch, length = _point(row)
        cells = []
        for peer in peers:
            ratio, theirs = found.get(_point(row), {}).get(peer), by_key.get((*_point(row), peer))
            text = "" if ratio is None else f"{ratio['value']:.2f} ({ratio['low']:.2f}-{ratio['high']:.2f})"
            if theirs is not None and theirs["precision"] != "fp32":
                text += f", {1 - theirs['error']['cosine']:.1e}"
            cells.append(text)
        title = f"{document['workloads'][workload]['title']} {batch} x {length}"
        title += " offline" if scenario == "offline" else ""
        own = f"{row['time']['value'] * 1e3:.2f}"
        own += "" if row["precision"] == "fp32" else f", {1 - row['error']['cosine']:.1e}"
        lines.append((title, own, *cells))
    return markdown(("batch x length", base, *peers), lines)


def generation() -> str:
    """A table a model, precisions apart."""
    parts = []
    for path in GENERATION:
        document = _record(path)
        [about] = document["workloads"].values()
        parts += [f"### {about['title']}", _measured_on(document), f"![{_alt(path)}](pictures/{path.stem}.svg)"]
        parts.append(_generated(document))
    return "\n\n".join(parts)


def _generated(document: dict[str, Any]) -> str:
    rows = [row for row in document["rows"] if row["scenario"] == "generate"]
    titles = {name: about["title"] for name, about in document["engines"].items()}
    peers = sorted({titles[row["engine"]] for row in rows} - {"Precast"})
    lines = []
    for ours in rows:
        if titles[ours["engine"]] != "Precast":
            continue
        same = {
            titles[row["engine"]]: row
            for row in rows
            if (_point(row), row["precision"]) == (_point(ours), ours["precision"])
        }
        cells = [_both_ratios(same[peer], ours) if peer in same else "" for peer in peers]
        speed = [f"{ours['throughput']['tokens_per_second']['value']:.1f}", ""]
        if "per_token" in ours:
            speed = [f"{1 / ours['per_token']['value']:.1f}", f"{ours['first_token']['value'] * 1e3:.0f}"]
        lines.append((f"{ours['length']}, {ours['precision']}", *speed, *cells))
    return markdown(("prompt, precision", "tokens/s", "first token, ms", *peers), lines)


def _both_ratios(theirs: dict[str, Any], ours: dict[str, Any]) -> str:
    """A token's time and the first one's over ours, medians of the launches, and from the lowest to the highest; of
    beams, which no one streams, the whole generation's."""
    pairs = [(theirs[figure], ours[figure]) for figure in ("per_tokens", "first_tokens") if figure in ours]
    if not pairs or any(figure not in theirs for figure in ("per_tokens", "first_tokens")):
        pairs = [tuple([statistics.median(turns) for turns in row["rounds"]] for row in (theirs, ours))]
    texts = []
    for mine, base in pairs:
        found = sorted(a / b for a, b in zip(mine, base, strict=True))
        texts.append(f"{statistics.median(found):.2f} ({found[0]:.2f}-{found[-1]:.2f})")
    return ", ".join(texts) if len(texts) == 2 else f"whole {texts[0]}"


def _alt(path: Path) -> str:
    titles = ", ".join(about["title"] for about in _record(path)["workloads"].values())
    return f"{titles}: how many times as fast Precast is as each peer, from the line at 1"


def opening() -> str:
    """The picture that the page opens with."""
    return f"![{_alt(ENCODERS)}](pictures/{ENCODERS.stem}.svg)"


def page() -> str:
    """The page of the encoders' run."""
    from precast.runtime.bench.report import html

    return html(_record(ENCODERS))


def picture(path: Path) -> str:
    """A recorded run as an SVG."""
    return drawing(_record(path))


PICTURES = {path.stem: path for path in (ENCODERS, *GENERATION)}
