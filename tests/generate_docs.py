"""Write the generated parts of the README from the code and from recorded benchmark runs.

python tests/generate_docs.py
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"


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


def speed() -> str:
    """The recorded comparison with the peers: medians and ratios of paired rounds."""
    record = json.loads((ROOT / "benchmarks" / "results" / "encoders.json").read_text())
    peers = [name for name in next(iter(record["tables"].values()))["1x128"] if name != "precast"]
    lines = [
        f"{record['machine']}, {record['threads']} threads, float32, {record['date']}; "
        + ", ".join(f"{name} {version}" for name, version in record["versions"].items())
        + ". Milliseconds of Precast, then how many times as long the others took "
        "(median of paired rounds, quartiles).",
        "",
        f"| model, batch x length | precast | {' | '.join(peers)} |",
        f"| --- | --- |{' --- |' * len(peers)}",
    ]
    for model, table in record["tables"].items():
        for point, row in table.items():
            cells = [f"{row['precast']['median_ms']:.2f}"]
            for peer in peers:
                low, middle, high = row[peer]["ratio"]
                cells.append(f"{middle:.2f} ({low:.2f}-{high:.2f})")
            lines.append(f"| {model} {point} | {' | '.join(cells)} |")
    return "\n".join(lines)


PARTS = {"support": support, "cli": cli, "speed": speed}


def generated(text: str) -> str:
    """``text`` with every generated part written anew."""
    for name, part in PARTS.items():
        pattern = re.compile(rf"(<!-- generated: {name} -->\n).*?(<!-- end -->)", re.S)
        text, count = pattern.subn(lambda match, part=part: f"{match[1]}{part()}\n{match[2]}", text)
        if count != 1:
            raise SystemExit(f"README.md must hold the mark 'generated: {name}' once, found {count}")
    return text


if __name__ == "__main__":
    README.write_text(generated(README.read_text()))
