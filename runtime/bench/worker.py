"""One contender in a process of its own: requests as JSON lines on stdin, one answer each on stdout.

Run as a file by the Python of the environment the contender lives in, so it imports the standard library and NumPy
only; an adapter file brings the rest. benchmarks/README.md describes the protocol and what an adapter must have.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import platform
import random
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["main"]

Feed = Mapping[str, Any]
_WINDOW = 5


class Worker:
    """Answers requests with an adapter. ``load`` comes first; ``run``, ``warm``, ``time`` and ``serve`` take feeds."""

    def __init__(self, module: Any) -> None:
        self._module = module
        self._adapter: Any = None
        self._feeds: dict[str, Feed] = {}
        self._streams = bool(getattr(module.Adapter, "STREAMS", False))

    def hello(self, **_: Any) -> dict[str, Any]:
        """Versions of what the adapter names in PACKAGES, of Python, and the process id."""
        return {"python": platform.python_version(), "pid": os.getpid(), "versions": self._versions()}

    def prepare(self, *, checkpoint: str, out: str, **options: Any) -> dict[str, Any]:
        """Convert the checkpoint into what the contender runs, once; a folder of its own."""
        began = time.perf_counter()
        self._module.Adapter(**options).prepare(Path(checkpoint), Path(out))
        return {"seconds": time.perf_counter() - began, "peak_bytes": _status("VmHWM")}

    def load(self, *, checkpoint: str, prepared: str, **options: Any) -> dict[str, Any]:
        """Make the contender ready to run. ``options``: threads, device, precision, workload."""
        began = time.perf_counter()
        self._adapter = self._module.Adapter(**options)
        self._adapter.load(Path(checkpoint), Path(prepared))
        return {"seconds": time.perf_counter() - began, "versions": self._versions()}

    def run(self, *, feed: str, save: str | None = None, **_: Any) -> dict[str, Any]:
        """Once; ``save``: where to leave the outputs as .npz."""
        began = time.perf_counter()
        outputs, marks = self._once(self._feed(feed))
        seconds = time.perf_counter() - began
        if save is not None:
            arrays: dict[str, Any] = {name: np.asarray(value) for name, value in outputs.items()}
            np.savez(save, **arrays)
        return {"seconds": seconds, "marks": marks}

    def warm(self, *, feeds: list[str], seconds: float, tolerance: float = 0.05, **_: Any) -> dict[str, Any]:
        """Call until the medians of two windows of calls agree, or the time is over."""
        end, taken = time.perf_counter() + seconds, list[float]()
        stable = False
        for feed in self._cycle(feeds):
            taken.append(self._timed(feed)[0])
            if len(taken) >= 2 * _WINDOW:
                before, now = np.median(taken[-2 * _WINDOW : -_WINDOW]), np.median(taken[-_WINDOW:])
                stable = bool(abs(now - before) <= tolerance * before)
            if stable or (time.perf_counter() >= end and len(taken) >= 2):
                break
        return {"calls": len(taken), "stable": stable}

    def time(
        self,
        *,
        feeds: list[str],
        seconds: float,
        least: int = 1,
        most: int = 100_000,
        first: int = 0,
        settle: bool = True,
        **_: Any,
    ) -> dict[str, Any]:
        """Calls one after the other, through ``feeds`` in turn from number ``first`` on, for about ``seconds``.

        ``settle``: a call that is not counted comes first, since caches and idle threads are as another process left
        them; calls of a second and more need none.
        ``marks``: for generation, when each token came, in seconds from the call's start.
        """
        rows: list[tuple[float, list[float]]] = []
        cycle = self._cycle(feeds, first)
        if settle:
            self._timed(self._feed(feeds[first % len(feeds)]))
        end = time.perf_counter() + seconds
        while len(rows) < least or (len(rows) < most and time.perf_counter() < end):
            rows.append(self._timed(next(cycle)))
        answer: dict[str, Any] = {"seconds": [seconds for seconds, _ in rows]}
        if self._streams:
            answer["marks"] = [marks for _, marks in rows]
        if hasattr(self._adapter, "device_seconds"):
            answer["device_seconds"] = self._adapter.device_seconds()
        return answer

    def serve(self, *, feeds: list[str], rate: float, requests: int, seed: int = 0, **_: Any) -> dict[str, Any]:
        """Requests arrive at random (Poisson, ``rate`` a second) and are answered one after the other.

        Latency counts from a request's arrival, waiting included; arrivals do not wait for answers.
        """
        gaps = random.Random(seed)
        arrivals, at = list[float](), 0.0
        for _index in range(requests):
            at += gaps.expovariate(rate)
            arrivals.append(at)
        cycle = self._cycle(feeds)
        self._timed(self._feed(feeds[0]))
        latencies = list[float]()
        start = time.perf_counter()
        for arrival in arrivals:
            wait = start + arrival - time.perf_counter()
            if wait > 0:
                time.sleep(wait)
            self._timed(next(cycle))
            latencies.append(time.perf_counter() - start - arrival)
        return {"latencies": latencies, "seconds": time.perf_counter() - start}

    def details(self, *, feed: str, **_: Any) -> dict[str, Any]:
        """Further figures of a call, where the adapter has some."""
        details = getattr(self._adapter, "details", None)
        return dict(details(self._feed(feed))) if details is not None else {}

    def memory(self, *, reset: bool = False, **_: Any) -> dict[str, Any]:
        """The present resident size, and the largest since the last ``reset`` where the system can count anew."""
        answer = {"peak_bytes": _status("VmHWM"), "resident_bytes": _status("VmRSS")}
        if reset:
            with contextlib.suppress(OSError), open("/proc/self/clear_refs", "w", encoding="ascii") as file:
                file.write("5")  # proc(5): reset the peak resident set size
        return answer

    def _versions(self) -> dict[str, str]:
        found = {}
        for package in getattr(self._module, "PACKAGES", ()):
            with contextlib.suppress(PackageNotFoundError):
                found[package] = version(package)
        return found

    def _feed(self, path: str) -> Feed:
        if path not in self._feeds:
            with np.load(path) as arrays:
                self._feeds[path] = {name: arrays[name] for name in arrays.files}
        return self._feeds[path]

    def _cycle(self, paths: list[str], first: int = 0) -> Iterator[Feed]:
        index = first
        while True:
            yield self._feed(paths[index % len(paths)])
            index += 1

    def _once(self, feed: Feed) -> tuple[Mapping[str, Any], list[float]]:
        if not self._streams:
            return self._adapter.run(feed), []
        marks: list[float] = []
        began = time.perf_counter()
        outputs = self._adapter.run(feed, lambda: marks.append(time.perf_counter() - began))
        return outputs, marks

    def _timed(self, feed: Feed) -> tuple[float, list[float]]:
        began = time.perf_counter()
        _, marks = self._once(feed)
        return time.perf_counter() - began, marks


def _status(field: str) -> int | None:
    """A field of /proc/self/status in bytes; None where the system has no such file."""
    with contextlib.suppress(OSError, ValueError, StopIteration), open("/proc/self/status", encoding="ascii") as file:
        return int(next(line for line in file if line.startswith(f"{field}:")).split()[1]) * 1024
    if field != "VmHWM":
        return None
    with contextlib.suppress(ImportError):
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return None


def _import(path: Path) -> Any:
    # What adapters share lies beside them and one folder up; last, so that no name of ours hides a package's module.
    sys.path += [str(path.parent), str(path.parent.parent)]
    spec = importlib.util.spec_from_file_location(f"adapter_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _exit_with_parent() -> None:
    """Leave when whoever asked is gone without a word: stdin closes, but a long call would not notice."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(5.0)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def main(arguments: list[str]) -> None:
    """``worker.py ADAPTER_FILE``: answer until stdin ends."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever a library prints belongs to the log
    _exit_with_parent()

    def answer(document: Mapping[str, Any]) -> None:
        print(json.dumps(document), file=answers, flush=True)

    def attempt(call: Callable[[], Mapping[str, Any]]) -> None:
        try:
            answer(call())
        except Exception as error:
            traceback.print_exc()
            answer({"error": f"{type(error).__name__}: {error}"})

    # sys.path[0] is this file's folder, whose names must not hide an environment's own modules.
    sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != Path(__file__).resolve().parent]
    worker: Worker | None = None
    try:
        worker = Worker(_import(Path(arguments[0]).resolve()))
    except Exception as error:
        traceback.print_exc()
        answer({"error": f"{type(error).__name__}: {error}"})
        return
    for line in sys.stdin:
        request = json.loads(line)
        name = request.pop("op")
        attempt(partial(getattr(worker, name), **request))


if __name__ == "__main__":
    main(sys.argv[1:])
