"""Precast itself as a contender: an artifact through the public call, with all its input checks."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import precast
from precast.runtime.flow import Flow

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
        hollow = _without_kernels(self._model)
        hollow(**feed)
        taken, end = list[float](), time.perf_counter() + _OVERHEAD_SECONDS
        while time.perf_counter() < end or not taken:
            began = time.perf_counter()
            hollow(**feed)
            taken.append(time.perf_counter() - began)
        return {"call_overhead_us": round(sorted(taken)[len(taken) // 2] * 1e6, 2)}


def _without_kernels(model: Any) -> Callable[..., Any]:
    """The same model, whose sessions run once: after that they return at once what they returned then.

    A difference of two measurements would drown in the kernels' own noise, a thousand times larger.
    """
    parts = {}
    for name, part in model.flow.parts.items():
        runner = copy.copy(part.runner)
        runner._run = _once(part.runner._run)
        parts[name] = part._replace(runner=runner)
    return type(model)(model.artifact, Flow(parts))  # type: ignore[no-any-return]


def _once(run: Callable[..., Any]) -> Callable[..., Any]:
    kept: list[Any] = []

    def again(names: Any, feed: Any) -> Any:
        if not kept:
            kept.append(run(names, feed))
        return kept[0]

    return again
