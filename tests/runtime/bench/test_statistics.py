"""Figures with intervals: quantiles of Student's t, coverage of a repeat, ratios of turns, two records compared."""

from __future__ import annotations

import copy
import math
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from precast.runtime.bench import record
from precast.runtime.bench.compare import compare
from precast.runtime.bench.statistics import Estimate, estimate, floor, pool, quantile, ratio, ratios, student
from precast.runtime.errors import BenchmarkError

# Student's t from tables (Abramowitz and Stegun, table 26.10).
TABLE = {
    (0.975, 1): 12.706,
    (0.975, 2): 4.303,
    (0.975, 3): 3.182,
    (0.995, 5): 4.032,
    (0.95, 10): 1.812,
    (0.9995, 30): 3.646,
}


@pytest.mark.parametrize(("p", "freedom"), TABLE)
def test_students_quantiles(p: float, freedom: int) -> None:
    assert student(p, freedom) == pytest.approx(TABLE[p, freedom], abs=6e-4)


def test_students_quantile_refuses_what_it_is_not_made_for() -> None:
    with pytest.raises(ValueError, match=r"at least 0\.5 and below 1"):
        student(0.2, 3)


@given(st.lists(st.floats(1e-6, 1e3), min_size=1, max_size=50), st.floats(0, 1))
def test_quantiles_are_numpys(values: list[float], q: float) -> None:
    import numpy as np

    assert quantile(values, q) == pytest.approx(float(np.quantile(values, q)), rel=1e-9)


def launches(rng: random.Random, level: float, count: int, spread: float, turns: int = 8) -> list[list[float]]:
    """Times as machines have them: launches differ, turns within one differ less, and now and then one is disturbed."""
    made = []
    for _ in range(count):
        center = level * math.exp(rng.gauss(0, spread))
        made.append([center * math.exp(abs(rng.gauss(0, spread / 2))) for _ in range(turns)])
    return made


def test_an_interval_holds_a_repeat_as_often_as_it_says() -> None:
    rng = random.Random(0)
    inside = 0
    for _ in range(600):
        first, again = (estimate(launches(rng, 0.02, 4, 0.02)) for _ in range(2))
        inside += first.low <= again.value <= first.high
    assert inside / 600 >= 0.93


def test_launches_of_like_figures_lend_each_other_their_spread() -> None:
    lucky = [[1.0], [1.0], [1.0001]]
    alone = estimate(lucky)
    with_others = estimate(lucky, pooled=pool([[[1.0], [1.1], [0.9]], [[2.0], [2.2], [1.9]]]))
    assert alone.high / alone.low < 1.02 < 1.2 < with_others.high / with_others.low


def test_one_launch_has_the_spread_of_its_own_blocks_and_one_call_none() -> None:
    blocks = estimate([[1.0, 1.1, 0.9, 1.0, 1.05, 0.95, 1.0, 1.02, 1.01, 0.99]])
    assert blocks.runs == 1 and 0.5 < blocks.low < 1 < blocks.high < 1.5
    assert estimate([[2.0]]) == Estimate(pytest.approx(2.0), 0.0, math.inf, 1)


def test_intervals_that_hold_together_are_wider() -> None:
    times = launches(random.Random(1), 1.0, 4, 0.02)
    one, many = estimate(times), estimate(times, together=50)
    assert many.low < one.low < one.value == many.value < one.high < many.high


def test_a_rate_is_the_inverse_of_a_time() -> None:
    rate = Estimate(0.5, 0.25, 1.0, 3).inverse(8)
    assert rate == Estimate(16.0, 8.0, 32.0, 3)
    assert Estimate(0.5, 0.25, 1.0, 3).scaled(1e3) == Estimate(500, 250, 1000, 3)


def row(engine: str, rounds: list[list[float]], length: int = 128, **more: Any) -> dict[str, Any]:
    key = {"workload": "w", "engine": engine, "precision": "fp32", "device": "cpu", "threads": 2, "scenario": "single"}
    floors = [floor(launch) for launch in rounds]
    return {**key, "batch": 1, "length": length, "rounds": rounds, "floors": floors, **more}


def test_turns_taken_side_by_side_cancel_what_slows_both() -> None:
    rng = random.Random(2)
    slow = [[math.exp(rng.gauss(0, 0.5)) for _ in range(9)] for _ in range(3)]  # the machine's moods
    ours = row("ours", [[0.010 * mood for mood in launch] for launch in slow])
    theirs = row("theirs", [[0.015 * mood for mood in launch] for launch in slow])
    found = ratio(theirs, ours, [ours, theirs])
    assert found["value"] == pytest.approx(1.5, rel=1e-6)
    assert found["low"] > 1.45 and found["high"] < 1.55


def test_every_ratio_of_a_record_lies_in_the_interval_of_a_repeat() -> None:
    """The same comparison twice: all ratios of one run inside the intervals of the other, which hold all at once."""
    rng = random.Random(3)
    missed = 0
    for _ in range(60):
        runs = []
        for _ in range(2):
            rows = [
                row(engine, launches(rng, level, 4, 0.015), length)
                for length in (16, 128, 384)
                for engine, level in (("ours", 0.01), ("a", 0.012), ("b", 0.02), ("c", 0.0101))
            ]
            runs.append({(r["engine"], r["length"]): r["ratio"] for r in ratios(rows, "ours")})
        first, again = runs
        assert len(first) == 9
        missed += any(not first[k]["low"] <= again[k]["value"] <= first[k]["high"] for k in first)
    assert missed <= 6


def test_a_point_that_only_one_engine_has_makes_no_ratio() -> None:
    rows = [row("ours", [[1.0], [1.0]]), row("a", [[1.0], [1.0]], length=16), {**row("b", [[1.0]]), "rounds": [[2.0]]}]
    assert [entry["engine"] for entry in ratios(rows, "ours")] == ["b"]


# -- two records ------------------------------------------------------------------------------------------------------


def made(rng: random.Random, slower: float = 1.0, points: int = 6, **more: Any) -> dict[str, Any]:
    """A record of one engine whose times are ``slower`` times what they are elsewhere."""
    levels = [0.003 * 2**i for i in range(points)]
    rows = [
        row("cpu-fp32", launches(rng, level * slower, 3, 0.01), length=16 * (i + 1)) for i, level in enumerate(levels)
    ]
    rows.append(
        {**row("cpu-fp32", [[0.3 * slower * math.exp(rng.gauss(0, 0.02))] for _ in range(3)]), "scenario": "cold"}
    )
    del rows[-1]["floors"]
    return {"format": record.FORMAT, "machine": {"cpu": "c", "cores": 2, "features": []}, "rows": rows, **more}


def test_a_variant_slowed_by_a_tenth_is_found_and_equal_runs_do_not_alarm() -> None:
    rng = random.Random(4)
    alarms = found = 0
    for _ in range(100):
        before = made(rng)
        alarms += compare(before, made(rng))["regressions"] > 0
        judged = compare(before, made(rng, slower=1.1))
        found += judged["regressions"] >= 4
    assert alarms <= 2
    assert found >= 98


def test_a_change_below_the_bound_is_told_and_does_not_fail() -> None:
    rng = random.Random(5)
    judged = compare(made(rng), made(rng, slower=1.08), bound=0.2)
    assert judged["changes"] and judged["regressions"] == 0
    assert all(change["worse"] for change in judged["changes"])
    assert not any(change["worse"] for change in compare(made(rng, slower=1.2), made(rng))["changes"])


def test_memory_and_errors_count_as_they_are() -> None:
    before = made(random.Random(6))
    before["rows"][0] |= {"memory": {"peak_bytes": 200 << 20}, "error": {"max_abs": 1e-6}}
    after = copy.deepcopy(before)
    assert compare(before, after)["changes"] == []
    after["rows"][0] |= {"memory": {"peak_bytes": 300 << 20}, "error": {"max_abs": 5e-6}}
    judged = compare(before, after)
    assert {change["what"] for change in judged["changes"]} == {"peak memory", "max abs error"}
    assert judged["regressions"] == 2
    after["rows"][0]["error"]["max_abs"] = 1.5e-6
    assert compare(before, after)["regressions"] == 1


def test_one_launch_on_both_sides_never_alarms() -> None:
    a, b = made(random.Random(7)), made(random.Random(7))
    for document, factor in ((a, 1.0), (b, 3.0)):
        for entry in document["rows"]:
            entry["rounds"] = [[value * factor for value in entry["rounds"][0]]]
            if "floors" in entry:
                entry["floors"] = [floor(entry["rounds"][0])]
    assert compare(a, b)["regressions"] == 0


def test_records_that_do_not_compare_are_refused() -> None:
    a, b = made(random.Random(8)), made(random.Random(8))
    b["machine"]["cpu"] = "another"
    with pytest.raises(BenchmarkError, match=r"different machines \(cpu: 'c' and 'another'\).*--any-machine"):
        compare(a, b)
    assert compare(a, b, any_machine=True)["other_machine"] == ["cpu"]
    b["machine"]["cpu"] = "c"
    for entry in b["rows"]:
        entry["threads"] = 4
    with pytest.raises(BenchmarkError, match="no measurement in common"):
        compare(a, b)


def test_rows_without_a_counterpart_are_counted() -> None:
    a, b = made(random.Random(9)), made(random.Random(9))
    extra = a["rows"].pop(0)
    judged = compare(a, b)
    assert judged["only_a"] == [] and judged["only_b"][0]["length"] == extra["length"]


# -- the file ---------------------------------------------------------------------------------------------------------


def test_a_record_survives_its_file(tmp_path: Any) -> None:
    document = made(random.Random(10))
    record.write(document, tmp_path / "a.json")
    found = record.read(tmp_path / "a.json")
    assert {key: found[key] for key in document} == document
    assert (tmp_path / "a.json").read_text().count("\n") > len(document["rows"])
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is no JSON document"),
        ("[]", "its format is None, and 'precast-bench/1' is read here"),
        ('{"format": "precast-bench/2"}', "its format is 'precast-bench/2'"),
        ('{"format": "precast-bench/1"}', "rows is missing; it must be a list"),
        ('{"format": "precast-bench/1", "rows": [3]}', r"rows\[0\] must be an object, got 3"),
    ],
)
def test_what_is_no_record_is_refused(tmp_path: Any, text: str, message: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(BenchmarkError, match=message):
        record.read(path)


@settings(max_examples=50)
@given(st.lists(st.lists(st.floats(1e-6, 1e3), min_size=1, max_size=9), min_size=1, max_size=6))
def test_an_estimate_lies_in_its_interval_whatever_the_times(times: list[list[float]]) -> None:
    found = estimate(times)
    assert found.low <= found.value * (1 + 1e-9) and found.value <= found.high * (1 + 1e-9)
    assert min(map(min, times)) * (1 - 1e-9) <= found.value <= max(map(max, times)) * (1 + 1e-9)
