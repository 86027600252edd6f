"""The server scenario: requests that arrive at random, and the most of them a second that a latency bound allows.

Open loop: arrivals do not wait for answers, so a queue that grows shows in the latencies (the Server scenario of
MLPerf Inference, Reddi et al. 2020, arXiv:1911.02549).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from precast.runtime.bench.contender import Process
from precast.runtime.bench.statistics import quantile

__all__ = ["serve"]

_STEPS = 5
_REQUESTS = (100, 2000)
_BOUND = 5.0  # times the mean answer, where the user names no bound


def serve(
    process: Process, feeds: Sequence[str], *, mean: float, bound: float | None, seconds: float
) -> dict[str, Any]:
    """Halve the interval between a load that is held (99 % of the answers within the bound) and one that is not.

    Args:
        mean: seconds one answer takes when nobody waits: its inverse is the most that could be served at all.
        bound: seconds; None: five times ``mean``.
        seconds: about how long each load is tried, with 100 requests at least.

    Returns: ``held_per_second`` (low: the highest load that was held, high: the lowest that was not), the latencies'
    quantiles at the load that was held, in seconds, and ``utilisation``, its share of what could be served at all.
    """
    bound = bound or _BOUND * mean
    held, failed = 0.0, 1.0 / mean
    latencies: list[float] = []
    tried = []
    for step in range(_STEPS):
        rate = (held + failed) / 2
        requests = int(min(max(_REQUESTS[0], rate * seconds), _REQUESTS[1]))
        answer = process.ask("serve", feeds=list(feeds), rate=rate, requests=requests, seed=step)
        slowest = quantile(answer["latencies"], 0.99)
        tried.append({"per_second": _short(rate), "p99_seconds": _short(slowest), "requests": requests})
        if slowest <= bound:
            held, latencies = rate, answer["latencies"]
        else:
            failed = rate
    return {
        "bound_seconds": _short(bound),
        "held_per_second": {"value": _short(held), "low": _short(held), "high": _short(failed), "runs": len(tried)},
        "utilisation": _short(held * mean),
        "quantiles": {name: _short(quantile(latencies, q)) for name, q in (("p50", 0.5), ("p90", 0.9), ("p99", 0.99))}
        if latencies
        else {},
        "tried": tried,
    }


def _short(value: float) -> float:
    return float(f"{value:.5g}")
