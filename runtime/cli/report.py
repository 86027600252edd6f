"""``precast report``: an artifact as a page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from precast.runtime.cli.console import guarded, write
from precast.runtime.errors import InputError, OutputExistsError

__all__ = ["register", "report"]


@guarded
def report(
    artifact: Annotated[str, typer.Argument(metavar="ARTIFACT", help="The artifact's folder.")],
    out: Annotated[Path | None, typer.Argument(metavar="PAGE.html", help="Default: ARTIFACT.html beside it.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the page that is there.")] = False,
) -> None:
    """Write a page about an artifact: sizes, what was lost, what was tried, and which weights cost most."""
    from precast.runtime.artifact import Artifact
    from precast.runtime.report import html

    found = Artifact.open(artifact)
    page = out if out is not None else found.path.with_name(f"{found.path.name}.html")
    if page.exists() and not overwrite:
        raise OutputExistsError(f"{page} is there already. Name another file, or replace it with --overwrite.")
    if not page.parent.is_dir() or page.is_dir():
        raise InputError(f"the page is a file in a folder that exists; received {str(page)!r}.")
    page.write_text(html(found), encoding="utf-8")
    write(f"{page} holds the page.")


def register(app: typer.Typer) -> None:
    app.command(epilog="\b\nExample:\n  precast report minilm\n  precast report minilm pages/minilm.html --overwrite")(
        report
    )
