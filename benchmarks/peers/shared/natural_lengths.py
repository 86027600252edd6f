"""The lengths that `precast bench --length natural` draws from, in environments without precast."""

from __future__ import annotations

import runpy
from pathlib import Path

__all__ = ["natural_lengths"]


def natural_lengths() -> tuple[int, ...]:
    data = Path(__file__).resolve().parents[3] / "runtime" / "bench" / "natural.py"
    return runpy.run_path(str(data))["LENGTHS"]
