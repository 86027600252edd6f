"""The harness: workers and their protocol, sessions of several contenders, points. No test looks at a time."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from precast.runtime.bench.contender import Contender, Process
from precast.runtime.bench.points import batches, make_point, parse_length, parse_lengths, parse_numbers
from precast.runtime.bench.server import serve
from precast.runtime.bench.session import Plan, Point, Session
from precast.runtime.errors import BenchmarkError, InputError

QUICK = Plan(launches=2, seconds=0.02, turn=0.002, pause=0.0, warm=0.01)
PRELUDE = """
    import os, sys, time
    import numpy as np
    PACKAGES = ("numpy", "no-such-package")
    class Adapter:
        STREAMS = False
        def __init__(self, *, threads, device, precision, workload):
            self.workload = workload
        def prepare(self, checkpoint, out):
            (out / "made").write_text("x")
        def load(self, checkpoint, prepared):
            print("libraries print what they like")
            sys.stdout.flush()
        def run(self, feed):
            return {"y": feed["x"] + 1}
"""


def contender(folder: Path, engine: str = "ours", body: str = "", **workload: Any) -> Contender:
    adapter = folder / f"{engine}.py"
    adapter.write_text(textwrap.dedent(PRELUDE) + textwrap.indent(textwrap.dedent(body), "    "))
    options = {"threads": 1, "device": "cpu", "precision": "fp32", "workload": workload}
    return Contender(engine, sys.executable, adapter, folder, folder, options)


def point(folder: Path, scenario: str = "single", count: int = 1) -> Point:
    paths = []
    for index in range(count):
        path = folder / f"feed{index}.npz"
        np.savez(path, x=np.full((2, 3), float(index)))
        paths.append(str(path))
    return Point(scenario, 2, 3, tuple(paths), {"texts": 2, "tokens": 6})


def measured(folder: Path, contenders: list[Contender], points: list[Point], **more: Any) -> Session:
    session = Session("w", contenders, points, QUICK, scratch=folder, **more)
    session.run()
    return session


# -- workers ----------------------------------------------------------------------------------------------------------


def test_a_worker_answers_each_request_on_one_line(tmp_path: Path) -> None:
    process = Process(contender(tmp_path))
    try:
        hello = process.ask("hello")
        assert hello["versions"] == {"numpy": np.__version__}
        assert process.prepare()["seconds"] >= 0 and (tmp_path / "made").is_file()
        process.load()
        feed = point(tmp_path, count=3).feeds
        process.ask("run", feed=feed[2], save=str(tmp_path / "out.npz"))
        with np.load(tmp_path / "out.npz") as outputs:
            np.testing.assert_array_equal(outputs["y"], np.full((2, 3), 3.0))
        assert process.ask("warm", feeds=list(feed), seconds=0.01)["calls"] >= 2
        assert len(process.ask("time", feeds=list(feed), seconds=0.0, least=4, most=4)["seconds"]) == 4
        assert len(process.ask("serve", feeds=list(feed), rate=5000.0, requests=7)["latencies"]) == 7
        assert process.ask("memory", reset=True)["peak_bytes"] > 1 << 20
        assert process.ask("details", feed=feed[0]) == {}
    finally:
        process.close()


def test_a_generating_worker_says_when_each_token_came(tmp_path: Path) -> None:
    body = """
    STREAMS = True
    def run(self, feed, mark):
        for _ in range(4):
            mark()
        return {"tokens": np.arange(4)}
    """
    session = measured(tmp_path, [contender(tmp_path, body=body)], [point(tmp_path, "generate")])
    row = session.rows()[0]
    assert row["first_token"]["value"] >= 0 and row["per_token"]["value"] >= 0
    assert len(row["first_tokens"]) == len(row["per_tokens"]) == QUICK.launches


def test_a_worker_that_dies_says_why(tmp_path: Path) -> None:
    process = Process(contender(tmp_path, body="def run(self, feed):\n    os.write(2, b'out of luck\\n'); os._exit(3)"))
    try:
        process.load()
        with pytest.raises(
            BenchmarkError, match=r"ours could not run: its process ended \(exit status 3\): .*out of luck"
        ):
            process.ask("run", feed=point(tmp_path).feeds[0])
        with pytest.raises(BenchmarkError, match="its process ended"):
            process.ask("run", feed="x")
    finally:
        process.close()


def test_a_worker_that_hangs_is_ended(tmp_path: Path) -> None:
    process = Process(contender(tmp_path, body="def run(self, feed):\n    time.sleep(60)"))
    try:
        process.load()
        with pytest.raises(BenchmarkError, match=r"ours did not run within 0\.2 s and was ended"):
            process.ask("run", feed=point(tmp_path).feeds[0], patience=0.2)
    finally:
        process.close()


def test_an_adapter_that_cannot_be_imported_says_why(tmp_path: Path) -> None:
    broken = contender(tmp_path)
    broken.adapter.write_text("import no_such_module_at_all\n")
    process = Process(broken)
    try:
        with pytest.raises(BenchmarkError, match="ModuleNotFoundError: No module named 'no_such_module_at_all'"):
            process.ask("hello")
    finally:
        process.close()


# -- sessions ---------------------------------------------------------------------------------------------------------


def test_every_contender_has_a_row_a_point_and_a_cold_start(tmp_path: Path) -> None:
    points = [point(tmp_path), point(tmp_path, "offline", count=3)]
    session = measured(tmp_path, [contender(tmp_path), contender(tmp_path, "other")], points)
    rows = session.rows()
    assert [(row["engine"], row["scenario"]) for row in rows] == [
        ("ours", "single"), ("ours", "offline"), ("ours", "cold"),
        ("other", "single"), ("other", "offline"), ("other", "cold"),
    ]  # fmt: skip
    for row in rows:
        assert len(row["rounds"]) == QUICK.launches and all(row["rounds"])
        assert row["time"]["low"] <= row["time"]["value"] <= row["time"]["high"]
        assert (row["workload"], row["device"], row["threads"], row["batch"]) == ("w", "cpu", 1, 2)
    pairs = [row for row in rows if row["scenario"] == "single"]
    assert [len(launch) for launch in pairs[0]["rounds"]] == [len(launch) for launch in pairs[1]["rounds"]]
    assert set(rows[0]["throughput"]) == {"texts_per_second", "tokens_per_second"}
    assert rows[0]["memory"]["peak_bytes"] > 1 << 20
    assert session.versions["ours"]["versions"] == {"numpy": np.__version__}
    assert session.absent == []


def test_a_contender_that_fails_leaves_with_its_reason_and_the_others_stay(tmp_path: Path) -> None:
    bad = contender(tmp_path, "bad", "def run(self, feed):\n    raise ValueError('no such operator')")
    session = measured(tmp_path, [bad, contender(tmp_path)], [point(tmp_path)])
    assert {row["engine"] for row in session.rows()} == {"ours"}
    assert session.absent == [
        {"engine": "bad", "workload": "w", "reason": "bad could not run: ValueError: no such operator"}
    ]


def test_when_all_fail_the_session_does(tmp_path: Path) -> None:
    with pytest.raises(BenchmarkError, match="no such operator"):
        measured(
            tmp_path, [contender(tmp_path, body="def run(self, feed):\n    raise ValueError('no such operator')")],
            [point(tmp_path)],
        )  # fmt: skip


def test_outputs_are_checked_before_anything_is_timed(tmp_path: Path) -> None:
    wrong = contender(tmp_path, "wrong", "def run(self, feed):\n    return {'y': feed['x'] + 2}")

    def check(one: Contender, _: Point, outputs: Path) -> Mapping[str, Any]:
        with np.load(outputs) as arrays:
            error = float(np.abs(arrays["y"] - 1).max())
        if error > 0.5:
            raise BenchmarkError(f"{one.engine} computes something else")
        return {"max_abs": error}

    session = measured(tmp_path, [wrong, contender(tmp_path)], [point(tmp_path)], check=check)
    assert session.absent[0]["reason"] == "wrong computes something else"
    rows = session.rows()
    assert {row["engine"] for row in rows} == {"ours"}
    assert rows[0]["error"] == {"max_abs": 0.0}


def test_points_that_are_not_reached_are_named(tmp_path: Path) -> None:
    session = measured(tmp_path, [contender(tmp_path)], [point(tmp_path)], until=0.0)
    assert session.absent == [
        {"engine": "all", "workload": "w", "reason": "single 2 x 3 was not reached: the time was up"}
    ]
    assert [row["scenario"] for row in session.rows()] == ["cold"]


def test_rows_say_what_else_is_known_of_a_point(tmp_path: Path) -> None:
    session = measured(
        tmp_path, [contender(tmp_path, body="def details(self, feed):\n    return {'call_overhead_us': 5.0}")],
        [point(tmp_path)],
        describe=lambda one, at: {"work": {"flops": at.batch * 10, "bytes": 1}, "error": {"cosine": 1.0}},
    )  # fmt: skip
    row = session.rows()[0]
    assert row["work"] == {"flops": 20, "bytes": 1}
    assert row["error"] == {"cosine": 1.0}
    assert row["call_overhead_us"] == 5.0


class _Queue:
    """A process that answers a load with the latencies of a queue that grows beyond 60 requests a second."""

    def ask(self, op: str, *, rate: float, requests: int, **_: Any) -> dict[str, Any]:
        assert op == "serve"
        return {"latencies": [0.01 if rate <= 60 else 1.0] * requests}


def test_the_load_that_is_held_is_bracketed() -> None:
    found = serve(_Queue(), [], mean=0.01, bound=None, seconds=0.1)  # type: ignore[arg-type]
    held = found["held_per_second"]
    assert held["low"] <= 60 < held["high"] <= held["low"] + 100 / 2**5 + 1e-6
    assert found["bound_seconds"] == pytest.approx(0.05)
    assert found["quantiles"]["p99"] == 0.01
    assert all(entry["requests"] >= 100 for entry in found["tried"])


def test_a_bound_that_no_load_meets_leaves_nothing_held() -> None:
    found = serve(_Queue(), [], mean=0.01, bound=0.001, seconds=0.1)  # type: ignore[arg-type]
    assert found["held_per_second"]["low"] == 0 and found["quantiles"] == {}


# -- the grid ---------------------------------------------------------------------------------------------------------


def test_a_fixed_length_is_one_batch() -> None:
    assert batches(3, 16, together=False) == [[16, 16, 16]]
    with pytest.raises(InputError, match="takes 8 tokens; --length has 16"):
        batches(1, 16, together=False, longest=8)


@given(st.integers(1, 4), st.integers(1, 50), st.integers(0, 50), st.booleans())
def test_a_distribution_is_drawn_within_its_range_and_the_same_each_time(
    batch: int, low: int, width: int, together: bool
) -> None:
    name = f"uniform:{low}-{low + width}"
    made = batches(batch, name, together=together)
    assert made == batches(batch, name, together=together)
    assert all(len(lengths) == batch for lengths in made)
    assert all(low <= length <= low + width for lengths in made for length in lengths)
    flat = sorted(length for lengths in made for length in lengths)
    assert flat[0] <= low + width / 32 and flat[-1] >= low + width - width / 32 - 1


def test_texts_of_like_length_share_a_batch_where_all_are_at_hand() -> None:
    padding = {
        together: sum(
            max(lengths) * len(lengths) - sum(lengths) for lengths in batches(8, "natural", together=together)
        )
        for together in (True, False)
    }
    assert padding[True] < padding[False] / 2


def test_natural_lengths_are_cut_to_what_the_model_takes() -> None:
    assert max(max(lengths) for lengths in batches(2, "natural", together=False, longest=12)) == 12


def test_a_point_is_written_once_and_counts_its_real_tokens(tmp_path: Path) -> None:
    calls = []

    def make(lengths: Any, rng: np.random.Generator) -> dict[str, Any]:
        calls.append(list(lengths))
        return {"x": np.zeros((len(lengths), max(lengths)))}

    first = make_point("single", 2, "uniform:4-9", tmp_path, make)
    assert make_point("single", 2, "uniform:4-9", tmp_path, make) == first
    assert len(calls) == len(first.feeds) == 32
    assert first.amounts["texts"] == 2
    assert first.amounts["tokens"] == pytest.approx(sum(map(sum, calls)) / 32)


def test_what_is_no_grid_is_refused() -> None:
    assert parse_numbers("1, 8", "--batch") == [1, 8]
    assert parse_lengths("16,natural,uniform:2-5") == [16, "natural", "uniform:2-5"]
    for text in ("0", "x", "uniform:5-2", "uniform:0-2", "uniform:3", "-1", ""):
        with pytest.raises(InputError, match=r"--length takes a whole number, natural"):
            parse_length(text)
    with pytest.raises(
        InputError, match=r"--batch takes whole numbers separated by commas, such as 1,8; received '1,x'"
    ):
        parse_numbers("1,x", "--batch")
