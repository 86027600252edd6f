"""What the commands share: results on stdout, everything else on stderr, and errors as one line with an exit status."""

from __future__ import annotations

import functools
import json
import math
import os
import sys
import time
import warnings
from base64 import b64encode
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from types import TracebackType
from typing import Any, ParamSpec, TypeVar

import typer

from precast.runtime.errors import PrecastError

__all__ = [
    "Stages",
    "guarded",
    "note",
    "peak_memory",
    "plain",
    "set_debug",
    "size_text",
    "table",
    "write",
    "write_json",
]

P = ParamSpec("P")
T = TypeVar("T")

_INTERRUPTED = 130  # 128 + SIGINT, as shells have it
_debug = False


def set_debug(wanted: bool) -> None:
    """Whether errors leave with their traceback."""
    global _debug
    _debug = wanted


def write(text: str = "") -> None:
    """A line on stdout."""
    sys.stdout.write(f"{text}\n")


def note(text: str) -> None:
    """A line on stderr."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def is_picture(value: Any) -> bool:
    """Whether a value is a Pillow image, without importing Pillow."""
    return hasattr(value, "getbands") and hasattr(value, "save")


def plain(value: Any) -> Any:
    """``value`` as what JSON can hold: arrays and tuples as lists, NaN and infinities as null, a picture as the address
    of its PNG (``data:image/png;base64,...``)."""
    if is_picture(value):
        return _address(value)
    if hasattr(value, "tolist"):  # NumPy arrays and scalars, without importing it
        value = value.tolist()
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _address(picture: Any) -> str:
    content = BytesIO()
    picture.save(content, "PNG")
    return f"data:image/png;base64,{b64encode(content.getvalue()).decode()}"


def write_json(document: Any, *, compact: bool = False) -> None:
    """The one document of ``--json``; ``compact`` for one of many lines."""
    write(json.dumps(plain(document), ensure_ascii=False, allow_nan=False, indent=None if compact else 2))


def guarded(command: Callable[P, T]) -> Callable[P, T]:
    """A command whose errors are one line on stderr and exit status 1."""

    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            with warnings.catch_warnings():
                if not _debug:
                    # Those of libraries: nothing a user of a command can act on.
                    warnings.simplefilter("ignore")
                result = command(*args, **kwargs)
            sys.stdout.flush()
        except BrokenPipeError:
            # Whoever read us has enough. The interpreter flushes once more on its way out: let that go nowhere.
            with suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(1) from None
        except KeyboardInterrupt:
            _raise_if_debug()
            note("precast: interrupted.")
            raise typer.Exit(_INTERRUPTED) from None
        except (PrecastError, OSError, MemoryError) as error:
            _raise_if_debug()
            note(f"precast: error: {_one_line(error)}")
            raise typer.Exit(1) from None
        except Exception as error:
            # typer's own (usage, Exit, Abort) know how to end.
            if hasattr(error, "exit_code") or type(error).__name__ == "Abort":
                raise
            _raise_if_debug()
            note(
                f"precast: error: unexpected {type(error).__name__}: {_one_line(error)} "
                "This is a defect of precast; PRECAST_DEBUG=1 shows where."
            )
            raise typer.Exit(1) from None
        return result

    return run


def _raise_if_debug() -> None:
    if _debug:
        raise  # noqa: PLE0704 - called from except blocks only


def _one_line(error: BaseException) -> str:
    if isinstance(error, MemoryError):
        return "There is not enough memory. Close other programs, or use a machine with more."
    return " ".join(str(error).split()) or type(error).__name__


def peak_memory() -> int:
    """Largest resident size of this process so far, in bytes; where the system tells it, with that of the processes
    that work for it now."""
    from precast.runtime.machine import own_peak

    return own_peak() + sum(map(_peak_of, _children()))


def _children() -> list[str]:
    """Numbers of the processes that this one has started; on Linux."""
    found = []
    for thread in Path("/proc/self/task").glob("*/children"):
        with suppress(OSError):
            found += thread.read_text().split()
    return found


def _peak_of(process: str) -> int:
    with suppress(OSError, ValueError):
        for line in Path("/proc", process, "status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return 0


def size_text(count: float) -> str:
    """A size in bytes, to read."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= factor:
            return f"{count / factor:.1f} {unit}"
    return f"{count:.0f} bytes"


def table(
    columns: Sequence[str], rows: Iterable[Sequence[str]], *, title: str = "", numbers: Iterable[int] = ()
) -> None:
    """A table on stdout: drawn on a terminal, aligned with spaces elsewhere. ``numbers`` are right-aligned columns."""
    rows = [[str(cell) for cell in row] for row in rows]
    right = set(numbers)
    if sys.stdout.isatty():
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        drawn = Table(title=title or None, title_justify="left", title_style="bold")
        for index, name in enumerate(columns):
            drawn.add_column(name, justify="right" if index in right else "left", no_wrap=index in right)
        for row in rows:
            drawn.add_row(*map(Text, row))
        Console(file=sys.stdout, highlight=False).print(drawn)
        return
    if title:
        write(title)
    widths = [max(map(len, column)) for column in zip(columns, *rows, strict=True)]
    for row in (columns, *rows):
        cells = [
            cell.rjust(width) if index in right else cell.ljust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        write("  ".join(cells).rstrip())


class Stages:
    """Progress of a long command: ``with Stages() as stage: stage("tracing")``.

    On a terminal, stderr shows each stage with its time and the peak memory; elsewhere nothing is written.
    """

    def __init__(self) -> None:
        self._bar: Any = None
        self._current: Any = None
        self._began = 0.0
        self._highest = 0
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import Progress, SpinnerColumn, TextColumn
            from rich.text import Text

            stages = self

            class Cost(TextColumn):
                """Seconds of the stage, and the peak memory as it was at its end."""

                def __init__(self) -> None:
                    super().__init__("")

                def render(self, task: Any) -> Text:
                    peak = task.fields.get("peak") or stages._peak()
                    return Text(f"{task.elapsed or 0.0:6.1f} s   peak {size_text(peak)}", style="dim")

            self._bar = Progress(
                SpinnerColumn(finished_text="[green]✓"), TextColumn("{task.description:<48}"), Cost(),
                console=Console(file=sys.stderr, highlight=False),
            )  # fmt: skip

    def __enter__(self) -> Stages:
        self._began = time.perf_counter()
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            if kind is None:
                self._finish()
            self._bar.stop()

    def __call__(self, name: str) -> None:
        """The stage ``name`` begins, and the one before it is done."""
        if self._bar is not None:
            self._finish()
            self._current = self._bar.add_task(name, total=1)

    @property
    def seconds(self) -> float:
        """Since the start of the command's work."""
        return time.perf_counter() - self._began

    def _peak(self) -> int:
        # What another process held is not told any more once that has ended.
        self._highest = max(self._highest, peak_memory())
        return self._highest

    def _finish(self) -> None:
        if self._current is not None:
            self._bar.update(self._current, completed=1, peak=self._peak())
            self._current = None
