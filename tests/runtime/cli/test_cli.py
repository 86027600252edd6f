"""The command line: results, JSON, exit status, one-line errors, and what it may import."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import doubles, tiny_artifacts
from support.command_line import PRECAST, call, good, interruptible, misused, refused
from support.hub_server import HubServer

import precast
from precast.runtime import auto, hub_transport, loading, machine, timing
from precast.runtime.cli import console
from precast.runtime.tasks import TASKS

COMMANDS = ("export", "run", "chat", "verify", "inspect", "bench", "diff", "push", "pull", "env", "demo")


@pytest.fixture(scope="module")
def classifier() -> Path:
    return tiny_artifacts.artifact("text-classification")


@pytest.fixture(scope="module")
def embedder() -> Path:
    return tiny_artifacts.artifact("feature-extraction")


# -- help and usage ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_an_example(command: str) -> None:
    shown = good(command, "--help")
    assert f"precast {command}" in shown.partition("Example:")[2]
    if command not in ("push", "pull"):
        assert "--json" in shown


def test_help_lists_every_command_and_the_version_is_the_package_s() -> None:
    shown = good("--help")
    assert all(f"\n  {command} " in shown for command in COMMANDS)
    assert good("--version") == f"precast {precast.__version__}\n"


def test_wrong_usage_is_status_2(tmp_path: Path) -> None:
    assert "No such command 'exprot'" in misused("exprot")
    assert "Missing argument" in misused("export", "source")
    assert "No such option" in misused("verify", "x", "--nonsense")
    assert "--add keeps what is there, --overwrite replaces it" in misused("export", "a", "b", "--add", "--overwrite")
    assert "--param takes KEY=VALUE" in misused("run", "fill-mask", "x", "text", "--param", "top_k")
    assert "give one of them" in misused("run", "question-answering", "x", "--context", "a", "--context-file", "b")
    assert "--context is for question-answering" in misused("run", "fill-mask", "x", "text", "--context", "c")
    assert "--batch takes whole numbers" in misused("bench", "x", "--batch", "1,two")


def test_completion_knows_commands_and_tasks() -> None:
    environment = {**os.environ, "_PRECAST_COMPLETE": "complete_bash", "COMP_WORDS": "precast ver", "COMP_CWORD": "1"}
    script = [shutil.which("precast", path=str(Path(sys.executable).parent)) or "precast"]
    found = subprocess.run(script, env=environment, capture_output=True, text=True, check=False)
    assert found.stdout.split() == ["verify"], found
    environment |= {"COMP_WORDS": "precast run zero", "COMP_CWORD": "2"}
    found = subprocess.run(script, env=environment, capture_output=True, text=True, check=False)
    assert found.stdout.split() == sorted(name for name in TASKS if name.startswith("zero")), found


# -- export, verify, inspect, diff --------------------------------------------------------------------------------


def test_export_says_what_it_made_and_refuses_to_make_it_again(tmp_path: Path) -> None:
    source, out = tiny_artifacts.checkpoint("text-classification"), tmp_path / "made"
    document = json.loads(good("export", source, out, "--json"))
    assert document["artifact"] == str(out)
    assert document["tasks"] == ["text-classification", "zero-shot-classification"]
    assert "cpu-fp32" in document["variants"]
    assert list(document["parity"]) == document["variants"]
    assert all(set(outputs) == {"logits"} for outputs in document["parity"].values())
    assert document["cost"]["peak_memory_bytes"] > 1e6
    assert document["bytes"] == sum(path.stat().st_size for path in out.rglob("*.*") if path.name != "precast.json")
    assert document["digest"] == precast.load(out).artifact.digest
    assert "already holds an artifact. --add" in refused("export", source, out)
    found = json.loads(good("diff", tiny_artifacts.artifact("text-classification"), out, "--json"))
    assert found["same"] is True


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("no/such/folder/at-all",), "There is no folder 'no/such/folder/at-all', and it is no Hub id"),
        (("CHECKPOINT", "--precision", "fp23"), "fp23"),
        (("CHECKPOINT", "--task", "text-clasification"), "Closest: text-classification"),
        (("CHECKPOINT", "--task", "fill-mask"), "text-classification"),
        (("CHECKPOINT", "--revision", "main"), "A revision belongs to a Hub id"),
    ],
)
def test_export_refuses_in_one_line_and_leaves_nothing(
    tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    source = str(tiny_artifacts.checkpoint("text-classification"))
    given = [source if argument == "CHECKPOINT" else argument for argument in arguments]
    assert message in refused("export", given[0], tmp_path / "out", *given[1:])
    assert list(tmp_path.iterdir()) == []


def test_export_without_the_extra_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = auto.importlib.util.find_spec
    monkeypatch.setattr(
        auto.importlib.util, "find_spec", lambda name, *rest: None if name in ("torch", "onnx") else real(name, *rest)
    )
    message = refused("export", "checkpoint", tmp_path / "out")
    assert "needs torch, onnx, not installed here" in message
    assert 'pip install "precast[export]"' in message
    assert 'pip install "precast[export]"' in refused("demo")


def test_verify(classifier: Path, tmp_path: Path) -> None:
    document = json.loads(good("verify", classifier, "--json"))
    assert document["variants"]["cpu-fp32"]["status"] == "verified"
    shown = good("verify", classifier)
    assert "logits" in shown and "every gate holds" in shown
    assert "has no variant" in refused("verify", classifier, "--variant", "cpu-fp23")
    copy = tmp_path / "copy"
    shutil.copytree(classifier, copy)
    target = next((copy / "weights").iterdir())
    damaged = bytearray(target.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    target.write_bytes(damaged)
    assert "differs from its recorded SHA-256" in refused("verify", copy)
    assert "differs from its recorded SHA-256" in refused("run", "text-classification", copy, "text")


def test_inspect(classifier: Path) -> None:
    document = json.loads(good("inspect", classifier, "--json"))
    assert document["components"]["encoder"]["variants"]["cpu-fp32"]["operators"]
    shown = good("inspect", classifier)
    assert "text-classification, zero-shot-classification" in shown
    assert "cpu-fp32 operators: " in shown
    assert "GFLOP a call of batch 1, sequence 128; " in shown
    assert "logits float32[batch, 3]" in shown


def test_diff(classifier: Path, embedder: Path) -> None:
    assert "have one digest" in good("diff", classifier, classifier)
    shown = good("diff", classifier, embedder)
    assert "differ." in shown
    document = json.loads(good("diff", classifier, embedder, "--json"))
    assert document["same"] is False
    assert document["default_task"] == ["text-classification", "feature-extraction"]
    assert "default_task" in shown


@pytest.mark.parametrize("command", ["verify", "inspect", "bench"])
def test_what_is_no_artifact(command: str, tmp_path: Path) -> None:
    assert "There is no folder" in refused(command, tmp_path / "nowhere")
    assert "it has no precast.json" in refused(command, tmp_path)
    assert "is a checkpoint, not an artifact" in refused(command, tiny_artifacts.checkpoint("text-classification"))


# -- run --------------------------------------------------------------------------------------------------------------


def test_run_is_the_pipeline(classifier: Path) -> None:
    texts = ["Hello world, my friend.", "It was the worst of times", ""]
    expected = precast.pipeline("text-classification", classifier)(texts, top_k=2)
    lines = good("run", "text-classification", classifier, *texts, "--top-k", "2", "--json").splitlines()
    doubles.assert_same([json.loads(line) for line in lines], expected)
    # The same from stdin, by an alias and a generic parameter.
    lines = good(
        "run", "sentiment-analysis", classifier, "--json", "--param", "top_k=2", stdin="\r\n".join(texts) + "\n"
    ).splitlines()
    doubles.assert_same([json.loads(line) for line in lines], expected)
    lines = good("run", "text-classification", classifier, texts[0], "-", "--json", stdin=texts[1]).splitlines()
    assert [json.loads(line)["label"] for line in lines] == [result[0]["label"] for result in expected[:2]]


def test_run_for_people(classifier: Path, embedder: Path) -> None:
    shown = good("run", "text-classification", classifier, "Hello", "--top-k", "3").splitlines()
    assert len(shown) == 3
    assert all(" label: " in line for line in shown)
    assert good("run", "feature-extraction", embedder, "Hello world").startswith("1x")
    assert good("run", "sentence-embedding", embedder, "Hello world").partition(": ")[0].isdigit()


def test_run_pairs_as_json(classifier: Path) -> None:
    pair = {"text": "Hello world", "text_pair": "Hello again"}
    line = good("run", "text-classification", classifier, json.dumps(pair), "--input-json", "--json")
    doubles.assert_same(json.loads(line), precast.pipeline("text-classification", classifier)([pair])[0])
    assert "--input-json takes JSON" in refused("run", "text-classification", classifier, "{", "--input-json")


def test_run_zero_shot(classifier: Path) -> None:
    options = ("--candidate-labels", "cities, foxes", "--hypothesis-template", "About {}.", "--multi-label")
    line = good("run", "zero-shot-classification", classifier, "The quick brown fox", *options, "--json")
    pipe = precast.pipeline("zero-shot-classification", classifier)
    expected = pipe("The quick brown fox", ["cities", "foxes"], hypothesis_template="About {}.", multi_label=True)
    doubles.assert_same(json.loads(line), expected)
    shown = good("run", "zero-shot-classification", classifier, "The quick brown fox", *options)
    assert shown.splitlines()[0].endswith(expected["labels"][0])
    assert "pass candidate_labels" in refused("run", "zero-shot-classification", classifier, "text")


def test_run_embeddings(embedder: Path) -> None:
    texts = ["Hello world", "Language models turn text into tokens"]
    lines = good("run", "sentence-embedding", embedder, "--json", stdin="\n".join(texts)).splitlines()
    expected = precast.load(embedder).encode(texts)
    np.testing.assert_allclose([json.loads(line) for line in lines], expected, atol=1e-6)
    short = good("run", "sentence-embedding", embedder, texts[0], "--param", "truncate_dim=4", "--json")
    assert len(json.loads(short)) == 4
    assert "encode has no argument 'top_k'" in refused("run", "sentence-embedding", embedder, "x", "--param", "top_k=4")


@pytest.mark.parametrize(
    ("task", "head", "arguments", "parameters"),
    [
        ("ner", "BertForTokenClassification", ("--aggregation-strategy", "simple"), {"aggregation_strategy": "simple"}),
        ("fill-mask", "BertForMaskedLM", ("--targets", "good,bad"), {"targets": ["good", "bad"]}),
        ("question-answering", "BertForQuestionAnswering", ("--context", "CONTEXT", "--top-k", "2"), {"top_k": 2}),
    ],
)
def test_run_passes_a_task_s_own_options(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    task: str,
    head: str,
    arguments: tuple[str, ...],
    parameters: dict[str, Any],
) -> None:
    name = {"ner": "token-classification"}.get(task, task)
    loaded = doubles.UpstreamModel(doubles.tiny_bert(head), (name,), doubles.tokenizer())
    monkeypatch.setattr(loading, "load", lambda *_, **__: loaded)
    text = "My name is Wolfgang and I live in [MASK]." if task == "fill-mask" else "My name is Wolfgang, in Berlin."
    context = "Wolfgang is the name of a man who lives in Berlin with two cats."
    given = tuple(context if argument == "CONTEXT" else argument for argument in arguments)
    line = good("run", task, "artifact", text, *given, "--json")
    pipe = precast.pipeline(task, loaded)
    if task == "question-answering":
        expected = pipe(question=text, context=context, **parameters)
        (tmp_path / "context.txt").write_text(context, encoding="utf-8")
        same = good("run", task, "artifact", text, "--context-file", tmp_path / "context.txt", "--top-k", "2", "--json")
        assert same == line
        assert "--context TEXT or --context-file FILE" in refused("run", task, "artifact", text)
    else:
        expected = pipe(text, **parameters)
    doubles.assert_same(json.loads(line), console.plain(expected))
    shown = good("run", task, "artifact", text, *given)
    assert shown.count("\n") == max(1, len(expected) if isinstance(expected, list) else 1)


@pytest.mark.parametrize(
    ("arguments", "stdin", "message"),
    [
        (("run", "fill-maks", "A", "text"), None, "Closest: fill-mask"),
        (("run", "ner", "A", "text"), None, "this one serves: text-classification, zero-shot-classification"),
        (("run", "text-classification", "A", "word " * 600), None, "truncation=True"),
        (("run", "text-classification", "A", "x", "--param", "topk=3"), None, "topk"),
        (("run", "text-classification", "A", "x", "--device", "cuda"), None, "no variant"),
        (("run", "text-classification", "A", "x", "--device", "gpu"), None, "device is cpu, cuda or tensorrt"),
        (("run", "text-classification", "A"), b"caf\xe9\n", "line 1 of stdin is not"),
    ],
)
def test_run_refuses_in_one_line(
    classifier: Path, arguments: tuple[str, ...], stdin: bytes | None, message: str
) -> None:
    given = [str(classifier) if argument == "A" else argument for argument in arguments]
    assert message in refused(*given, stdin=stdin)


# -- bench, env, push, pull -------------------------------------------------------------------------------------------


QUICK = ("--seconds", "0.02", "--launches", "2", "--threads", "1", "--no-calibration")


@pytest.fixture(scope="module")
def record(classifier: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("records") / "record.json"
    path.write_text(good("bench", classifier, "--batch", "1,2", "--length", "8,natural", *QUICK, "--json"))
    return path


def test_bench_has_the_error_in_the_row_of_the_speed(classifier: Path, record: Path) -> None:
    document = json.loads(record.read_text())
    grid = [(1, 8), (1, "natural"), (2, 8), (2, "natural")]
    for engine in document["engines"]:
        rows = [row for row in document["rows"] if row["engine"] == engine]
        assert [(row["batch"], row["length"]) for row in rows] == [*grid, grid[0]]
        assert rows[-1]["scenario"] == "cold" and rows[-1]["time"]["value"] > 0
        for row in rows[:-1]:
            assert row["median_ms"] == pytest.approx(row["time"]["value"] * 1e3, rel=1e-3)
            assert row["texts_per_second"] == pytest.approx(row["batch"] / row["median_ms"] * 1e3, rel=1e-3)
            assert row["quantiles"]["p50"]["value"] <= row["quantiles"]["p99"]["value"]
            assert row["call_overhead_us"] > 0
            assert 0 < row["max_abs"] < 1e-4
            assert row["peak_memory_bytes"] > 1e7
            assert len(row["rounds"]) == 2
    fixed = next(row for row in document["rows"] if row["batch"] == 2 and row["length"] == 8)
    assert fixed["work"]["flops"] == 2 * next(r for r in document["rows"] if r["length"] == 8)["work"]["flops"]


def test_bench_refuses_what_it_cannot_measure_before_it_measures(classifier: Path, tmp_path: Path) -> None:
    assert "This model takes" in refused("bench", classifier, "--length", "8,513")
    assert "no variant" in refused("bench", classifier, "--device", "cuda")
    assert "in a folder that exists" in refused("bench", classifier, "--html", tmp_path / "no" / "page.html")
    assert "'cpu-fp16'" in refused("bench", classifier, "--variant", "cpu-fp16")
    assert "--batch takes whole numbers" in misused("bench", classifier, "--batch", "1,two")
    assert "--length takes a whole number, natural" in misused("bench", classifier, "--length", "long")
    assert "--scenario takes single, offline, server; received 'burst'" in misused(
        "bench", classifier, "--scenario", "burst"
    )


def test_bench_holds_a_load(classifier: Path) -> None:
    shown = good("bench", classifier, "--variant", "cpu-fp32", "--batch", "1", "--length", "8", "--scenario", "server",
                 "--bound", "1000", *QUICK)  # fmt: skip
    assert "requests a second are answered within 1e+03 ms (99 %)" in shown
    assert "a cold process has its first result after" in shown


def test_bench_draws_a_page_and_prints_markdown(record: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    good("bench", "report", record, "--html", page)
    assert page.read_text().startswith("<!doctype html>")
    assert "cpu-fp32" in good("bench", "report", record)
    assert "is no JSON document" in refused("bench", "report", __file__)


def test_bench_compares_two_records_and_fails_on_a_regression(record: Path, tmp_path: Path) -> None:
    assert "Nothing is worse" in good("bench", "compare", record, record)
    document = json.loads(record.read_text())
    for row in document["rows"]:
        if "floors" in row:
            row["floors"] = [value * 3 for value in row["floors"]]
            row["memory"]["peak_bytes"] *= 2
    slowed = tmp_path / "slowed.json"
    slowed.write_text(json.dumps(document))
    done = call("bench", "compare", record, slowed, "--json")
    assert done.exit_code == 1
    found = json.loads(done.stdout)
    # Two launches of a few milliseconds may leave a tripled time within their noise; memory has none.
    assert found["regressions"] >= 8
    assert "peak memory" in {change["what"] for change in found["changes"]}
    assert "WORSE" in call("bench", "compare", record, slowed).stdout
    assert call("bench", "compare", record, slowed, "--bound", "900").exit_code == 0
    other = tmp_path / "other.json"
    other.write_text('{"format": "something else"}')
    assert "is no record of this precast" in refused("bench", "compare", record, other)


def test_diff_times_both_in_turns(classifier: Path, embedder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("precast.runtime.cli.diff._SECONDS", 0.02)
    monkeypatch.setattr("precast.runtime.cli.diff._POINTS", ((1, 8), (2, 100_000)))
    (row,) = json.loads(good("diff", classifier, embedder, "--speed", "--json"))["speed"]
    assert (row["batch"], row["length"]) == (1, 8), "what one of them does not take is left out"
    assert row["ratio"]["low"] <= row["ratio"]["value"] <= row["ratio"]["high"]
    assert row["a_ms"]["value"] > 0 < row["b_ms"]["value"]
    assert "1 x 8" in good("diff", classifier, embedder, "--speed")


def test_timing_takes_turns_and_waits_until_stable() -> None:
    order: list[str] = []
    calls: dict[str, Callable[[], None]] = {
        "slow": lambda: (time.sleep(0.004), order.append("slow"))[1],
        "fast": lambda: order.append("fast"),
    }
    found = timing.interleave(calls, seconds=0.05)
    assert found["slow"].median > 0.004 > found["fast"].median
    assert found["slow"].runs == found["fast"].runs >= 5
    rounds = order[-2 * found["slow"].runs :]
    assert {tuple(rounds[at : at + 2]) for at in range(0, len(rounds), 2)} == {("slow", "fast"), ("fast", "slow")}
    assert 0 < timing.cpu_share(0.02) <= 1.05
    steps = iter([0.02] * 5 + [0.002] * 100)
    assert timing.warm_up(lambda: time.sleep(next(steps)), seconds=5, tolerance=0.5) > 10


def test_env_says_what_is_missing_and_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    document = json.loads(good("env", "--json"))
    assert document["precast"] == precast.__version__
    assert "CPUExecutionProvider" in document["onnxruntime"]["providers"]
    assert document["extras"]["export"]["torch"]
    assert document["kernels"]["why_not"] or "portable" in document["kernels"]["builds"]
    assert document["hub"]["limits"]["silence_seconds"] == hub_transport.SILENCE
    assert "20 s of silence; 60 s a request" in good("env")
    real = machine.version

    def absent(name: str) -> str:
        if name == "torch":
            raise machine.PackageNotFoundError(name)
        return real(name)

    monkeypatch.setattr(machine, "version", absent)
    missing = json.loads(good("env", "--json"))["missing"]
    assert {"for": "export checkpoints", "packages": ["torch"], "get": 'pip install "precast[export]"'} in missing
    shown = good("env")
    assert 'pip install "precast[export]"' in shown
    monkeypatch.setenv("PRECAST_NO_KERNELS", "1")
    assert "PRECAST_NO_KERNELS is set" in good("env")


@pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # huggingface_hub's own upload of LFS files
def test_push_and_pull(server: HubServer, classifier: Path, tmp_path: Path) -> None:
    document = json.loads(good("push", classifier, "org/made", "--token", "hf_any", "--json"))
    assert document["commit"].startswith(f"{server.url}/org/made/commit/")
    pulled = tmp_path / "pulled"
    document = json.loads(good("pull", "org/made", pulled, "--json"))
    assert document["digest"] == precast.load(classifier).artifact.digest
    assert "already holds an artifact" in refused("pull", "org/made", pulled)
    assert str(pulled) in good("pull", "org/made", pulled, "--overwrite")
    assert "has no revision 'v9'" in refused("pull", "org/made", tmp_path / "x", "--revision", "v9")
    assert "A Hub id is 'name' or 'org/name'" in refused("push", classifier, "not/an/id")
    assert "An artifact is a folder with precast.json" in refused("push", tmp_path, "org/made")


# -- errors of every kind ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (PermissionError(13, "Permission denied", "/some/where"), 1, "precast: error: [Errno 13] Permission denied"),
        (MemoryError(), 1, "precast: error: There is not enough memory."),
        (KeyboardInterrupt(), 130, "precast: interrupted"),
        (ValueError("two\nlines"), 1, "precast: error: unexpected ValueError: two lines This is a defect of precast"),
        (BrokenPipeError(), 1, ""),
    ],
)
def test_whatever_goes_wrong_is_one_line(
    monkeypatch: pytest.MonkeyPatch, error: BaseException, status: int, message: str
) -> None:
    def fail() -> None:
        raise error

    monkeypatch.setattr(console.os, "dup2", lambda *_: None)
    monkeypatch.setattr(machine, "report", fail)
    result = call("env")
    assert result.exit_code == status
    assert result.stderr.startswith(message)
    assert result.stderr.count("\n") == (1 if message else 0)
    assert result.stdout == ""


def test_debug_shows_the_traceback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = call("--debug", "verify", tmp_path / "nowhere")
    assert isinstance(result.exception, precast.PrecastError)
    monkeypatch.setenv("PRECAST_DEBUG", "1")
    assert isinstance(call("verify", tmp_path / "nowhere").exception, precast.PrecastError)
    monkeypatch.delenv("PRECAST_DEBUG")
    refused("verify", tmp_path / "nowhere")


def test_what_json_cannot_hold_is_made_plain() -> None:
    made = console.plain({"a": np.float32(1.5), 2: (np.arange(2), float("nan")), "p": Path("x")})
    assert made == {"a": 1.5, "2": [[0, 1], None], "p": "x"}


def test_progress_is_for_terminals(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    with console.Stages() as stage:
        stage("one")
    assert capsys.readouterr() == ("", "")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    with console.Stages() as stage:
        stage("one")
        stage("two")
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "one" in shown.err and "two" in shown.err and "peak" in shown.err


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells what another process holds")
def test_the_peak_counts_who_works_for_the_process() -> None:
    before = console.peak_memory()
    code = "held = bytes(1) * (64 << 20); print(1, flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        assert console.peak_memory() > before + (64 << 20)
        child.communicate(b"\n")
    assert console.peak_memory() < before + (64 << 20)


# -- processes --------------------------------------------------------------------------------------------------------


def loaded_after(*arguments: str | Path) -> tuple[subprocess.CompletedProcess[str], set[str]]:
    """The command in a process of its own, and the top-level modules it held in the end."""
    code = (
        "import sys\nfrom precast.runtime.cli import main\n"
        "try: main()\n"
        "finally: sys.stderr.write('\\n' + ' '.join({name.partition('.')[0] for name in sys.modules}))"
    )
    command = [sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd="/")
    return done, set(done.stderr.splitlines()[-1].split())


@pytest.mark.parametrize("arguments", [("--help",), ("export", "--help"), ("run", "--help")])
def test_help_is_light(arguments: tuple[str, ...]) -> None:
    done, modules = loaded_after(*arguments)
    assert done.returncode == 0
    assert not modules & {"numpy", "onnxruntime", "torch", "tokenizers", "rich", "huggingface_hub", "jinja2"}


def test_run_never_hears_of_torch(classifier: Path) -> None:
    done, modules = loaded_after("run", "text-classification", classifier, "Hello", "--json")
    assert done.returncode == 0
    assert json.loads(done.stdout)["label"]
    assert not modules & {"torch", "onnx", "onnx_ir", "onnxscript", "transformers", "huggingface_hub"}


def test_status_and_one_line_from_a_process(tmp_path: Path) -> None:
    done = subprocess.run([*PRECAST, "verify", str(tmp_path)], capture_output=True, text=True, check=False, cwd="/")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert "Traceback" not in done.stderr


def test_a_reader_that_leaves_and_a_user_who_interrupts(classifier: Path, tmp_path: Path) -> None:
    command = [*PRECAST, "run", "text-classification", str(classifier), "--json", "--batch-size", "1"]
    (tmp_path / "lines").write_text("Hello\n" * 20_000, encoding="utf-8")  # far more than a pipe holds
    with (tmp_path / "lines").open() as lines:
        process = subprocess.Popen(command, stdin=lines, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait(timeout=60) == 1

    with interruptible():
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdin is not None and process.stdout is not None and process.stderr is not None
    process.stdin.write(b"Hello\n")
    process.stdin.flush()
    assert json.loads(process.stdout.readline())["label"]  # answered at once, so it waits for more now
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130
    assert error.decode().startswith("precast: interrupted") and error.count(b"\n") == 1
