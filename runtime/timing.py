"""How long calls take: warmed up until stable, in turns, medians with their spread.

Turns (one call of each in every round) let a slow moment of the machine slow all alike: Kalibera and Jones 2013,
"Rigorous benchmarking in reasonable time", doi:10.1145/2464157.2464160.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["Timing", "cpu_share", "interleave", "warm_up"]

_WINDOW = 5


@dataclass(frozen=True)
class Timing:
    """Seconds of one call, over ``runs`` calls: median, and the 10th and 90th percentile."""

    median: float
    low: float
    high: float
    runs: int

    @classmethod
    def of(cls, seconds: list[float]) -> Timing:
        ordered = sorted(seconds)
        return cls(_quantile(ordered, 0.5), _quantile(ordered, 0.1), _quantile(ordered, 0.9), len(ordered))

    def to_json(self) -> dict[str, Any]:
        figures = {"median_ms": self.median, "p10_ms": self.low, "p90_ms": self.high}
        return {**{name: float(f"{value * 1e3:.6g}") for name, value in figures.items()}, "runs": self.runs}


def warm_up(call: Callable[[], Any], *, seconds: float = 2.0, tolerance: float = 0.05) -> int:
    """Call until the medians of two windows of calls agree, or the time is over; how many calls that took."""
    end = time.perf_counter() + seconds
    taken: list[float] = []
    while True:
        taken.append(_once(call))
        if len(taken) >= 2 * _WINDOW:
            before = _quantile(sorted(taken[-2 * _WINDOW : -_WINDOW]), 0.5)
            now = _quantile(sorted(taken[-_WINDOW:]), 0.5)
            if abs(now - before) <= tolerance * before:
                break
        if time.perf_counter() >= end and len(taken) >= 2:
            break
    return len(taken)


def interleave(
    calls: Mapping[str, Callable[[], Any]],
    *,
    seconds: float = 2.0,
    least: int = 5,
    most: int = 1000,
    pause: float = 0.0,
) -> dict[str, Timing]:
    """Time every call, one of each in every round, for about ``seconds`` (at least ``least`` rounds) after warming up.

    Rounds run forwards and backwards in turn, so that no call always follows the same other one; ``pause`` seconds
    before each call let the idle threads of the one before it stop spinning.
    """
    for call in calls.values():
        warm_up(call, seconds=seconds / 2)
    taken: dict[str, list[float]] = {name: [] for name in calls}
    end, order = time.perf_counter() + seconds, list(calls)
    rounds = 0
    while rounds < least or (rounds < most and time.perf_counter() < end):
        for name in order:
            if pause:
                time.sleep(pause)
            taken[name].append(_once(calls[name]))
        order.reverse()
        rounds += 1
    return {name: Timing.of(values) for name, values in taken.items()}


def cpu_share(seconds: float = 0.2) -> float:
    """What share of a core one busy thread gets: well below 1 where other processes want the cores as well.

    Parallel kernels then wait for whichever thread was put aside, and no median says so.
    """
    began, used = time.perf_counter(), time.thread_time()
    while (passed := time.perf_counter() - began) < seconds:
        pass
    return (time.thread_time() - used) / passed


def _once(call: Callable[[], Any]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def _quantile(ordered: list[float], q: float) -> float:
    place = q * (len(ordered) - 1)
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)
