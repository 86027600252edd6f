"""Precast itself as a contender: an artifact through the public call, with all its input checks."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import precast

PACKAGES = ("precast", "onnxruntime", "onnxruntime-gpu", "numpy")
_OVERHEAD_SECONDS = 0.05


class Adapter:
    """See benchmarks/README.md. ``workload["variant"]`` names the variant; none: what `precast.load` chooses."""

    STREAMS = False

    def __init__(self, *, threads: int | None, device: str, precision: str, workload: Mapping[str, Any]) -> None:
        self._threads, self._device, self._variant = threads, device, workload.get("variant")

    def load(self, checkpoint: Path, prepared: Path) -> None:
        """Open the artifact, digests and all: what a user's process does."""
        self._model = precast.load(prepared, device=self._device, threads=self._threads, variant=self._variant)

    def run(self, feed: Mapping[str, Any]) -> Mapping[str, Any]:
        return self._model(**feed)

    def details(self, feed: Mapping[str, Any]) -> dict[str, Any]:
        """``call_overhead_us``: what the call costs beside the bare ``session.run``."""
        hollow = _without_kernels(self._model, feed)
        taken, end = list[float](), time.perf_counter() + _OVERHEAD_SECONDS
        while time.perf_counter() < end or not taken:
            began = time.perf_counter()
            hollow(**feed)
            taken.append(time.perf_counter() - began)
        return {"call_overhead_us": round(sorted(taken)[len(taken) // 2] * 1e6, 2)}


def _without_kernels(model: Any, feed: Mapping[str, Any]) -> Callable[..., Any]:
    """The same call with a session whose run returns at once.

    A difference of two measurements would drown in the kernels' own noise, a thousand times larger.
    """
    runner, hollow = copy.copy(model._runner), copy.copy(model)
    result = model._runner.run(model._checked(feed))
    runner._run = lambda outputs, inputs: result
    hollow._runner, hollow._run = runner, runner.run
    return hollow  # type: ignore[no-any-return]
