"""The commands, put together."""

from __future__ import annotations

from typing import Annotated

import typer

from precast.runtime.cli import bench, chat, demo, diff, env, export, hub, inspect, quantize, report, run, verify
from precast.runtime.cli.console import set_debug, write

__all__ = ["app"]

app = typer.Typer(
    name="precast",
    help="Hugging Face checkpoints, cast ahead of time into verified artifacts that run without PyTorch.",
    epilog="\b\nExample:\n  precast export sentence-transformers/all-MiniLM-L6-v2 minilm\n  precast verify minilm",
    no_args_is_help=True,
    # Plain help and errors: they are the same on a terminal, in a pipe and in a log, and rich is not loaded for them.
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for _module in (export, quantize, run, chat, verify, inspect, report, bench, diff, hub, env, demo):
    _module.register(app)


def _show_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        write(f"precast {version('precast')}")
        raise typer.Exit


@app.callback()
def _options(
    debug: Annotated[
        bool, typer.Option("--debug", envvar="PRECAST_DEBUG", help="Show the traceback of an error.")
    ] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and leave.")
    ] = False,
) -> None:
    set_debug(debug)
