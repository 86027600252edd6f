"""``precast diff``: what differs between two artifacts."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Annotated, Any

import typer

from precast.runtime.cli.console import guarded, plain, table, write, write_json

__all__ = ["diff", "register"]

_WIDEST = 60


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
        found["speed"] = _speed(a, b)
    if as_json:
        write_json(found)
        return
    same = "have one digest: they compute the same, from the same files" if found["same"] else "differ"
    write(f"{a} and {b} {same}.")
    rows = [(path, _short(old), _short(new)) for path, old, new in _changes(found)]
    if rows:
        table(("what", a, b), rows)
    if speed:
        table(("batch x length", f"{a}, ms", f"{b}, ms", "ratio"), _speed_rows(found["speed"]), numbers=(1, 2, 3))


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


def _speed(a: str, b: str) -> list[dict[str, Any]]:
    from precast.runtime.cli.bench import make_inputs
    from precast.runtime.model import load
    from precast.runtime.timing import interleave

    models = {"a": load(a, check="size"), "b": load(b, check="size")}
    measured = []
    for batch, length in ((1, 16), (1, 128), (8, 128)):
        if any(model.max_length is not None and model.max_length < length for model in models.values()):
            continue
        feeds = {name: make_inputs(model, batch, length) for name, model in models.items()}
        calls = {name: partial(model, **feeds[name]) for name, model in models.items()}
        timed = interleave(calls, seconds=2.0)
        row: dict[str, Any] = {"batch": batch, "length": length}
        row |= {f"{name}_ms": timing.to_json() for name, timing in timed.items()}
        measured.append(row | {"ratio": timed["b"].median / timed["a"].median})
    return measured


def _speed_rows(measured: list[dict[str, Any]]) -> list[tuple[str, ...]]:
    return [
        (f"{row['batch']} x {row['length']}", f"{row['a_ms']['median_ms']:.2f}", f"{row['b_ms']['median_ms']:.2f}",
         f"{row['ratio']:.2f}")
        for row in measured
    ]  # fmt: skip


def register(app: typer.Typer) -> None:
    app.command(short_help="Compare two artifacts.", epilog="\b\nExample:\n  precast diff minilm minilm-next --speed")(
        diff
    )
