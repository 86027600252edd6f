"""``precast quantize``: an artifact's weights in few bits, as far as a user's data lets them."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from contextlib import redirect_stdout
from typing import Annotated, Any

import typer

from precast.runtime.cli.console import Stages, guarded, note, table, write, write_json

__all__ = ["quantize", "register"]


@guarded
def quantize(
    artifact: Annotated[str, typer.Argument(metavar="ARTIFACT", help="A folder made by `precast export` in fp32.")],
    data: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="Texts (.txt), a table (.jsonl, .csv, .tsv, .parquet), arrays (.npz), or a folder of pictures. "
            "Default: texts and pictures that are made up.",
        ),
    ] = None,
    precision: Annotated[str, typer.Option(help="int8 or int4.")] = "int8",
    budget: Annotated[
        str | None,
        typer.Option(metavar="SHARE", help="What may be lost: 0.5%, or 0.005. Default: the gate, and 1% of data."),
    ] = None,
    column: Annotated[str | None, typer.Option(help="The column of a table that holds the input.")] = None,
    label: Annotated[str | None, typer.Option(help="The column that holds what is right.")] = None,
    score: Annotated[str | None, typer.Option(help="What labels are counted by: accuracy, f1 or spearman.")] = None,
    samples: Annotated[int, typer.Option(help="Samples taken of the data at most.")] = 512,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Add int8 or int4 to an artifact: the fastest way to round it that keeps its answers to your data. No PyTorch."""
    share = None if budget is None else _share(budget)
    from precast.runtime.quantizer import load_quantizer

    with Stages() as stage, redirect_stdout(sys.stderr):
        stage("starting")
        work = load_quantizer()
        from precast.calibration.quantize import BudgetError

        refused: BudgetError | None = None
        try:
            made = work(
                artifact,
                data,
                precision=precision,
                budget=share,
                column=column,
                label=label,
                score=score,
                samples=samples,
                progress=stage,
            )
        except BudgetError as error:
            refused = error
            made = {"attempts": [one.to_json() for one in error.attempts], "parts": dict(error.parts)}
    if as_json:
        write_json(made if refused is None else {"error": str(refused), **made})
    else:
        _show(made)
    if refused is not None:
        note(f"precast: error: {refused}")
        raise typer.Exit(1)
    if not as_json:
        speeds = ", ".join(f"{name} {share:.2f}" for name, share in made["speed"].items())
        write(f"Time of a call beside fp32: {speeds}.")
        write(f"Try it: precast inspect {artifact}")


def _share(text: str) -> float:
    """0.5% and 0.005 alike."""
    number = text.strip().removesuffix("%")
    try:
        value = float(number) / (100 if text.strip().endswith("%") else 1)
    except ValueError:
        raise typer.BadParameter(f"--budget is a share, as 0.5% or 0.005; received {text!r}.") from None
    return value


def _show(made: Mapping[str, Any]) -> None:
    from precast.runtime.report import LOSSES, METHODS

    lost = LOSSES.get(str(made.get("metric")), "loss")
    rows = [
        (
            METHODS.get(one["method"], one["method"]),
            f"{one['loss']:.4%}",
            "" if one.get("score") is None else f"{one['score']:.4f}",
            str(len(one["wider"])),
            "yes" if one["met"] else "no",
        )
        for one in made["attempts"]
    ]
    table(("way", lost, "score", "kinds of weights with more bits", "passes"), rows, title="Tried", numbers=(1, 2, 3))
    costly = sorted(
        ((kind, said) for kind, said in made["parts"].items() if said.get("alone")), key=lambda part: -part[1]["alone"]
    )
    if costly:
        shown = [(kind, f"{said['alone']:.1%}", "yes" if said.get("wider") else "no") for kind, said in costly[:12]]
        table(("weights", "of the bound, alone", "more bits"), shown, title="What rounding moves most", numbers=(1,))
    if "loss" in made:
        data = made["data"]
        budget = "" if made["budget"] is None else f", of a budget of {made['budget']:.4%}"
        write(
            f"{', '.join(made['variants'])}: {lost} {made['loss']:.4%}{budget}, over {data['samples']} samples of "
            f"{data['name']}, half of them not measured on."
        )


def register(app: typer.Typer) -> None:
    app.command(
        epilog="\b\nExample:\n  precast quantize minilm --data sentences.txt --budget 0.1%\n"
        "  precast quantize classifier --data reviews.csv --label label --precision int4 --json"
    )(quantize)
