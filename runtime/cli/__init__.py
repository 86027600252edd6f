"""The command line. ``main`` is the entry point ``precast``; one file a command, everything heavy imported on use."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run ``precast`` with ``arguments`` (default: the process's own) and leave with its exit status.

    0: done. 1: the request could not be met, one line on stderr says why. 2: wrong usage. 130: interrupted.
    """
    from precast.runtime.cli.app import app

    app(args=None if arguments is None else list(arguments), prog_name="precast")
