"""The comparison with peers, end to end on a tiny model, and what its parts refuse. No test looks at a time."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from benchmarks import __main__ as program
from benchmarks.catalogue import Workload, peers, read_workload, workloads
from benchmarks.feeds import points
from benchmarks.outputs import checked
from benchmarks.run import Comparison
from benchmarks.selfcheck import agreement, planted
from benchmarks.venvs import Environment, Here
from precast.runtime.bench import record
from precast.runtime.bench.contender import Contender
from precast.runtime.bench.session import Plan, Point
from precast.runtime.errors import BenchmarkError

QUICK = Plan(launches=2, seconds=0.02, turn=0.002, pause=0.0, warm=0.01)
TINY = """
title = "Tiny"
kind = "encoder"
family = "bert"
model_class = "BertModel"
description = "A few thousand parameters."
[source]
seed = 0
config = {vocab_size = 99, hidden_size = 24, num_hidden_layers = 2, num_attention_heads = 3, intermediate_size = 40, max_position_embeddings = 64}
[points]
single = ["1x7"]
offline = ["3xuniform:2-9"]
[inputs]
vocab = [5, 99]
"""  # noqa: E501 - TOML's inline tables stay on one line


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("benchmarks")
        patch.setenv("PRECAST_BENCH_HOME", str(folder))
        yield folder


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Workload:
    path = tmp_path_factory.mktemp("workloads") / "tiny.toml"
    path.write_text(TINY)
    return read_workload(path)


@pytest.fixture(scope="module")
def document(home: Path, tiny: Workload) -> dict[str, Any]:
    comparison = Comparison(plan=QUICK, threads=1, installs=False, environment=Here)
    return comparison.run([tiny], peers(["precast", "torch"]))


def test_a_comparison_has_every_peer_at_every_point_with_its_error(document: dict[str, Any]) -> None:
    rows = [row for row in document["rows"] if row["scenario"] != "cold" and row["precision"] == "fp32"]
    assert [(row["engine"], row["scenario"], row["length"]) for row in rows] == [
        ("precast", "single", 7), ("precast", "offline", "uniform:2-9"),
        ("torch", "single", 7), ("torch", "offline", "uniform:2-9"),
    ]  # fmt: skip
    assert document["absent"] == []
    for row in rows:
        assert row["error"]["against"] == "upstream in float64"
        assert 0 < row["error"]["max_abs"] < 1e-5
        assert row["error"]["cosine"] > 0.999999
    single = [row for row in rows if row["scenario"] == "single"]
    assert single[0]["work"] == single[1]["work"], "the arithmetic is the same whoever does it"
    assert document["engines"]["torch"]["version"].startswith("2.")
    assert [entry["engine"] for entry in document["exports"]] == ["precast", "precast-int8"]
    assert document["exports"][0]["size_bytes"] > 1000


def test_a_second_run_converts_nothing_again(home: Path, tiny: Workload, document: dict[str, Any]) -> None:
    before = {path: path.stat().st_mtime_ns for path in home.rglob("*") if path.is_file()}
    again = Comparison(plan=QUICK, threads=1, installs=False, environment=Here, until=0.0)
    found = again.run([tiny], peers(["precast"]))
    assert {path: path.stat().st_mtime_ns for path in home.rglob("*") if path.is_file()} == before
    assert {entry["reason"].split(":")[0] for entry in found["absent"]} == {
        "single 1 x 7 was not reached", "offline 3 x uniform"
    }  # fmt: skip


def test_a_peer_that_is_not_installed_is_reported(home: Path, tiny: Workload) -> None:
    found = Comparison(plan=QUICK, threads=1, installs=False, until=0.0).run([tiny], peers(["openvino"]))
    reasons = [entry["reason"] for entry in found["absent"]]
    assert "environment openvino is not installed: python -m benchmarks setup openvino" in reasons
    Environment("openvino").folder.with_suffix(".failed").parent.mkdir(parents=True, exist_ok=True)
    Environment("openvino").folder.with_suffix(".failed").write_text("ERROR: no matching distribution")
    found = Comparison(plan=QUICK, threads=1, installs=False, until=0.0).run([tiny], peers(["openvino"]))
    assert "could not be installed: ERROR: no matching distribution" in found["absent"][0]["reason"]


def test_an_environment_of_other_files_is_not_measured(home: Path) -> None:
    environment = Environment("ctranslate2")
    environment.folder.mkdir(parents=True)
    stamp = environment.folder / "precast-benchmarks.json"
    stamp.write_text(json.dumps({"digest": environment.digest}))
    assert environment.why_not() is None
    stamp.write_text(json.dumps({"digest": "of something else"}))
    assert environment.why_not() == (
        "environment ctranslate2 is not of today's files: python -m benchmarks setup ctranslate2"
    )


def test_a_kind_that_a_peer_does_not_serve_is_reported(home: Path) -> None:
    found = Comparison(plan=QUICK, threads=1, installs=False, environment=Here, until=0.0)
    found.document = {"absent": []}
    speech = next(entry for entry in workloads() if entry.kind == "ctc")
    assert found._contenders(speech, peers(["faster-whisper"]), home, home) == []
    assert found.document["absent"] == [
        {"engine": "faster-whisper", "workload": speech.name, "reason": "no adapter for ctc models on cpu"}
    ]


def test_every_workload_makes_its_points(tmp_path: Path) -> None:
    def speech(path: Path) -> None:
        np.savez(path, waveform=np.zeros(16_000, np.float32))

    for workload in workloads():
        made = points(workload, tmp_path / workload.name, speech=speech)
        assert made, workload.name
        for point in made:
            assert all(Path(feed).is_file() for feed in point.feeds)
            assert all(amount > 0 for amount in point.amounts.values())


# -- outputs ----------------------------------------------------------------------------------------------------------


def judge(folder: Path, ours: Any, exact: Any, precision: str = "fp32", name: str = "last_hidden_state") -> Any:
    feed, out = folder / "feed.npz", folder / "out.npz"
    np.savez(feed, attention_mask=np.array([[1, 1, 0], [1, 1, 1]]))
    (folder / "expected").mkdir(exist_ok=True)
    np.savez(out, **{name: ours})
    np.savez(folder / "expected" / "feed.npz", **{name: exact})
    contender = Contender("peer", "", folder, folder, folder, {"precision": precision})
    return checked(contender, Point("single", 2, 3, (str(feed),), {}), out, folder / "expected")


def test_outputs_of_another_model_are_refused_and_padding_does_not_count(tmp_path: Path) -> None:
    exact = np.random.default_rng(0).standard_normal((2, 3, 4))
    padded = exact.copy()
    padded[0, 2] = 1e9
    assert judge(tmp_path, padded + 1e-6, exact)["max_abs"] == pytest.approx(1e-6, rel=1e-3)
    with pytest.raises(BenchmarkError, match="peer computes something else at single 2 x 3"):
        judge(tmp_path, exact + 1e-2, exact)
    assert judge(tmp_path, exact + 1e-2, exact, "int8")["cosine"] > 0.99
    with pytest.raises(BenchmarkError, match="computes something else"):
        judge(tmp_path, -exact, exact, "int8")
    with pytest.raises(BenchmarkError, match="computes something else"):
        judge(tmp_path, exact * np.nan, exact, "int8")
    with pytest.raises(BenchmarkError, match=r"of shape \(2, 3, 2\)"):
        judge(tmp_path, exact[..., :2], exact)
    np.savez(tmp_path / "logits.npz", logits=exact)
    contender = Contender("peer", "", tmp_path, tmp_path, tmp_path, {"precision": "fp32"})
    point = Point("single", 2, 3, (str(tmp_path / "feed.npz"),), {})
    with pytest.raises(BenchmarkError, match="has no output 'last_hidden_state'"):
        checked(contender, point, tmp_path / "logits.npz", tmp_path / "expected")


def test_tokens_agree_up_to_the_first_that_differs(tmp_path: Path) -> None:
    exact = np.array([[1, 2, 3, 4], [5, 6, 7, 8]])
    ours = np.array([[1, 2, 9, 4], [5, 6, 7, 8]])
    assert judge(tmp_path, ours, exact, name="tokens")["agreement"] == 0.75
    assert judge(tmp_path, ours * 0, exact, "int4", "tokens")["agreement"] == 0
    with pytest.raises(BenchmarkError, match="peer generates other tokens"):
        judge(tmp_path, ours * 0, exact, name="tokens")


# -- files ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('kind = "encoder"', 'kind = "poem"', "tiny.toml: kind has 'poem'; known: encoder, decoder"),
        ('title = "Tiny"', "", r"title = '...' is missing"),
        ("seed = 0\n", 'package = "x"\n', r"\[source\] has one of package, config, script; found: package, config"),
        ("single", "double", "points has 'double'"),
        ("[points]", "[points", "is no TOML"),
    ],
)
def test_a_workload_that_is_wrong_is_refused(tmp_path: Path, old: str, new: str, message: str) -> None:
    path = tmp_path / "tiny.toml"
    path.write_text(TINY.replace(old, new))
    with pytest.raises(SystemExit, match=message):
        read_workload(path)


def test_unknown_names_are_answered_with_those_there_are() -> None:
    with pytest.raises(SystemExit, match=r"There is no peer 'openvina'. There are: .*openvino"):
        peers(["openvina"])
    with pytest.raises(SystemExit, match=r"There is no workload 'bert'. There are: .*bert-base"):
        workloads(["bert"])
    with pytest.raises(SystemExit, match=r"There is no file no\.toml"):
        workloads(["no.toml"])


# -- does the measuring hold ------------------------------------------------------------------------------------------


def noisy(seed: int, drift: float = 1.0) -> dict[str, Any]:
    rng = random.Random(seed)
    key = {"workload": "w", "precision": "fp32", "device": "cpu", "threads": 2, "scenario": "single", "batch": 1}
    rows = []
    for engine, level in (("precast", 1.0), ("a", 1.3 * drift), ("b", 2.0)):
        rounds = [[level * (1 + abs(rng.gauss(0, 0.02))) for _ in range(5)] for _ in range(4)]
        rows.append({**key, "engine": engine, "length": 16, "rounds": rounds})
    machine = {"cpu": "c", "cores": 2, "features": []}
    return {"format": record.FORMAT, "machine": machine, "rows": rows, "created": "", "absent": []}


def test_two_runs_agree_or_do_not(tmp_path: Path) -> None:
    assert all(entry["inside"] for entry in agreement(noisy(0), noisy(1)))
    outside = [entry["engine"] for entry in agreement(noisy(0), noisy(1, drift=1.5)) if not entry["inside"]]
    assert outside == ["a"]
    for name, made in (("a", noisy(0)), ("b", noisy(1)), ("c", noisy(1, drift=1.5))):
        (tmp_path / f"{name}.json").write_text(json.dumps(made))
    same = CliRunner().invoke(program.app, ["agree", str(tmp_path / "a.json"), str(tmp_path / "b.json")])
    assert same.exit_code == 0 and "2 of 2 ratios lie in the interval of the other run" in same.stdout
    other = CliRunner().invoke(program.app, ["agree", str(tmp_path / "a.json"), str(tmp_path / "c.json")])
    assert other.exit_code == 1 and "OUTSIDE" in other.stdout


def test_the_check_runs_an_artifact_three_times(document: dict[str, Any], home: Path) -> None:
    """Whether it finds what is planted is for `python -m benchmarks check` to show: times are not for tests."""
    artifact = next(path.parent for path in home.rglob("precast.json"))
    found = planted(str(artifact), slower=0.1, plan=QUICK, threads=1, say=lambda _: None)
    # 1 x 16 and 1 x natural (it takes 64 tokens), and the cold start.
    assert found["points"] == 2 and found["equal"]["compared"] == found["slowed"]["compared"] == 3
    assert found["equal"]["only_a"] == found["slowed"]["only_b"] == []


def test_without_a_device_the_gpu_run_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    done = CliRunner().invoke(program.app, ["gpu", "--json", str(tmp_path / "gpu.json")])
    assert done.exit_code == 1
    assert "A CUDA device is needed for this" in done.stderr
    assert not (tmp_path / "gpu.json").exists()
