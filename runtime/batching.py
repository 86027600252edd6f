"""Length-sorted batches under a token budget: little padding, results in input order, streams stay lazy.

Rows of similar length share a batch (bucketing by length, as in Khomenko et al. 2016, arXiv:1708.05604), longest
first, so that the largest memory need shows at once.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeAlias, TypeVar

import numpy as np

from precast.runtime import arguments
from precast.runtime.errors import InputError

__all__ = [
    "CPU_BUDGET",
    "CPU_OVERHEAD",
    "GPU_BUDGET",
    "GPU_OVERHEAD",
    "Progress",
    "check_limits",
    "check_progress",
    "device",
    "limits",
    "pad",
    "plan",
    "reporter",
    "waste",
    "windows",
]

# MiniLM on 2 cores: a call costs about 2.5 ms however small, a token 0.14 ms, and past some hundred tokens a larger
# batch gains nothing. A GPU wants far more work per launch.
CPU_BUDGET = 2048
CPU_OVERHEAD = 24
GPU_BUDGET = 16384
GPU_OVERHEAD = 1024

LIST_WINDOW = 1024
STREAM_WINDOW = 1024

Item = TypeVar("Item")

Progress: TypeAlias = "bool | Callable[[int, int | None], None]"
"""``True``: a bar on stderr where that is a terminal; a function: called with (done, total or None)."""


def check_limits(batch_size: int | None, token_budget: int | None) -> None:
    """Refuse sizes below 1 before any work is done."""
    for name, value in (("batch_size", batch_size), ("token_budget", token_budget)):
        if value is not None:
            arguments.whole(name, value, instead=", or None")


def check_progress(progress: Any) -> Progress:
    """Refuse what is neither a switch nor a function."""
    if not isinstance(progress, (bool, np.bool_)) and not callable(progress):
        raise InputError(
            f"progress must be True, False or a function of (done, total or None); received {progress!r:.80}."
        )
    checked: Progress = progress
    return checked


def device(model: Any) -> str:
    """The kind of device a model runs on: cpu, cuda ..."""
    return str(getattr(getattr(model, "variant", None), "target", "cpu"))


def limits(model: Any, token_budget: int | None, cpu_budget: int = CPU_BUDGET) -> dict[str, int]:
    """``token_budget`` and ``overhead`` of `plan` for the device a model runs on."""
    on_cpu = device(model) == "cpu"
    return {
        "token_budget": token_budget or (cpu_budget if on_cpu else GPU_BUDGET),
        "overhead": CPU_OVERHEAD if on_cpu else GPU_OVERHEAD,
    }


def plan(
    lengths: Sequence[int],
    *,
    token_budget: int = CPU_BUDGET,
    batch_size: int | None = None,
    overhead: int = CPU_OVERHEAD,
) -> list[list[int]]:
    """Batches of row indices, longest rows first; every row is in exactly one batch.

    A batch of B rows padded to S holds B * S <= ``token_budget`` tokens (one row alone may exceed it) and at most
    ``batch_size`` rows. Within that, the cut of the sorted rows that computes least: padded tokens, plus what a call
    costs in tokens (``overhead``). Exact, by dynamic programming over the sorted rows.
    """
    count = len(lengths)
    if count < 2:
        return [[0]] if count else []
    order = sorted(range(count), key=lambda index: -lengths[index])
    best = np.full(count + 1, np.inf)
    best[0] = 0.0
    start = np.zeros(count + 1, dtype=np.int64)
    steps = np.arange(1, count + 1, dtype=np.float64)
    for first, index in enumerate(order):
        longest = max(lengths[index], 1)
        rows = min(max(token_budget // longest, 1), batch_size or count, count - first)
        cost = best[first] + overhead + steps[:rows] * longest
        reach = slice(first + 1, first + 1 + rows)
        better = cost <= best[reach]
        best[reach][better] = cost[better]
        start[reach][better] = first
    batches: list[list[int]] = []
    end = count
    while end:
        batches.append(order[start[end] : end])
        end = int(start[end])
    return batches[::-1]


def waste(lengths: Sequence[int], batches: Iterable[Sequence[int]]) -> float:
    """Share of the computed tokens that are padding, 0 to 1."""
    padded = sum(len(batch) * max(lengths[index] for index in batch) for batch in batches)
    return 1.0 - sum(lengths) / padded if padded else 0.0


def windows(items: Iterable[Item], *, limit: int, first: int | None = None) -> Iterator[list[Item]]:
    """Consecutive lists of at most ``limit`` items; with ``first``, sizes start there and double.

    Starting small gives a stream its first result after one item, and good batches soon after.
    """
    size = min(first or limit, limit)
    window: list[Item] = []
    for item in items:
        window.append(item)
        if len(window) >= size:
            yield window
            window, size = [], min(size * 2, limit)
    if window:
        yield window


def pad(
    rows: Sequence[Mapping[str, np.ndarray]], *, fill: Mapping[str, int], side: str = "right"
) -> dict[str, np.ndarray]:
    """Stack rows of ``[S_i, ...]`` arrays into ``[B, S, ...]``, S the longest; ``fill`` gives each name's padding
    value."""
    batch: dict[str, np.ndarray] = {}
    for name, value in rows[0].items():
        if len(rows) == 1:
            batch[name] = value[None]
            continue
        longest = max(len(row[name]) for row in rows)
        stacked = np.full((len(rows), longest, *value.shape[1:]), fill.get(name, 0), dtype=value.dtype)
        for place, row in zip(stacked, rows, strict=True):
            length = len(row[name])
            if side == "right":
                place[:length] = row[name]
            else:
                place[longest - length :] = row[name]
        batch[name] = stacked
    return batch


@contextmanager
def reporter(progress: Progress, total: int | None, label: str) -> Iterator[Callable[[int], None]]:
    """A function to call with the number of inputs done so far."""
    if callable(progress):
        yield lambda done: progress(done, total)
    elif progress and sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
        from rich.progress import Progress as Bar

        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task(label, total=total)
            yield lambda done: bar.update(task, completed=done)
    else:
        yield lambda done: None
