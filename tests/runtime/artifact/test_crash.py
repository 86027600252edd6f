"""Killed at any moment, an export leaves the old artifact or the new one, and nothing the next does not clean up."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from support import TESTS


@pytest.mark.parametrize(
    ("mode", "way"),
    [
        ("create", "renameat2"),
        ("overwrite", "renameat2"),
        ("add", "renameat2"),
        ("create", "fallback"),
        ("add", "fallback"),
    ],
)
def test_killed_at_any_moment(tmp_path: Path, mode: str, way: str) -> None:
    # Its own process: forking one that has threads is unsound, and pytest's may have some.
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "support.artifact_killer", str(tmp_path), mode, way, "40"],
        capture_output=True,
        text=True,
        check=False,
        cwd=TESTS,
    )
    assert done.returncode == 0, done.stderr
