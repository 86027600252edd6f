"""``precast diff``: what differs between two artifacts."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any

import typer

from precast.runtime.cli.console import Stages, guarded, plain, table, write, write_json

__all__ = ["diff", "register"]

_WIDEST = 60
_POINTS = ((1, 16), (1, 128), (8, 128))
_SECONDS = 2.0


@guarded
def diff(
    a: Annotated[str, typer.Argument(metavar="A", help="An artifact's folder.")],
    b: Annotated[str, typer.Argument(metavar="B", help="Another artifact's folder.")],
    speed: Annotated[bool, typer.Option("--speed", help="Time both as well, in turns.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Compare two artifacts: operators, fusions, sizes, errors and, with --speed, how fast they are."""
    from precast.runtime.artifact import Artifact
    from precast.runtime.inspection import diff as compare

    first, second = Artifact.open(a), Artifact.open(b)
    found = compare(first, second)
    if speed:
        with Stages() as stage:
            found["speed"] = _speed(a, b, stage)
    if as_json:
        write_json(found)
        return
    same = "have one digest: they compute the same, from the same files" if found["same"] else "differ"
    write(f"{a} and {b} {same}.")
    rows = [(path, _short(old), _short(new)) for path, old, new in _changes(found)]
    if rows:
        table(("what", a, b), rows)
    if speed:
        columns = ("batch x length", f"{a}, ms", f"{b}, ms", "ratio", "95 %")
        table(columns, _speed_rows(found["speed"]), numbers=(1, 2, 3, 4))


def _changes(found: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, Any, Any]]:
    """Every difference as (where, in a, in b)."""
    for key, value in found.items():
        here = (*path, key)
        if key in ("same", "speed") and not path:
            continue
        if key in ("added", "removed") and isinstance(value, list) and (not value or isinstance(value[0], str)):
            for name in value:
                where = "/".join((*path, str(name)))
                yield (where, "", "present") if key == "added" else (where, "present", "")
        elif isinstance(value, Mapping):
            yield from _changes(value, path if key == "changed" else here)
        elif isinstance(value, list) and len(value) == 2:
            yield "/".join(here), value[0], value[1]


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else "" if value is None else json.dumps(plain(value))
    return text if len(text) <= _WIDEST else f"{text[: _WIDEST - 3]}..."


def _speed(a: str, b: str, stage: Callable[[str], None]) -> list[dict[str, Any]]:
    """Both in turns, in fresh processes: the ratio b / a of every point with the interval of a repeat."""
    from precast.runtime.bench.artifact import side_by_side
    from precast.runtime.bench.session import Plan
    from precast.runtime.bench.statistics import ratio

    rows = side_by_side({"a": a, "b": b}, _POINTS, plan=Plan(seconds=_SECONDS), progress=stage)
    mine = {name: [row for row in rows if row["engine"] == name and row["scenario"] != "cold"] for name in "ab"}
    return [
        {"batch": one["batch"], "length": one["length"], "a_ms": _ms(one), "b_ms": _ms(other),
         "ratio": ratio(other, one, rows)}
        for one, other in zip(mine["a"], mine["b"], strict=True)
    ]  # fmt: skip


def _ms(row: Mapping[str, Any]) -> dict[str, float]:
    return {name: row["time"][name] * 1e3 for name in ("value", "low", "high")}


def _speed_rows(measured: list[dict[str, Any]]) -> list[tuple[str, ...]]:
    return [
        (f"{row['batch']} x {row['length']}", f"{row['a_ms']['value']:.2f}", f"{row['b_ms']['value']:.2f}",
         f"{row['ratio']['value']:.3f}", f"{row['ratio']['low']:.3f} - {row['ratio']['high']:.3f}")
        for row in measured
    ]  # fmt: skip


def register(app: typer.Typer) -> None:
    app.command(short_help="Compare two artifacts.", epilog="\b\nExample:\n  precast diff minilm minilm-next --speed")(
        diff
    )
