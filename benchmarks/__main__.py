"""``python -m benchmarks``: make the environments, measure, see that the measuring holds."""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.catalogue import Workload, peers, workloads
from benchmarks.run import Comparison, supported
from benchmarks.selfcheck import agreement, planted
from benchmarks.venvs import Environment, Here, home
from precast.runtime.backends.onnxruntime import default_threads
from precast.runtime.bench import record
from precast.runtime.bench.device import device_state, why_no_device
from precast.runtime.bench.session import Plan
from precast.runtime.cli.console import Stages, guarded, note, table, write
from precast.runtime.errors import ProviderError

app = typer.Typer(
    help="Precast beside its peers: the same weights, the same inputs, in turns, each in an environment of its own.",
    epilog="\b\nExample:\n  python -m benchmarks setup\n  python -m benchmarks run minilm bert-base --html page.html",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.command(epilog="\b\nExample:\n  python -m benchmarks setup openvino precast")
@guarded
def setup(
    names: Annotated[list[str] | None, typer.Argument(metavar="[ENVIRONMENT]...", help="Default: all.")] = None,
) -> None:
    """Make the environments the peers live in. Exit status 1: one could not be installed (runs will report it)."""
    known = sorted({peer.environment for peer in peers()} | {"upstream"})
    unknown = [name for name in names or () if name not in known]
    if unknown:
        raise typer.BadParameter(f"there is no environment {unknown[0]!r}; there are: {', '.join(known)}")
    failed = []
    with Stages() as stage:
        for name in names or known:
            if not Environment(name).make(_said(stage)):
                failed.append(name)
    for name in failed:
        note(str(Environment(name).why_not()))
    write(f"{home()} holds {len(names or known) - len(failed)} environments.")
    if failed:
        raise typer.Exit(1)


@app.command("list", epilog="\b\nExample:\n  python -m benchmarks list")
@guarded
def show() -> None:
    """Show workloads, peers, what each peer serves, and which environments are missing."""
    table(("workload", "kind", "points", "what"), [
        (entry.name, entry.kind, " ".join(point for points in entry.points.values() for point in points), entry.title)
        for entry in workloads()
    ])  # fmt: skip
    write()
    table(("peer", "serves", "environment", ""), [
        (peer.name, ", ".join(f"{kind} ({'/'.join(entry['precisions'])})" for kind, entry in peer.kinds.items()),
         peer.environment, Environment(peer.environment).why_not() or "ready")
        for peer in peers()
    ])  # fmt: skip


@app.command(epilog="\b\nExample:\n  python -m benchmarks run minilm --peer precast --peer torch --seconds 3")
@guarded
def run(
    names: Annotated[list[str] | None, typer.Argument(metavar="[WORKLOAD]...", help="Default: all.")] = None,
    peer: Annotated[list[str] | None, typer.Option(help="Only these; again for more. Default: all.")] = None,
    precision: Annotated[list[str] | None, typer.Option(help="Only these; again for more. Default: all.")] = None,
    scenario: Annotated[list[str] | None, typer.Option(help="single, offline or server; again for more.")] = None,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads. Default: all there are.")] = None,
    launches: Annotated[int, typer.Option(min=1, help="Fresh processes of every contender.")] = 4,
    seconds: Annotated[float, typer.Option(min=0.1, help="Each contender at each point, over all launches.")] = 6.0,
    installs: Annotated[bool, typer.Option("--installs/--no-installs", help="Sizes and import times.")] = True,
    json: Annotated[Path | None, typer.Option(help="Where the record goes.")] = None,
    html: Annotated[Path | None, typer.Option(help="Where the page goes.")] = None,
) -> None:
    """Measure workloads with every peer that supports them; print Markdown, write the record and the page."""
    _measure(
        workloads(names or None),
        peer,
        Plan(launches=launches, seconds=seconds),
        json,
        html,
        device=device,
        threads=threads or default_threads(),
        precisions=precision,
        scenarios=scenario or ("single", "offline", "server"),
        installs=installs,
    )


@app.command(epilog="\b\nExample:\n  python -m benchmarks gpu --json gpu.json --html gpu.html")
@guarded
def gpu(
    names: Annotated[list[str] | None, typer.Argument(metavar="[WORKLOAD]...", help="Default: the encoders.")] = None,
    json: Annotated[Path, typer.Option(help="Where the record goes.")] = Path("gpu.json"),
    html: Annotated[Path | None, typer.Option(help="Where the page goes.")] = None,
    minutes: Annotated[float, typer.Option(min=0.1, help="After these nothing new is begun.")] = 9.0,
) -> None:
    """Measure on a CUDA device in one go, all peers on this Python: for a machine where nothing can be installed.

    The record is written after every workload; what was not reached, or cannot be imported here, is in it with the
    reason. Clocks are read and never set. Exit status 1: there is no device.
    """
    until = time.perf_counter() + 60 * minutes
    if device_state() is None:
        raise ProviderError(f"A CUDA device is needed for this: {why_no_device()}")
    chosen = workloads(names or [entry.name for entry in workloads() if entry.kind == "encoder"])
    _measure(
        chosen,
        None,
        Plan(launches=2, seconds=1.5),
        json,
        html,
        device="cuda",
        threads=default_threads(),
        installs=False,
        environment=Here,
        until=until,
    )


def _measure(
    chosen: Sequence[Workload],
    names: list[str] | None,
    plan: Plan,
    json: Path | None,
    html: Path | None,
    **settings: Any,
) -> None:
    """Run a comparison, with progress, the record and the page; Markdown on stdout."""
    from precast.runtime.bench.report import html as page
    from precast.runtime.bench.report import markdown

    with Stages() as stage:
        comparison = Comparison(
            plan=plan,
            command=shlex.join(["python", "-m", "benchmarks", *sys.argv[1:]]),
            say=_said(stage),
            save=lambda document: None if json is None else record.write(document, json),
            **settings,
        )
        document = comparison.run(chosen, peers(names) if names else supported(chosen, comparison.device))
    if html is not None:
        html.write_text(page(document), encoding="utf-8")
    write(markdown(document))


@app.command(epilog="\b\nExample:\n  python -m benchmarks agree monday.json tuesday.json")
@guarded
def agree(
    a: Annotated[Path, typer.Argument(metavar="A.json", help="A record.")],
    b: Annotated[Path, typer.Argument(metavar="B.json", help="A record of the same comparison.")],
) -> None:
    """Show every ratio of two runs of one comparison. Exit status 1: one is outside the interval the other states."""
    found = agreement(record.read(a), record.read(b))
    table(("workload", "point", "peer", "A", "95 %", "B", "95 %", ""), [
        (entry["workload"], f"{entry['scenario']} {entry['batch']}x{entry['length']}", entry["engine"],
         f"{entry['ratio']['value']:.3f}", f"{entry['ratio']['low']:.3f} - {entry['ratio']['high']:.3f}",
         f"{entry['again']['value']:.3f}", f"{entry['again']['low']:.3f} - {entry['again']['high']:.3f}",
         "" if entry["inside"] else "OUTSIDE")
        for entry in found
    ], numbers=(3, 4, 5, 6))  # fmt: skip
    outside = sum(not entry["inside"] for entry in found)
    write(f"{len(found) - outside} of {len(found)} ratios lie in the interval of the other run.")
    if outside or not found:
        raise typer.Exit(1)


@app.command(epilog="\b\nExample:\n  python -m benchmarks check minilm --slower 10")
@guarded
def check(
    artifact: Annotated[str, typer.Argument(metavar="ARTIFACT", help="An artifact's folder.")],
    slower: Annotated[float, typer.Option(min=0.1, help="Percent by which the planted variant is slower.")] = 10.0,
    launches: Annotated[int, typer.Option(min=2, help="Fresh processes of each run.")] = 8,
    seconds: Annotated[float, typer.Option(min=0.1, help="Each run at each point, over all launches.")] = 4.0,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads. Default: all there are.")] = None,
) -> None:
    """Run an artifact twice as it is and once slowed. Exit status 1: equal runs alarm, or the slow one is not found."""
    with Stages() as stage:
        plan = Plan(launches=launches, seconds=seconds)
        count = threads or default_threads()
        found = planted(artifact, slower=slower / 100, plan=plan, threads=count, say=_said(stage))
    write(f"Two equal runs: {found['equal']['regressions']} alarms, {found['equal']['compared']} times compared.")
    for change in found["equal"]["times"]:
        write(f"  {_described(change)}")
    write(f"Slowed by {slower:g} %: found at {found['found']} of {found['points']} points.")
    for change in found["slowed"]["times"]:
        write(f"  {_described(change)}")
    if not found["held"]:
        raise typer.Exit(1)


@app.command(epilog="\b\nExample:\n  python -m benchmarks greedy gemma3-270m model.gguf --json greedy.json")
@guarded
def greedy(
    artifact: Annotated[str, typer.Argument(metavar="ARTIFACT", help="Exported from that file.")],
    gguf: Annotated[Path, typer.Argument(metavar="MODEL.gguf", exists=True, dir_okay=False, help="A GGUF file.")],
    prompts: Annotated[int, typer.Option(min=1, help="Texts.")] = 20,
    new_tokens: Annotated[int, typer.Option(min=1, help="Tokens of each.")] = 64,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads. Default: all there are.")] = None,
    json: Annotated[Path | None, typer.Option(help="Where the record goes.")] = None,
) -> None:
    """Show where greedy texts of an artifact and of llama.cpp part, from the file as it is and from its floats."""
    from benchmarks.greedy import compare

    count = threads or default_threads()
    with Stages() as stage:
        found = compare(artifact, gguf, prompts=prompts, new_tokens=new_tokens, threads=count, say=_said(stage))
    if json is not None:
        settings = {"prompts": prompts, "new_tokens": new_tokens, "threads": count}
        command = shlex.join(["python", "-m", "benchmarks", "greedy", Path(artifact).name, gguf.name])
        record.write({**record.new(command=command, settings=settings, calibration=None), "greedy": found}, json)
    table(("llama.cpp's weights", "same", "parted", "margins of our logits where they parted"), [
        (entry["weights"], f"{entry['same']} of {entry['prompts']}", len(entry["parted"]),
         ", ".join(f"{parting['margin']:.3f}" for parting in sorted(entry["parted"], key=lambda it: it["margin"])))
        for entry in found
    ], numbers=(1, 2))  # fmt: skip


@app.command(epilog="\b\nExample:\n  python -m benchmarks gate --json gate.json")
@guarded
def gate(
    models: Annotated[int, typer.Option(min=0, help="Right models: draws of weights x recipes x instructions.")] = 1000,
    seed: Annotated[int, typer.Option(help="Of the order of families, and of the first draws.")] = 1,
    faults: Annotated[bool, typer.Option("--faults/--no-faults", help="Plant faults, too.")] = True,
    kind: Annotated[list[str] | None, typer.Option(help="Only kinds that begin so; again for more.")] = None,
    journal: Annotated[Path, typer.Option(help="What is done; a run goes on from it.")] = Path("gate.jsonl"),
    json: Annotated[Path | None, typer.Option(help="Where the record goes.")] = None,
) -> None:
    """Try the float32 gate: right models of every family, of which it refuses one in a thousand at most, and planted
    faults, of which it refuses all that move the result. Exit status 1: it does not."""
    from benchmarks.gate import run as evidence
    from benchmarks.gate import summary
    from benchmarks.right_models import kinds

    chosen = [one for one in kinds() if not kind or str(one).startswith(tuple(kind))]
    with Stages() as stage:
        done = evidence(journal, models=models, seed=seed, faults=faults, say=_said(stage), chosen=chosen)
    found = summary(done)
    if json is not None:
        settings = {"models": models, "seed": seed, "faults": faults, "kinds": kind or []}
        command = shlex.join(["python", "-m", "benchmarks", *sys.argv[1:]])
        record.write({**record.new(command=command, settings=settings, calibration=None), "gate": found}, json)
    right, refused = found["right"], found["right"]["refused"]
    write(f"{len(refused)} of {right['models']} right models refused, of {right['families']} families.")
    for entry in refused:
        write(f"  {entry['kind']}, {entry['strain']}, seed {entry['seed']}, {entry['isa'] or entry['recipe']}: "
              f"{'; '.join(entry['broken'])}")  # fmt: skip
    table(("fault", "planted", "moved", "refused", "least share"), [
        (name, entry["planted"], entry["moved"], entry["refused"], f"{entry['least']:.3g}" if "least" in entry else "")
        for name, entry in found["faults"].items()
    ], numbers=(1, 2, 3, 4))  # fmt: skip
    missed = sum(entry["moved"] - entry["refused"] for entry in found["faults"].values())
    if len(refused) > max(1, right["models"] // 1000) or missed:
        raise typer.Exit(1)


def _said(stage: Stages) -> Callable[[str], None]:
    """Progress on a terminal, and as lines in the log of a run that takes an hour."""
    began = time.perf_counter()
    return stage if sys.stderr.isatty() else lambda text: note(f"{time.perf_counter() - began:7.1f} s  {text}")


def _described(change: Any) -> str:
    ratio = change["ratio"]
    where = f"{change['what']} at {change['batch']} x {change['length']}"
    return f"{where}: {ratio['value']:.3f} ({ratio['low']:.3f} - {ratio['high']:.3f})"


if __name__ == "__main__":
    app(prog_name="python -m benchmarks")
