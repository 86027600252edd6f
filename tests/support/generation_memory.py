"""What generations leave in memory, and what a step asks of it; test_memory.py runs it in its own process.

python -m support.generation_memory ARTIFACT VARIANT [GENERATIONS]

One JSON object on stdout: ``resident`` [11], MiB after the warm-up (a tenth of the generations, at least 200) and after
each tenth of the rest; ``cache``, ``steps`` and ``arrays``, MiB: the buffers of a session, by how much the process grew
at most during one of 64 steps behind its prompt, and what Python and NumPy held at most in one of them. Linux only.
"""

from __future__ import annotations

import json
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np

import precast

_MIB = 1 << 20
_STEPS = 64


def main(artifact: str, variant: str, generations: int) -> dict[str, Any]:
    model = precast.load(artifact, variant=variant, threads=2)
    engine = model.engine()
    longest = min(engine.max_length or 256, (engine.source and engine.source.longest) or 256, 256)
    rng = np.random.default_rng(0)

    def generate(count: int) -> None:
        """Prompts of all lengths in batches of one to three; every fifth one by beams, every seventh by sampling."""
        for turn in range(count):
            ids = rng.integers(5, _vocabulary(engine), (1 + turn % 3, int(rng.integers(2, longest - 8))))
            model.generate(
                ids, max_new_tokens=8, num_beams=2 if turn % 5 == 0 else 1, do_sample=turn % 7 == 1, seed=turn
            )

    generate(max(200, generations // 10))
    resident = [_status("VmRSS")]
    for _ in range(10):
        generate(generations // 10)
        resident.append(_status("VmRSS"))
    return {"resident": resident, **_steps(engine, longest, rng)}


def _vocabulary(engine: Any) -> int:
    """What ids of prompts are below: of a source, where there is one."""
    size: int = engine.vocab_size if engine.source is None else engine.source.vocab_size
    return size


def _steps(engine: Any, longest: int, rng: np.random.Generator) -> dict[str, float]:
    """A session with room for far more than is fed: whoever copied its buffers would need as much again."""
    rows = 8
    context = None
    if engine.flow.before:
        ids = rng.integers(5, _vocabulary(engine), (rows, longest))
        context = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
    session = engine.open(rows, min(engine.max_length or 8192, 8192), context)
    session.feed(rng.integers(5, engine.vocab_size, (rows, 16)).tolist())
    grown, held = [], []
    for step in range(-3, _STEPS):
        if step == 0:
            tracemalloc.start()
        tokens = rng.integers(5, engine.vocab_size, (rows, 1)).tolist()
        before, traced = _status("VmRSS"), tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew here
        session.feed(tokens)
        if step >= 0:
            grown.append(_status("VmHWM") - before)
            held.append((tracemalloc.get_traced_memory()[1] - traced) / _MIB)
    cache = sum(buffer.nbytes for buffer in session._memory.buffers.values()) / _MIB
    return {"cache": cache, "steps": max(grown), "arrays": max(held)}


def _status(name: str) -> float:
    """MiB of a line of /proc/self/status."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) / 1024


if __name__ == "__main__":
    found = main(sys.argv[1], sys.argv[2], int(sys.argv[3]) if len(sys.argv) > 3 else 1000)
    sys.stdout.write(json.dumps(found) + "\n")
