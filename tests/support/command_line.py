"""`precast` as a test calls it: what succeeds, what is refused in one line, what is a usage error."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from precast.runtime.cli.app import app

PRECAST = [sys.executable, "-c", "from precast.runtime.cli import main; main()"]


@contextmanager
def interruptible() -> Iterator[None]:
    """Ctrl-C as in a terminal, here and in what is started: who ignores it (nohup, a background job) hands that on."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def call(*arguments: str | Path, stdin: str | bytes | None = None) -> Any:
    return CliRunner().invoke(app, [str(argument) for argument in arguments], input=stdin, prog_name="precast")


def good(*arguments: str | Path, stdin: str | bytes | None = None) -> str:
    result = call(*arguments, stdin=stdin)
    assert result.exit_code == 0, result.stderr
    assert result.stderr == ""
    return str(result.stdout)


def refused(*arguments: str | Path, stdin: str | bytes | None = None) -> str:
    """The one line an error is."""
    result = call(*arguments, stdin=stdin)
    assert result.exit_code == 1, (result.exit_code, result.stdout, result.stderr)
    lines = result.stderr.splitlines()
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("precast: error: ")
    assert result.stdout == ""
    return lines[0].removeprefix("precast: error: ")


def misused(*arguments: str | Path) -> str:
    result = call(*arguments)
    assert result.exit_code == 2, result.output
    assert "Traceback" not in result.stderr
    return " ".join(result.stderr.split())
