"""Text encoders beside their peers: same weights, same inputs, outputs compared first, runs interleaved round robin.

    python benchmarks/encoders.py CHECKPOINT ARTIFACT --peers torch,optimum=/path/to/python ...

Every peer is a process of its own (benchmarks/worker.py). A round asks each of them once, in turn, so that a slow
minute of the machine slows all alike; ratios are medians of the rounds' own ratios, with their quartiles.
"""

from __future__ import annotations

import argparse
import json
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint")
    parser.add_argument("artifact")
    parser.add_argument("--peers", nargs="*", default=["torch"], help="name or name=python")
    parser.add_argument("--points", nargs="*", default=["1x16", "1x128", "1x384", "8x128"])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--vocab", type=int, default=30000)
    parser.add_argument(
        "--pause", type=float, default=0.05, help="seconds between samples, for spinning workers to rest"
    )
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()

    peers = [Peer("precast", sys.executable, arguments.artifact, arguments.threads)]
    for entry in arguments.peers:
        name, _, python = entry.partition("=")
        peers.append(Peer(name, python or sys.executable, arguments.checkpoint, arguments.threads))
    for peer in peers:
        peer.ready()
    rng = np.random.default_rng(0)
    table: dict[str, Any] = {}
    for point in arguments.points:
        batch, length = map(int, point.split("x"))
        ids = rng.integers(1000, arguments.vocab, (batch, length)).tolist()
        mask = np.ones((batch, length), dtype=int).tolist()
        repeat = max(1, min(20, 4000 // (batch * length)))
        outputs = {peer.name: np.array(peer.ask(ids, mask, 3)["output"]) for peer in peers}
        for name, output in outputs.items():
            error = float(np.abs(output - outputs["precast"]).max())
            if not error < 1e-3:
                raise SystemExit(f"{name} computes something else at {point}: max abs difference {error}")
        times: dict[str, list[float]] = {peer.name: [] for peer in peers}
        for index in range(arguments.rounds):
            for peer in peers[index % len(peers) :] + peers[: index % len(peers)]:
                time.sleep(arguments.pause)
                times[peer.name].append(statistics.median(peer.ask(ids, mask, repeat)["seconds"]))
        ours = np.array(times["precast"])
        table[point] = {
            name: {
                "median_ms": float(np.median(values)) * 1e3,
                "min_ms": float(np.min(values)) * 1e3,
                "ratio": [float(q) for q in np.quantile(np.array(values) / ours, [0.25, 0.5, 0.75])],
                "max_abs_difference": float(np.abs(outputs[name] - outputs["precast"]).max()),
            }
            for name, values in times.items()
        }
        cells = "  ".join(
            f"{name} {row['median_ms']:.2f} ms (min {row['min_ms']:.2f}) "
            f"x{row['ratio'][1]:.2f} [{row['ratio'][0]:.2f}-{row['ratio'][2]:.2f}]"
            for name, row in table[point].items()
        )
        print(f"{point}: {cells}", flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps(table, indent=1) + "\n")


if __name__ == "__main__":
    main()
