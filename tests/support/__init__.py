"""What tests share: oracles, doubles, samples and servers; and scripts, run as `python -m support.NAME` in tests/."""

from __future__ import annotations

from pathlib import Path

__all__ = ["DATA", "ROOT", "TESTS"]

TESTS = Path(__file__).resolve().parent.parent
ROOT = TESTS.parent
DATA = TESTS / "data"
