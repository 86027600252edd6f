"""From times to figures with intervals: medians of launches, and where a repeat of the whole run is expected to land.

A process that starts anew lands in other memory, on other cores and in another minute: two launches of one program
differ by more than the calls of either suggest. So the unit of evidence is the launch (Kalibera and Jones 2013,
doi:10.1145/2464157.2464160), and an interval comes from how much launches differ. Interference only ever adds time
(Chen and Revels 2016, arXiv:1608.04295), which is why `floor` repeats better than any median.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

__all__ = [
    "LEVEL",
    "OF_A_MEDIAN",
    "Estimate",
    "Spread",
    "estimate",
    "floor",
    "pool",
    "quantile",
    "ratio",
    "ratios",
    "student",
]

LEVEL = 0.95
_BLOCKS = 5
_FLOOR = 0.1
# Standard error of a median of normal values over that of their mean: sqrt(pi / 2).
OF_A_MEDIAN = math.sqrt(math.pi / 2)
# Two equal figures must not give an interval of no width: what clocks and schedulers do to any launch.
_LEAST = 0.002


class Estimate(NamedTuple):
    """A figure and the interval a repeat of the whole run is expected in; ``runs`` counts the launches behind it."""

    value: float
    low: float
    high: float
    runs: int

    def to_json(self) -> dict[str, Any]:
        figures = {"value": self.value, "low": self.low, "high": self.high}
        return {**{name: float(f"{number:.6g}") for name, number in figures.items()}, "runs": self.runs}

    def scaled(self, factor: float) -> Estimate:
        """In another unit."""
        return Estimate(self.value * factor, self.low * factor, self.high * factor, self.runs)

    def inverse(self, amount: float = 1.0) -> Estimate:
        """``amount`` a second, for a time in seconds."""
        return Estimate(amount / self.value, amount / self.high, amount / self.low, self.runs)


class Spread(NamedTuple):
    """Standard deviation of the logarithm from launch to launch, with its degrees of freedom."""

    sd: float
    freedom: int


def quantile(values: Sequence[float], q: float) -> float:
    """Linear interpolation between order statistics, as NumPy's default."""
    ordered = sorted(values)
    place = q * (len(ordered) - 1)
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def floor(values: Sequence[float]) -> float:
    """The lower decile: what a call takes when the machine is left alone."""
    return quantile(values, _FLOOR)


def pool(groups: Iterable[Sequence[Sequence[float]]]) -> Spread | None:
    """The spread that several figures share, each given as its launches; None where none has a second launch."""
    squares, freedom = 0.0, 0
    for launches in groups:
        spread = _spread([_center(launch) for launch in _split(launches)])
        if spread is not None:
            squares, freedom = squares + spread.sd**2 * spread.freedom, freedom + spread.freedom
    return Spread(math.sqrt(squares / freedom), freedom) if freedom else None


def estimate(
    launches: Sequence[Sequence[float]], *, pooled: Spread | None = None, level: float = LEVEL, together: int = 1
) -> Estimate:
    """The median of the launches' medians, with the interval of a repeat.

    Args:
        launches: positive values, one sequence a launch. A single launch is cut into blocks in time: its interval knows
            nothing of what another launch would do.
        pooled: the spread of like figures (`pool`): three launches alone tell little of their own spread. The larger
            of the two counts.
        together: how many intervals are to hold at once (Bonferroni).
    """
    centers = [_center(launch) for launch in _split(launches)]
    value = statistics.median(centers)
    own = _spread(centers)
    if own is None and pooled is None:
        return Estimate(math.exp(value), 0.0, math.inf, len(launches))
    spreads = [spread for spread in (own, pooled) if spread is not None]
    sd = max(_LEAST, *(spread.sd for spread in spreads))
    freedom = max(spread.freedom for spread in spreads)
    # A repeat has the same error as this figure: sqrt(2).
    half = student(1 - (1 - level) / (2 * together), freedom) * sd * math.sqrt(2 / len(centers)) * OF_A_MEDIAN
    return Estimate(math.exp(value), math.exp(value - half), math.exp(value + half), len(launches))


def ratio(
    theirs: Mapping[str, Any], ours: Mapping[str, Any], rows: Sequence[Mapping[str, Any]] | None = None
) -> dict[str, Any]:
    """How many times as long ``theirs`` takes as ``ours``, from turns taken next to each other: an Estimate's JSON.

    ``rows`` (all of the record's): the spread is then that of this pair of engines over all points, and the interval
    is wide enough for all ratios of the record to hold at once.
    """
    pooled, together = None, 1
    if rows is not None:
        family = [pair for pair in _pairs(rows, ours["engine"]) if _engine(pair[0]) == _engine(theirs)]
        pooled = pool(_paired(*pair) for pair in family)
        together = max(1, sum(1 for _ in _pairs(rows, ours["engine"])))
    return estimate(_paired(theirs, ours), pooled=pooled, together=together).to_json()


def ratios(rows: Sequence[Mapping[str, Any]], ours: str) -> list[dict[str, Any]]:
    """Every ratio of a record to the engine ``ours``: workload, engine and point with ``ratio``."""
    return [
        {**{key: theirs[key] for key in (*_POINT, "engine")}, "ratio": ratio(theirs, base, rows)}
        for theirs, base in _pairs(rows, ours)
    ]


def student(p: float, freedom: int) -> float:
    """Quantile of Student's t distribution; Hill 1970, algorithm 396, doi:10.1145/355598.355600."""
    if not 0.5 <= p < 1:
        raise ValueError(f"p must be at least 0.5 and below 1; received {p}")
    tail = 2 * (1 - p)
    if freedom == 1:
        return math.tan((1 - tail) * math.pi / 2)
    if freedom == 2:
        return math.sqrt(2 / (tail * (2 - tail)) - 2)
    a = 1 / (freedom - 0.5)
    b = 48 / (a * a)
    c = ((20700 * a / b - 98) * a - 16) * a + 96.36
    d = ((94.5 / (b + c) - 3) / b + 1) * math.sqrt(a * math.pi / 2) * freedom
    y = (d * tail) ** (2 / freedom)
    if y > 0.05 + a:
        x = statistics.NormalDist().inv_cdf(tail / 2)
        y = x * x
        if freedom < 5:
            c += 0.3 * (freedom - 4.5) * (x + 0.6)
        c = (((0.05 * d * x - 5) * x - 7) * x - 2) * x + b + c
        y = (((((0.4 * y + 6.3) * y + 36) * y + 94.5) / c - y - 3) / b + 1) * x
        y = math.expm1(a * y * y)
    else:
        y = (
            1 / (((freedom + 6) / (freedom * y) - 0.089 * d - 0.822) * (freedom + 2) * 3) + 0.5 / (freedom + 4)
        ) * y - 1
        y = y * (freedom + 1) / (freedom + 2) + 1 / ((d * tail) ** (2 / freedom))
    return math.sqrt(freedom * y)


# What makes two rows one point of the grid.
_POINT = ("workload", "scenario", "batch", "length", "threads", "device")


def _engine(row: Mapping[str, Any]) -> Any:
    """Whose spread a row shares; a cold start has another than calls that follow each other."""
    return row["workload"], row["engine"], row["scenario"] == "cold"


def _pairs(rows: Sequence[Mapping[str, Any]], ours: str) -> list[tuple[Mapping[str, Any], Mapping[str, Any]]]:
    """(theirs, ours) of every point that both have."""
    base = {tuple(row[key] for key in _POINT): row for row in rows if row["engine"] == ours}
    found = ((row, base.get(tuple(row[key] for key in _POINT))) for row in rows if row["engine"] != ours)
    return [(row, other) for row, other in found if other is not None and "rounds" in row and "rounds" in other]


def _paired(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> list[list[float]]:
    """The quotient of every turn, launch by launch; what one of the two lacks is left out."""
    both = zip(theirs["rounds"], ours["rounds"], strict=False)
    return [quotients for mine, base in both if (quotients := [a / b for a, b in zip(mine, base, strict=False)])]


def _center(values: Sequence[float]) -> float:
    return math.log(statistics.median(values))


def _split(launches: Sequence[Sequence[float]]) -> list[Sequence[float]]:
    """The launches; a single one as consecutive blocks of its values."""
    kept = [launch for launch in launches if len(launch)]
    if len(kept) != 1:
        return kept
    values = kept[0]
    blocks = min(_BLOCKS, len(values))
    return [values[len(values) * i // blocks : len(values) * (i + 1) // blocks] for i in range(blocks)]


def _spread(centers: Sequence[float]) -> Spread | None:
    return Spread(statistics.stdev(centers), len(centers) - 1) if len(centers) > 1 else None
