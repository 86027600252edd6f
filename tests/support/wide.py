"""Which wide tests run: those of the families whose files a change touches, directly or through what these import, and
a sample of the others where it touches what every export goes through.

A change is what differs between the working tree and where it left the main branch. Where nothing does, and where git
cannot say, every family counts as touched by what they share.
"""

from __future__ import annotations

import ast
import functools
import os
import subprocess
import zlib
from collections.abc import Collection, Mapping
from pathlib import Path

from support import ROOT

__all__ = ["CHOICES", "LIMIT", "asked", "changed_files", "touched"]

CHOICES = ("changed", "all", "none")
LIMIT = 24
"""Wide tests that one run takes at most for the sake of shared files: about 2 minutes of CPU."""

# What families are made of: these count for who imports them.
_PARTS = ("export/families/", "export/blocks/", "export/skeletons/", "export/head_sets/")
# What every family's graphs go through.
_SHARED = (
    *("export/", "graphs/", "runtime/kernels/", "runtime/backends/", "runtime/generation/", "CMakeLists.txt"),
    *("runtime/parity.py", "runtime/gates.py", "runtime/states.py", "pyproject.toml", "constraints.txt"),
    *("tests/export/families/", "tests/support/oracle.py", "tests/support/lowering.py", "tests/support/prompts.py"),
)
# Rooms of export that read files, and make no graphs.
_ELSEWHERE = ("export/checkpoints/", "export/demo", "export/tokenizers/", "export/evaluation.py")


def asked(which: str, tests: Mapping[str, str]) -> set[str]:
    """The wide tests to run of ``tests``, which are by name, each with its family's file; ``which``: of `CHOICES`."""
    if which != "changed" or not tests:
        return set(tests) if which == "all" else set()
    own, shared = touched(set(tests.values()), changed_files())
    found = {name for name, family in tests.items() if family in own}
    return found | _sample(tests.keys() - found, _git(ROOT, "rev-parse", "HEAD") or "") if shared else found


def changed_files(root: Path = ROOT) -> frozenset[str] | None:
    """Paths that differ from where this tree left the main branch, or None where none does or that cannot be said.

    PRECAST_BASE names another commit to compare with.
    """
    wanted = (os.environ.get("PRECAST_BASE"), "origin/HEAD", "origin/main", "main")
    base = next((found for name in wanted if name and (found := _git(root, "merge-base", "HEAD", name))), None)
    tracked = _git(root, "diff", "--name-only", "--no-renames", base) if base else None
    new = _git(root, "ls-files", "--others", "--exclude-standard")
    if tracked is None or new is None:
        return None
    return frozenset((*tracked.splitlines(), *new.splitlines())) or None


def _git(root: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, check=False)
    except OSError:  # no git here
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def touched(families: Collection[str], changed: frozenset[str] | None, root: Path = ROOT) -> tuple[set[str], bool]:
    """The families (files of export/families) that a change asks for, and whether it asks for all of them because of
    what they share."""
    if changed is None:
        return set(), True
    shared = any(
        (path.startswith(_SHARED) and not path.startswith((*_PARTS, *_ELSEWHERE))) or path == f"{_PARTS[0]}__init__.py"
        for path in changed
    )
    own = {family for family in families if _closure(root, f"{_PARTS[0]}{family}.py") & changed}
    return own, shared


@functools.cache
def _closure(root: Path, path: str) -> frozenset[str]:
    """A file of export and the parts it imports, and what these import."""
    found, waiting = set[str](), [path]
    while waiting:
        path = waiting.pop()
        if path not in found and (root / path).is_file():
            found.add(path)
            waiting += _imported(root / path)
    return frozenset(found)


def _imported(file: Path) -> list[str]:
    """Paths of the families' parts that a file imports."""
    names = []
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
    paths = (name.removeprefix("precast.").replace(".", "/") + ".py" for name in names if name.startswith("precast."))
    return [path for path in paths if path.startswith(_PARTS)]


def _sample(tests: Collection[str], seed: str) -> set[str]:
    """At most `LIMIT` of the tests, others for every ``seed``: over many changes all of them run."""
    return set(sorted(tests, key=lambda name: (zlib.crc32(f"{seed} {name}".encode()), name))[:LIMIT])
