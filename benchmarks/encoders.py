"""Text encoders beside their peers: same weights, same inputs, outputs compared first, runs interleaved round robin.

    python benchmarks/encoders.py minilm=CHECKPOINT,ARTIFACT --peers torch optimum=/path/to/python ...

Every peer is a process of its own (benchmarks/worker.py). A round asks each of them once, in turn, so that a slow
minute of the machine slows all alike; ratios are medians of the rounds' own ratios, with their quartiles.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

WORKER = Path(__file__).with_name("worker.py")


class Peer:
    """A worker process."""

    def __init__(self, name: str, python: str, model: str, threads: int) -> None:
        self.name = name
        command = [python, str(WORKER), name, model, "--threads", str(threads)]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )

    def ready(self) -> None:
        assert self.process.stdout is not None
        if not self.process.stdout.readline():
            raise SystemExit(f"peer {self.name} did not start")

    def ask(self, ids: list[list[int]], mask: list[list[int]], repeat: int) -> dict[str, Any]:
        assert self.process.stdin is not None and self.process.stdout is not None
        print(json.dumps({"ids": ids, "mask": mask, "repeat": repeat}), file=self.process.stdin, flush=True)
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"peer {self.name} died")
        answer: dict[str, Any] = json.loads(line)
        return answer


def compare(peers: list[Peer], point: str, vocab: int, rounds: int, pause: float) -> dict[str, Any]:
    """One point of the grid: outputs compared, then timed in turns. Ratios are to Precast, median and quartiles."""
    batch, length = map(int, point.split("x"))
    ids = np.random.default_rng(0).integers(1000, vocab, (batch, length)).tolist()
    mask = np.ones((batch, length), dtype=int).tolist()
    repeat = max(1, min(20, 4000 // (batch * length)))
    outputs = {peer.name: np.array(peer.ask(ids, mask, 3)["output"]) for peer in peers}
    differences = {name: float(np.abs(output - outputs["precast"]).max()) for name, output in outputs.items()}
    for name, difference in differences.items():
        if not difference < 1e-3:
            raise SystemExit(f"{name} computes something else at {point}: max abs difference {difference}")
    times: dict[str, list[float]] = {peer.name: [] for peer in peers}
    for index in range(rounds):
        turn = index % len(peers)
        for peer in peers[turn:] + peers[:turn]:
            time.sleep(pause)
            times[peer.name].append(statistics.median(peer.ask(ids, mask, repeat)["seconds"]))
    ours = np.array(times["precast"])
    return {
        name: {
            "median_ms": float(np.median(values)) * 1e3,
            "min_ms": float(np.min(values)) * 1e3,
            "ratio": [float(q) for q in np.quantile(np.array(values) / ours, [0.25, 0.5, 0.75])],
            "max_abs_difference": differences[name],
        }
        for name, values in times.items()
    }


def _versions(python: str, peer: str) -> str:
    """The version of the package a peer is measured with, in its own environment."""
    package = {"torch.compile": "torch", "optimum": "optimum-onnx"}.get(peer, peer)
    code = f"from importlib.metadata import version; print(version({package!r}))"
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    flags = next((line.split() for line in lines if line.startswith("flags")), [])
    widest = next((flag for flag in ("amx_int8", "avx512_vnni", "avx512f", "avx2") if flag in flags), "")
    return f"{names[0] if names else platform.processor()} ({len(names)} cores, {widest})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "models", nargs="+", metavar="NAME=CHECKPOINT,ARTIFACT[,POINT...]", help="points: 1x16 1x128 1x384 8x128"
    )
    parser.add_argument("--peers", nargs="*", default=["torch"], metavar="NAME[=PYTHON]")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--vocab", type=int, default=30000)
    parser.add_argument("--pause", type=float, default=0.05, help="seconds between samples: workers of others spin")
    parser.add_argument("--json", type=Path, help="where to record the run")
    arguments = parser.parse_args()

    pythons = {
        name: python or sys.executable for name, _, python in (entry.partition("=") for entry in arguments.peers)
    }
    tables: dict[str, Any] = {}
    for entry in arguments.models:
        model, _, rest = entry.partition("=")
        checkpoint, artifact, *points = rest.split(",")
        peers = [Peer("precast", sys.executable, artifact, arguments.threads)]
        peers += [Peer(name, python, checkpoint, arguments.threads) for name, python in pythons.items()]
        for peer in peers:
            peer.ready()
        tables[model] = {}
        for point in points or ["1x16", "1x128", "1x384", "8x128"]:
            row = compare(peers, point, arguments.vocab, arguments.rounds, arguments.pause)
            tables[model][point] = row
            cells = (
                f"{name} {figures['median_ms']:.2f} ms (min {figures['min_ms']:.2f}) "
                f"x{figures['ratio'][1]:.2f} [{figures['ratio'][0]:.2f}-{figures['ratio'][2]:.2f}]"
                for name, figures in row.items()
            )
            print(f"{model} {point}: {'  '.join(cells)}", flush=True)
        for peer in peers:
            peer.process.terminate()
    if arguments.json:
        record = {
            "machine": _processor(),
            "date": time.strftime("%Y-%m-%d"),
            "threads": arguments.threads,
            "rounds": arguments.rounds,
            "versions": {
                name: _versions(python, name) for name, python in {"precast": sys.executable, **pythons}.items()
            },
            "tables": tables,
        }
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
