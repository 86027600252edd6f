"""What making a variant takes, for the manifest's ``cost``."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable
from typing import Any

from precast.runtime.machine import own_peak

__all__ = ["Cost", "Progress"]

# Called with the name of each stage as it begins.
Progress = Callable[[str], None]


class Cost:
    """Seconds of each stage, and the peak memory of the processes; ``progress`` hears of each stage."""

    def __init__(self, progress: Progress | None) -> None:
        self._progress = progress
        self._began = time.perf_counter()
        self._stages: list[tuple[str, float]] = []
        self.peak = 0

    def stage(self, name: str) -> None:
        """What comes now is called ``name``."""
        self._stages.append((name, time.perf_counter()))
        if self._progress is not None:
            self._progress(name)

    def to_json(self) -> dict[str, Any]:
        ends = [start for _, start in self._stages[1:]] + [time.perf_counter()]
        return {
            "seconds": round(time.perf_counter() - self._began, 3),
            "stages": {name: round(end - start, 3) for (name, start), end in zip(self._stages, ends, strict=True)},
            "peak_memory_bytes": max(self.peak, own_peak()),
            "machine": platform.machine(),
            "python": platform.python_version(),
        }
