"""What there is to measure: peers (peers/NAME/peer.toml) and workloads (workloads/NAME.toml), read and checked."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = ["KINDS", "PRECISIONS", "Peer", "Workload", "peers", "read_workload", "workloads"]

HERE = Path(__file__).parent
KINDS = ("encoder", "decoder", "seq2seq", "pictured", "image", "ctc", "speech")
PRECISIONS = ("fp32", "fp16", "bf16", "int8", "int4")
_DEVICES = ("cpu", "cuda", "tensorrt")


@dataclass(frozen=True)
class Peer:
    """Something a user could pick: the environment it lives in, and what it can do."""

    name: str
    title: str
    environment: str
    package: str
    module: str
    kinds: Mapping[str, Mapping[str, Any]]

    def adapter(self, kind: str) -> Path:
        """The file that drives it."""
        return HERE / "peers" / self.name / f"{kind}.py"

    def precisions(self, kind: str, device: str) -> tuple[str, ...]:
        """What it offers for a kind of model on a device; empty where it does not serve it."""
        table = self.kinds.get(kind, {})
        return tuple(table.get("precisions", ())) if device in table.get("devices", ["cpu"]) else ()

    @property
    def ours(self) -> bool:
        return self.package == "precast"


@dataclass(frozen=True)
class Workload:
    """A model, where its weights come from, and the points it is measured at. ``table`` is the file as it is.

    ``scaling``: further counts of ``threads``, measured at some of the ``points`` only.
    """

    name: str
    path: Path
    title: str
    kind: str
    family: str
    model_class: str
    description: str
    source: Mapping[str, Any]
    points: Mapping[str, tuple[str, ...]]
    scaling: Mapping[str, Any]
    table: Mapping[str, Any]


def peers(names: list[str] | None = None) -> list[Peer]:
    """Every peer, or those named; an unknown name ends the program and says which there are."""
    return _chosen("peer", names, {path.parent.name: _peer(path) for path in sorted(HERE.glob("peers/*/peer.toml"))})


def workloads(names: list[str] | None = None) -> list[Workload]:
    """Every workload, or those named; a name that ends in .toml is a file anywhere."""
    known = {path.stem: read_workload(path) for path in sorted(HERE.glob("workloads/*.toml"))}
    known |= {name: read_workload(Path(name)) for name in names or () if name.endswith(".toml")}
    return _chosen("workload", names, known)


def _chosen(what: str, names: list[str] | None, known: dict[str, Any]) -> list[Any]:
    if names is None:
        return list(known.values())
    unknown = [name for name in names if name not in known]
    if unknown:
        raise SystemExit(f"There is no {what} {unknown[0]!r}. There are: {', '.join(known)}.")
    return [known[name] for name in names]


def _peer(path: Path) -> Peer:
    table = _read(path)
    where = Path(path.parent.name) / path.name
    kinds = table.get("kinds", {})
    for kind, entry in kinds.items():
        _known(where, f"kinds.{kind}", [kind], KINDS)
        _known(where, f"kinds.{kind}.precisions", entry.get("precisions", ()), PRECISIONS)
        _known(where, f"kinds.{kind}.devices", entry.get("devices", ()), _DEVICES)
        if not (path.parent / f"{kind}.py").is_file():
            raise SystemExit(f"{where} lists the kind {kind}, and there is no {kind}.py beside it.")
    environment = _text(table, "environment", where)
    if environment != "precast" and not (HERE / "environments" / f"{environment}.txt").is_file():
        raise SystemExit(f"{where} lives in the environment {environment!r}, and there is no such environments/*.txt.")
    return Peer(
        name=path.parent.name,
        title=_text(table, "title", where),
        environment=environment,
        package=_text(table, "package", where),
        module=_text(table, "module", where),
        kinds=kinds,
    )


def read_workload(path: Path) -> Workload:
    """A workload's file, checked: the program ends with what is wrong in it."""
    table = _read(path)
    where = Path(path.name)
    kind = _text(table, "kind", where)
    _known(where, "kind", [kind], KINDS)
    source, points = table.get("source", {}), table.get("points", {})
    given = [name for name in ("package", "config", "script") if name in source]
    if len(given) != 1:
        raise SystemExit(f"{where}: [source] has one of package, config, script; found: {', '.join(given) or 'none'}.")
    _known(where, "points", points, ("single", "offline", "server"))
    if not points:
        raise SystemExit(f"{where}: [points] names what is measured, such as single = ['1x128']; it is empty.")
    return Workload(
        name=path.stem,
        path=path.resolve(),
        title=_text(table, "title", where),
        kind=kind,
        family=_text(table, "family", where),
        model_class=str(table.get("model_class", "")),
        description=_text(table, "description", where),
        source=source,
        points={scenario: tuple(entries) for scenario, entries in points.items()},
        scaling=table.get("scaling", {}),
        table=table,
    )


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise SystemExit(f"There is no file {path}.") from error
    except tomllib.TOMLDecodeError as error:
        raise SystemExit(f"{path} is no TOML: {error}") from error


def _text(table: Mapping[str, Any], name: str, where: Path) -> str:
    value = table.get(name)
    if not isinstance(value, str) or not value:
        raise SystemExit(f"{where}: {name} = '...' is missing.")
    return value


def _known(where: Path, name: str, values: Any, known: tuple[str, ...]) -> None:
    unknown = [value for value in values if value not in known]
    if unknown:
        raise SystemExit(f"{where}: {name} has {unknown[0]!r}; known: {', '.join(known)}.")
