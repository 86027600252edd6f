"""Two records of one benchmark: what changed beyond noise, and whether anything got worse past a bound.

Times are judged by their lower deciles: other programs only ever add time, so what a call takes when left alone
repeats within a percent where its median does not (Chen and Revels 2016, arXiv:1608.04295).
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from precast.runtime.bench.record import key
from precast.runtime.bench.statistics import LEVEL, OF_A_MEDIAN, Estimate, pool, student
from precast.runtime.errors import BenchmarkError

__all__ = ["BOUND", "compare"]

BOUND = 0.05
# Per launch, one value each: what a row holds of them, and how it is called to a reader.
_TIMES = {"floors": "time", "first_tokens": "time to first token", "per_tokens": "time per token"}
_LEAST_BYTES = 16 << 20  # memory: the granularity of allocators and libraries
_MEMORY_NOISE = 0.03
_WORSE = 2.0  # times the error, from which a variant is less exact than it was
_LEAST_SD = 0.004
_PRIOR = 4


class _Pair(NamedTuple):
    what: str
    row: Mapping[str, Any]
    a: Sequence[float]
    b: Sequence[float]


def compare(
    a: Mapping[str, Any], b: Mapping[str, Any], *, bound: float = BOUND, any_machine: bool = False
) -> dict[str, Any]:
    """What changed from ``a`` to ``b``.

    Returns: ``times``, the ratio b / a of every time; ``changes``, every figure that differs beyond noise as ``{"what",
    "a", "b", "ratio", "worse", "regression", ...key of the row}``; ``compared``, how many times were looked at;
    ``only_a``, ``only_b``: rows of one record alone; ``regressions``: how many of the changes are for the worse by more
    than ``bound`` (0.05: 5 %).

    Raises:
        BenchmarkError: the records have no row in common, or come from different machines and ``any_machine`` is off.
    """
    differing = [name for name in ("cpu", "cores", "features") if a["machine"].get(name) != b["machine"].get(name)]
    if differing and not any_machine:
        name = differing[0]
        raise BenchmarkError(
            f"The records were taken on different machines ({name}: {a['machine'].get(name)!r} and "
            f"{b['machine'].get(name)!r}): their times do not compare. --any-machine compares them all the same."
        )
    first, second = ({key(row): row for row in record["rows"]} for record in (a, b))
    both = [(row, second[name]) for name, row in first.items() if name in second]
    if not both:
        raise BenchmarkError(
            "The records have no measurement in common. A measurement is the same where workload, engine, precision, "
            "device, threads, scenario, batch and length are."
        )
    timed = [pair for rows in both for pair in _timed(*rows)]
    ratios = _ratios(timed)
    changes = [*_slower_or_faster(ratios, bound), *_other(both, bound)]
    return {
        "bound": bound,
        "compared": len(timed),
        "times": [{**_named(pair.row), "what": pair.what, "ratio": _known(ratio)} for pair, ratio in ratios],
        "changes": sorted(changes, key=lambda change: (not change["regression"], -_size(change))),
        "regressions": sum(change["regression"] for change in changes),
        "only_a": [_named(row) for name, row in first.items() if name not in second],
        "only_b": [_named(row) for name, row in second.items() if name not in first],
        "other_machine": differing,
    }


def _timed(a: Mapping[str, Any], b: Mapping[str, Any]) -> Iterator[_Pair]:
    for name, what in _TIMES.items():
        if a.get(name) and b.get(name):
            yield _Pair(what, b, a[name], b[name])
    if a["scenario"] == "cold" and a.get("rounds") and b.get("rounds"):
        yield _Pair("cold start", b, [min(launch) for launch in a["rounds"]], [min(launch) for launch in b["rounds"]])


def _slower_or_faster(ratios: Sequence[tuple[_Pair, Estimate]], bound: float) -> Iterator[dict[str, Any]]:
    for pair, ratio in ratios:
        if not ratio.low <= 1 <= ratio.high:
            before, after = statistics.median(pair.a), statistics.median(pair.b)
            yield _change(pair.what, pair.row, before, after, ratio, bound)


def _ratios(pairs: Sequence[_Pair]) -> list[tuple[_Pair, Estimate]]:
    """b / a of every pair, with intervals that hold for all of them at once.

    A few launches tell little of their own spread, and one restless point must not blur the others: each variance is
    drawn towards the typical one of its kind, as if that had been seen in four launches more (moderated t; Smyth 2004,
    doi:10.2202/1544-6115.1027).
    """
    own = [pool([[value] for value in side] for side in (pair.a, pair.b)) for pair in pairs]
    typical = {
        what: statistics.median(known)
        for what in {pair.what for pair in pairs}
        if (known := [spread.sd**2 for pair, spread in zip(pairs, own, strict=True) if spread and pair.what == what])
    }
    found = []
    for pair, spread in zip(pairs, own, strict=True):
        if spread is None:
            found.append((pair, _unknown(pair)))
            continue
        freedom = spread.freedom + _PRIOR
        variance = (spread.freedom * spread.sd**2 + _PRIOR * typical[pair.what]) / freedom
        middle = math.log(statistics.median(pair.b) / statistics.median(pair.a))
        error = max(_LEAST_SD, math.sqrt(variance)) * math.sqrt(1 / len(pair.a) + 1 / len(pair.b)) * OF_A_MEDIAN
        half = student(1 - (1 - LEVEL) / (2 * len(pairs)), freedom) * error
        low, high = math.exp(middle - half), math.exp(middle + half)
        found.append((pair, Estimate(math.exp(middle), low, high, min(len(pair.a), len(pair.b)))))
    return found


def _unknown(pair: _Pair) -> Estimate:
    """One launch on both sides says nothing of launches: any difference may be noise."""
    return Estimate(statistics.median(pair.b) / statistics.median(pair.a), 0.0, math.inf, 1)


def _other(both: Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]], bound: float) -> Iterator[dict[str, Any]]:
    """Memory and error: the same program on the same inputs has the same, up to an allocator's whim."""
    for a, b in both:
        before, after = ((row.get("memory") or {}).get("peak_bytes") for row in (a, b))
        if before and after and abs(after - before) > max(_LEAST_BYTES, _MEMORY_NOISE * before):
            ratio = after / before
            yield _change("peak memory", b, before, after, Estimate(ratio, ratio, ratio, 1), bound)
        before, after = ((row.get("error") or {}).get("max_abs") for row in (a, b))
        if before and after and before != after:
            ratio = after / before
            yield _change("max abs error", b, before, after, Estimate(ratio, ratio, ratio, 1), _WORSE - 1)


def _change(
    what: str, row: Mapping[str, Any], before: float, after: float, ratio: Estimate, bound: float
) -> dict[str, Any]:
    worse = ratio.value > 1
    return {
        **_named(row),
        "what": what,
        "a": before,
        "b": after,
        "ratio": ratio.to_json(),
        "worse": worse,
        "regression": worse and ratio.value > 1 + bound,
    }


def _known(ratio: Estimate) -> dict[str, Any]:
    """An interval that nothing is known of has no ends."""
    return ratio.to_json() if math.isfinite(ratio.high) else {**ratio.to_json(), "low": None, "high": None}


def _size(change: Mapping[str, Any]) -> float:
    return abs(math.log(change["ratio"]["value"]))


def _named(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: row.get(name) for name in ("workload", "engine", "scenario", "batch", "length", "threads", "device")}
