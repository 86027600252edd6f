"""Which wide sweeps run for which change."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from support import ROOT, wide

FAMILIES = {"bert", "electra", "llama", "gpt2"}


def git(folder: Path, *arguments: str) -> None:
    named = ("-c", "user.name=a", "-c", "user.email=a@b.c")
    subprocess.run(["git", "-C", str(folder), *named, *arguments], check=True, capture_output=True)


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("PRECAST_BASE", raising=False)
    git(tmp_path, "init", "-q", "-b", "main")
    (tmp_path / "kept").write_text("1")
    git(tmp_path, "add", "-A")
    git(tmp_path, "commit", "-qm", "first")
    return tmp_path


def test_a_change_is_what_differs_from_the_main_branch(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert wide.changed_files(repository) is None, "nothing differs: every family counts"
    git(repository, "checkout", "-qb", "work")
    (repository / "committed").write_text("1")
    git(repository, "add", "-A")
    git(repository, "commit", "-qm", "second")
    assert wide.changed_files(repository) == {"committed"}
    (repository / "kept").write_text("2")
    (repository / "new").write_text("1")
    assert wide.changed_files(repository) == {"committed", "kept", "new"}
    monkeypatch.setenv("PRECAST_BASE", "work")
    assert wide.changed_files(repository) == {"kept", "new"}


def test_without_git_every_family_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert wide.changed_files(tmp_path) is None
    monkeypatch.setenv("PATH", str(tmp_path))
    assert wide.changed_files(ROOT) is None
    assert wide.touched(FAMILIES, None) == (set(), True)


@pytest.mark.parametrize(
    ("path", "own", "shared"),
    [
        ("README.md", set(), False),
        ("runtime/cli/chat.py", set(), False),
        ("export/tokenizers/kinds.py", set(), False),
        ("export/families/llama.py", {"llama"}, False),
        ("export/families/bert.py", {"bert", "electra"}, False),
        ("export/blocks/rotary.py", {"llama", "gpt2"}, False),
        ("export/head_sets/encoders.py", {"bert", "electra"}, False),
        ("export/operators.py", set(), True),
        ("export/families/__init__.py", set(), True),
        ("graphs/passes/clean.py", set(), True),
        ("runtime/kernels/linear.cc", set(), True),
        ("tests/support/oracle.py", set(), True),
    ],
)
def test_a_change_touches_who_imports_it(path: str, own: set[str], shared: bool) -> None:
    assert wide.touched(FAMILIES, frozenset({path})) == (own, shared)


def test_what_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    tests = {f"{family}-{number}": family for family in FAMILIES for number in range(wide.LIMIT)}
    assert wide.asked("all", tests) == set(tests)
    assert wide.asked("none", tests) == set()
    monkeypatch.setattr(wide, "changed_files", lambda: frozenset({"export/families/llama.py"}))
    own = {name for name, family in tests.items() if family == "llama"}
    assert wide.asked("changed", tests) == own
    changed = frozenset({"export/families/llama.py", "export/trace.py"})
    monkeypatch.setattr(wide, "changed_files", lambda: changed)
    found = wide.asked("changed", tests)
    assert own < found and len(found) == len(own) + wide.LIMIT
    assert found == wide.asked("changed", tests), "of one commit the same"
