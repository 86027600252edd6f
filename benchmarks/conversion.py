"""A checkpoint turned into what a peer runs: once, whole or not at all, and with what it cost."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.catalogue import Peer
from precast.runtime.bench.contender import Contender, Process
from precast.runtime.errors import BenchmarkError

__all__ = ["converted"]


def converted(contender: Contender, peer: Peer) -> dict[str, Any] | None:
    """Convert into ``contender.prepared``, unless that is done: ``seconds``, ``peak_bytes``, ``size_bytes``.

    None: the peer runs the checkpoint as it is, and there was nothing to convert.

    Raises:
        BenchmarkError: it failed, with what was said.
    """
    cost = contender.prepared.with_name(contender.prepared.name + ".json")
    if not cost.is_file():
        shutil.rmtree(contender.prepared, ignore_errors=True)
        part = contender.prepared.with_name(contender.prepared.name + ".part")
        shutil.rmtree(part, ignore_errors=True)
        part.parent.mkdir(parents=True, exist_ok=True)
        if peer.ours:
            answer = _export(contender.checkpoint, part, contender.options["precision"], contender.options["device"])
        else:
            part.mkdir()
            process = Process(contender._replace(prepared=part))
            try:
                answer = process.prepare()
            finally:
                process.close()
        os.replace(part, contender.prepared)
        size = sum(file.stat().st_size for file in contender.prepared.rglob("*") if file.is_file())
        cost.write_text(json.dumps({**answer, "size_bytes": size}))
    known: dict[str, Any] = json.loads(cost.read_text())
    return known if known["size_bytes"] else None


def _export(checkpoint: Path, out: Path, precision: str, device: str) -> dict[str, Any]:
    """Our own conversion, by the Python that runs this (the one with torch)."""
    entry = "from precast.runtime.cli import main; main()"
    command = [sys.executable, "-c", entry, "export", os.fspath(checkpoint), os.fspath(out)]
    command += ["--precision", precision, "--target", device, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BenchmarkError(done.stderr.strip().splitlines()[-1] if done.stderr.strip() else "the export failed")
    cost = json.loads(done.stdout)["cost"]
    return {"seconds": cost["seconds"], "peak_bytes": cost["peak_memory_bytes"]}
