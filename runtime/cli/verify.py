"""``precast verify``: replay an artifact's parity record."""

from __future__ import annotations

from typing import Annotated

import typer

from precast.runtime.cli.console import Stages, guarded, table, write, write_json

__all__ = ["register", "verify"]


@guarded
def verify(
    artifact: Annotated[str, typer.Argument(metavar="ARTIFACT", help="The artifact's folder.")],
    variant: Annotated[str | None, typer.Option(help="Only this one. Default: all that can run here.")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads. Default: all there are.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Check every digest and replay the recorded inputs, without PyTorch. Exit status 0: it computes what it should."""
    from precast.runtime.verify import verify as replay

    with Stages() as stage:
        report = replay(artifact, variant=variant, threads=threads, progress=stage)
    if as_json:
        write_json(report)
        return
    rows = []
    for name, entry in report["variants"].items():
        if entry["status"] != "verified":
            rows.append((name, "", entry["status"], "", "", "", ""))
            continue
        for output, worst in entry["outputs"].items():
            share = f"{worst['share']:.0%}" if "share" in worst else ""
            figures = (f"{worst['max_abs']:.1e}", f"{worst['cosine']:.9f}", share)
            rows.append((name, output, entry["status"], str(entry["cases"]), *figures))
    columns = ("variant", "output", "status", "cases", "max abs error", "cosine", "of the gate")
    table(columns, rows, numbers=(3, 4, 5, 6))
    for name, entry in report["variants"].items():
        if "reason" in entry:
            write(f"{name}: {entry['reason']}")
    write(f"{report['artifact']} is what was exported: every file has its digest, every gate holds.")


def register(app: typer.Typer) -> None:
    app.command(
        short_help="Replay the proof an artifact carries.",
        epilog="\b\nExample:\n  precast verify minilm && echo it is sound",
    )(verify)
