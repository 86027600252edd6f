"""How one run's workers divide the tests, and what they make once for all."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support import ROOT, TESTS, workers

SHARING = """
import os

import pytest
from support.workers import once


@pytest.mark.parametrize("number", range(4))
def test_one(number: int) -> None:
    once("made", lambda folder: (folder.mkdir(), (folder / str(os.getpid())).touch()))
    with open({seen!r}, "a") as file:
        print({name!r}, os.getpid(), file=file)
"""


def test_what_a_file_shares_stays_in_one_worker(tmp_path: Path) -> None:
    """xdist with this suite's own settings: four tests a file, and each file's in one of two processes."""
    seen, kept = tmp_path / "seen", tmp_path / "shared"
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    (tmp_path / "tests").mkdir()
    kept.mkdir()
    shutil.copy(TESTS / "conftest.py", tmp_path / "tests")
    for name in ("a", "b", "c", "d"):
        (tmp_path / "tests" / f"test_{name}.py").write_text(SHARING.format(seen=str(seen), name=name))
    command = [sys.executable, "-m", "pytest", "-q", "-n", "2", "-p", "no:cacheprovider"]
    environment = {**os.environ, "PYTHONPATH": str(TESTS), "PRECAST_TESTS_SHARED": str(kept)}
    for name in ("PYTEST_XDIST_WORKER", "PYTEST_XDIST_WORKER_COUNT", "PYTEST_XDIST_TESTRUNUID", "PYTEST_ADDOPTS"):
        environment.pop(name, None)
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    rows = [line.split() for line in seen.read_text().splitlines()]
    assert len(rows) == 16
    assert len(set(map(tuple, rows))) == 4, "a file's tests are in one process"
    assert len({process for _, process in rows}) == 2, "and the files in both"
    assert len(list((kept / "made").iterdir())) == 1, "what is shared was made once"


def test_families_fill_the_others_time() -> None:
    assert workers.group("tests/test_wide.py::test_a[b::c]") == "tests/test_wide.py"
    alone = "tests/export/families/test_encoders.py::test_graphs_equal_reference[bert]"
    assert workers.group(alone) == alone
    assert all((ROOT / file).is_file() for file in workers._ALONE)


def test_what_failed_is_made_anew(tmp_path: Path) -> None:
    def fails(folder: Path) -> None:
        folder.mkdir()
        (folder / "half").touch()
        raise KeyError(folder.name)

    name = f"draft-of-{tmp_path.name}"
    with pytest.raises(KeyError):
        workers.once(name, fails)
    made = workers.once(name, Path.mkdir)
    assert made == workers.once(name, fails) and not list(made.iterdir())
