"""Write what is generated of the README and of the package's typed names, from the code and recorded benchmark runs.

python -m support.generate_docs, in tests/
"""

from __future__ import annotations

import re
import statistics
from pathlib import Path
from typing import Any

from support import ROOT

README = ROOT / "README.md"
FACADE = ROOT / "runtime" / "_facade" / "__init__.py"


def support() -> str:
    """Every model_type with the tasks its heads serve."""
    from precast.export.families import find_family, model_types
    from precast.export.heads import HEADS

    tasks = [head.task for head in HEADS]
    lines = [f"| model_type | {' | '.join(tasks)} |", f"| --- |{' --- |' * len(tasks)}"]
    for name in model_types():
        served = {head.task for head in find_family(name).heads}
        lines.append(f"| {name} | {' | '.join('yes' if task in served else '' for task in tasks)} |")
    return "\n".join(lines)


def cli() -> str:
    """Every command with the first line of its help."""
    import typer

    from precast.runtime.cli.app import app

    group: Any = typer.main.get_command(app)
    lines = ["| command | what it does |", "| --- | --- |"]
    for name, command in group.commands.items():
        lines.append(f"| `precast {name}` | {(command.help or '').strip().splitlines()[0]} |")
    return "\n".join(lines)


RECORD = ROOT / "benchmarks" / "results" / "encoders.json"


def speed() -> str:
    """The recorded comparison: ratios with their intervals, and for int8 what it costs in accuracy."""
    from precast.runtime.bench import record
    from precast.runtime.bench.statistics import ratios

    document = record.read(RECORD)
    usual = document["settings"]["threads"]
    rows = [row for row in document["rows"] if row["scenario"] != "cold" and row["threads"] == usual]
    found: dict[Any, dict[str, Any]] = {}
    for entry in ratios(document["rows"], "precast"):
        if entry["scenario"] != "cold" and entry["threads"] == usual:
            found.setdefault(_point(entry), {})[entry["engine"]] = entry["ratio"]
    engines = [name for name in document["engines"] if name != "precast"]
    exact = [name for name in engines if document["engines"][name]["precision"] == "fp32"]
    return "\n".join(
        [
            _measured_on(document),
            "",
            "Milliseconds of Precast (fp32), then how many times as long the others took: above 1 they are slower. In "
            "brackets, where a repeat is expected to land.",
            "",
            *_table(document, rows, found, exact),
            "",
            "The same against int8, which is another trade: Precast has none yet, and these are less exact (1 - cosine "
            "to upstream in float64, the worst text).",
            "",
            *_table(document, rows, found, [name for name in engines if name not in exact]),
        ]
    )


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


def _table(document: dict[str, Any], rows: list[Any], found: dict[Any, dict[str, Any]], peers: list[str]) -> list[str]:
    lines = [f"| batch x length | precast | {' | '.join(peers)} |", f"| --- | --- |{' --- |' * len(peers)}"]
    by_key = {(*_point(row), row["engine"]): row for row in rows}
    for row in rows:
        if row["engine"] != "precast":
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
        lines.append(f"| {title} | {row['time']['value'] * 1e3:.2f} | {' | '.join(cells)} |")
    return lines


GENERATION = tuple(ROOT / "benchmarks" / "results" / f"{name}.json" for name in ("llama-134m", "t5-small", "marian"))


def generation() -> str:
    """The recorded comparisons of generation: a table a model, precisions apart."""
    from precast.runtime.bench import record

    parts = []
    for path in GENERATION:
        document = record.read(path)
        [about] = document["workloads"].values()
        parts += [f"{about['title']}. {_measured_on(document)}", "", *_generated(document), ""]
    return "\n".join(parts).rstrip()


def _generated(document: dict[str, Any]) -> list[str]:
    rows = [row for row in document["rows"] if row["scenario"] == "generate"]
    titles = {name: about["title"] for name, about in document["engines"].items()}
    peers = sorted({titles[row["engine"]] for row in rows} - {"Precast"})
    lines = [
        f"| prompt, precision | tokens/s | first token, ms | {' | '.join(peers)} |",
        f"| --- | --- | --- |{' --- |' * len(peers)}",
    ]
    for ours in rows:
        if titles[ours["engine"]] != "Precast":
            continue
        same = {
            titles[row["engine"]]: row
            for row in rows
            if (_point(row), row["precision"]) == (_point(ours), ours["precision"])
        }
        cells = [_both_ratios(same[peer], ours) if peer in same else "" for peer in peers]
        speed = f"{ours['throughput']['tokens_per_second']['value']:.1f} | "
        if "per_token" in ours:
            speed = f"{1 / ours['per_token']['value']:.1f} | {ours['first_token']['value'] * 1e3:.0f}"
        lines.append(f"| {ours['length']}, {ours['precision']} | {speed} | {' | '.join(cells)} |")
    return lines


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


def auto() -> str:
    """The classes that `precast.runtime.auto` makes of the catalogue, for who reads types without running them."""
    from precast.runtime.catalogue import AUTO

    return "\n".join(f"    {name} = AutoModel" for name in sorted(AUTO) if name != "AutoModel")


PARTS = {
    README: {"support": support, "cli": cli, "speed": speed, "generation": generation},
    FACADE: {"auto": auto},
}


def generated(path: Path) -> str:
    """The text of a file with every generated part of it written anew."""
    text = path.read_text()
    for name, part in PARTS[path].items():
        pattern = re.compile(
            rf"(^ *(?:<!--|#) generated: {name}(?: -->)?\n).*?(^ *(?:<!--|#) end(?: -->)?$)", re.S | re.M
        )
        text, count = pattern.subn(lambda match, part=part: f"{match[1]}{part()}\n{match[2]}", text)
        if count != 1:
            raise SystemExit(f"{path} must hold the mark 'generated: {name}' once, found {count}")
    return text


if __name__ == "__main__":
    for path in PARTS:
        path.write_text(generated(path))
