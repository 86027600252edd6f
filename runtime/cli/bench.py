"""``precast bench``: an artifact's latency, throughput, memory and error; two records compared; a record as a page."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from precast.runtime.cli.console import Stages, guarded, size_text, table, write, write_json

__all__ = ["bench", "register"]

_EXAMPLE = """\b
Example:
  precast bench minilm --batch 1,8 --length 16,128,natural --html minilm.html
  precast bench minilm --json > after.json && precast bench compare before.json after.json"""


class _DefaultsToRun(TyperGroup):
    """``precast bench ARTIFACT`` is ``precast bench run ARTIFACT``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        return super().parse_args(ctx, args if args and args[0] in self.commands else ["run", *args])


@guarded
def bench(
    artifact: Annotated[str, typer.Argument(metavar="ARTIFACT", help="The artifact's folder.")],
    batch: Annotated[str, typer.Option(help="Batch sizes, separated by commas.")] = "1,8",
    length: Annotated[
        str, typer.Option(help="Lengths in tokens, separated by commas; also natural and uniform:LOW-HIGH.")
    ] = "16,128",
    scenario: Annotated[
        str,
        typer.Option(help="single (one call after the other), offline (all texts at hand), server (random arrivals)."),
    ] = "single",
    variant: Annotated[
        str | None, typer.Option(help="Only these, with commas. Default: all that can run here.")
    ] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda or tensorrt.")] = "cpu",
    threads: Annotated[str | None, typer.Option(help="CPU threads, with commas. Default: all there are.")] = None,
    seconds: Annotated[
        float, typer.Option(min=0.01, help="Time for each variant at each point, over all launches, once warm.")
    ] = 2.0,
    launches: Annotated[int, typer.Option(min=1, help="Fresh processes of each variant: they differ too.")] = 3,
    bound: Annotated[
        float | None, typer.Option(min=0.001, help="server: milliseconds for 99 % of the answers. Default: 5 medians.")
    ] = None,
    new_tokens: Annotated[int, typer.Option(min=2, help="Of language models: tokens generated behind a prompt.")] = 64,
    html: Annotated[Path | None, typer.Option(help="Write a page with charts to this file.")] = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print Markdown tables.")] = False,
    calibration: Annotated[
        bool, typer.Option("--calibration/--no-calibration", help="Measure first what this machine can do at all.")
    ] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document: the record.")] = False,
) -> None:
    """Time an artifact: latency, throughput, memory and cold start with their uncertainty, and its parity error.

    Every variant runs in fresh processes of its own, in turns with the others. An interval says where a repeat of the
    whole command is expected to land, 95 times of 100. "of peak" is the arithmetic done against what a matrix product
    does here; "call us" what a call costs beside the bare session.run. A language model is timed generating behind
    prompts of the lengths given.
    """
    from precast.runtime.backends.onnxruntime import default_threads
    from precast.runtime.bench.artifact import bench as measure
    from precast.runtime.bench.points import parse_lengths, parse_numbers, parse_scenarios
    from precast.runtime.bench.session import Plan
    from precast.runtime.errors import InputError

    try:
        grid = [(size, tokens) for size in parse_numbers(batch, "--batch") for tokens in parse_lengths(length)]
        counts = parse_numbers(threads, "--threads") if threads else [default_threads()]
        scenarios = parse_scenarios(scenario)
    except InputError as error:
        raise typer.BadParameter(str(error)) from error
    if html is not None:
        _check_page(html)
    with Stages() as stage:
        document = measure(
            artifact,
            grid=grid,
            scenarios=scenarios,
            variants=None if variant is None else [name.strip() for name in variant.split(",")],
            device=device,
            threads=counts,
            plan=Plan(launches=launches, seconds=seconds, turn=min(0.1, seconds / launches)),
            bound=None if bound is None else bound / 1e3,
            calibration=calibration,
            new_tokens=new_tokens,
            command=shlex.join(["precast", *sys.argv[1:]]),
            progress=stage,
        )
        if html is not None:
            stage("drawing the page")
            _write_page(document, html)
    if as_json:
        write_json(document)
    elif markdown:
        from precast.runtime.bench.report import markdown as tables

        write(tables(document))
    else:
        _show(document)
    if html is not None and not as_json:
        write(f"{html} holds the page.")


@guarded
def compare(
    a: Annotated[Path, typer.Argument(metavar="A.json", help="A record: precast bench ... --json > A.json")],
    b: Annotated[Path, typer.Argument(metavar="B.json", help="A later record of the same.")],
    bound: Annotated[float, typer.Option(min=0.0, help="Percent from which a change for the worse fails.")] = 5.0,
    any_machine: Annotated[bool, typer.Option("--any-machine", help="Compare records of different machines.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Say what changed from one record to another beyond noise. Exit status 1: something is worse by over the bound.

    Times are compared by their lower deciles, which repeat best, with intervals that hold for all of them at once;
    memory and errors as they are. An error has to double.
    """
    from precast.runtime.bench import record
    from precast.runtime.bench.compare import compare as judge

    found = judge(record.read(a), record.read(b), bound=bound / 100, any_machine=any_machine)
    if as_json:
        write_json(found)
    else:
        _show_changes(found)
    if found["regressions"]:
        raise typer.Exit(1)


@guarded
def report(
    path: Annotated[Path, typer.Argument(metavar="RECORD.json", help="A record.")],
    html: Annotated[Path | None, typer.Option(help="Write a page with charts to this file.")] = None,
) -> None:
    """Turn a record into a page with charts (--html), or into Markdown tables."""
    from precast.runtime.bench import record

    document = record.read(path)
    if html is not None:
        _check_page(html)
        with Stages() as stage:
            stage("drawing the page")
            _write_page(document, html)
        write(f"{html} holds the page.")
        return
    from precast.runtime.bench.report import markdown as tables

    write(tables(document))


def _check_page(path: Path) -> None:
    """What would make a page fail, before anything is measured for it."""
    from precast.runtime.bench.report.charts import plotly
    from precast.runtime.errors import InputError

    plotly()
    if not path.resolve().parent.is_dir():
        raise InputError(f"--html names a file in a folder that exists; received {os.fspath(path)!r}.")


def _write_page(document: Mapping[str, Any], path: Path) -> None:
    from precast.runtime.bench.report import html

    path.write_text(html(dict(document)), encoding="utf-8")


def _show(document: Mapping[str, Any]) -> None:
    machine, settings = document["machine"], document["settings"]
    plan = f"{settings['launches']} launches, {settings['seconds']:g} s a point"
    write(f"{document['artifact']} on {machine['cpu']}, {plan}")
    measured = [row for row in document["rows"] if row["scenario"] != "cold"]
    if any(row["scenario"] == "generate" for row in measured):
        new = settings["new_tokens"]
        columns: Sequence[str] = (
            *("variant", "batch x prompt", "threads", "tokens/s", "95 %", "first token ms", "95 %", "ms a token"),
            *(f"{new} tokens ms", "p90", "peak", "KL", "max abs error"),
        )
        table(columns, [_generated(row) for row in measured], numbers=range(2, 13))
    else:
        columns = (
            *("variant", "scenario", "batch x length", "threads", "median ms", "95 %", "p90", "p99"),
            *("texts/s", "of peak", "call us", "peak", "max abs error"),
        )
        table(columns, [_shown(row, document.get("calibration")) for row in measured], numbers=range(3, 13))
    for row in document["rows"]:
        if row["scenario"] == "cold":
            load = row["load"]["value"]
            write(
                f"{row['engine']}, {row['threads']} threads: a cold process has its first result after "
                f"{row['time']['value']:.2f} s ({_range(row['time'], 1, 2)}), {load:.2f} s of it opening the artifact."
            )
        elif "server" in row:
            held, bound = row["server"]["held_per_second"], row["server"]["bound_seconds"] * 1e3
            write(
                f"{row['engine']}, {row['batch']} x {row['length']}: {held['low']:.3g} requests a second are answered "
                f"within {bound:.3g} ms (99 %); {held['high']:.3g} are not."
            )
    if document["settings"]["device"] != "cpu" and machine["device"] is None:
        write(f"No device could be read on this machine: {settings['device']} rows have no device memory or clocks.")
    for entry in document["absent"]:
        write(f"{entry['engine']} was left out: {entry['reason']}")


def _shown(row: Mapping[str, Any], limits: Mapping[str, Any] | None) -> Sequence[str]:
    from precast.runtime.bench.roofline import roof

    of_peak = ""
    if limits and row.get("work"):
        share = roof(row["work"], row["time"]["value"], limits, row["precision"]).get("of_gemm")
        of_peak = "" if share is None else f"{share:.0%}"
    error = row.get("error", {}).get("max_abs")
    return (
        row["engine"],
        row["scenario"],
        f"{row['batch']} x {row['length']}",
        str(row["threads"]),
        f"{row['time']['value'] * 1e3:.2f}",
        _range(row["time"], 1e3, 2),
        f"{row['quantiles']['p90']['value'] * 1e3:.2f}",
        f"{row['quantiles']['p99']['value'] * 1e3:.2f}",
        f"{row['throughput']['texts_per_second']['value']:.1f}",
        of_peak,
        f"{row['call_overhead_us']:.0f}" if "call_overhead_us" in row else "",
        size_text(row["memory"]["peak_bytes"]) if row["memory"].get("peak_bytes") else "",
        "" if error is None else f"{error:.1e}",
    )


def _generated(row: Mapping[str, Any]) -> Sequence[str]:
    error = row.get("error", {})
    return (
        row["engine"],
        f"{row['batch']} x {row['length']}",
        str(row["threads"]),
        f"{row['decoded_per_second']['value']:.1f}",
        _range(row["decoded_per_second"], 1, 1),
        f"{row['first_token']['value'] * 1e3:.1f}",
        _range(row["first_token"], 1e3, 1),
        f"{row['per_token']['value'] * 1e3:.2f}",
        f"{row['time']['value'] * 1e3:.1f}",
        f"{row['quantiles']['p90']['value'] * 1e3:.1f}",
        size_text(row["memory"]["peak_bytes"]) if row["memory"].get("peak_bytes") else "",
        f"{error['kl_mean']:.1e}" if "kl_mean" in error else "",
        "" if error.get("max_abs") is None else f"{error['max_abs']:.1e}",
    )


def _range(figure: Mapping[str, Any], factor: float, digits: int) -> str:
    return f"{figure['low'] * factor:.{digits}f} - {figure['high'] * factor:.{digits}f}"


def _show_changes(found: Mapping[str, Any]) -> None:
    if found["other_machine"]:
        write(f"Different machines ({', '.join(found['other_machine'])}): the ratios are the machines' too.")
    rows = [
        (
            "WORSE" if change["regression"] else "worse" if change["worse"] else "better",
            change["what"],
            f"{change['workload']} {change['engine']} {change['scenario']} {change['batch']} x {change['length']}",
            f"{change['ratio']['value']:.3f}",
            _range(change["ratio"], 1, 3),
        )
        for change in found["changes"]
    ]
    if rows:
        table(("", "what", "where", "B / A", "95 %"), rows, numbers=(3, 4))
    for name, missing in (("first", found["only_a"]), ("second", found["only_b"])):
        if missing:
            write(f"{len(missing)} measurements are in the {name} record only.")
    if found["regressions"]:
        write(f"{found['regressions']} figures are worse by more than {found['bound']:.0%}.")
    else:
        write(f"Nothing is worse by more than {found['bound']:.0%} beyond noise; {found['compared']} times compared.")


def register(app: typer.Typer) -> None:
    group = typer.Typer(
        cls=_DefaultsToRun,
        help="Time an artifact: latency, throughput, memory and cold start with their uncertainty, and its error.",
        short_help="Time an artifact, compare two records, draw a page.",
        rich_markup_mode=None,
        epilog=_EXAMPLE,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    group.command("run", short_help="Time an artifact (the default).", epilog=_EXAMPLE)(bench)
    group.command(
        "compare",
        short_help="What changed between two records, beyond noise.",
        epilog="\b\nExample:\n  precast bench compare before.json after.json --bound 5",
    )(compare)
    group.command(
        "report",
        short_help="A record as a page or as Markdown.",
        epilog="\b\nExample:\n  precast bench report record.json --html page.html",
    )(report)
    app.add_typer(group, name="bench")
