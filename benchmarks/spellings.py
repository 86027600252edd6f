"""Two spellings of attention on ONNX Runtime, timed in turns: the numbers behind the choice in graphs/recipes.py.

python benchmarks/spellings.py CHECKPOINT
"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
import time
from pathlib import Path

import numpy as np
import onnx_ir as ir

from precast.export.checkpoints.open import open_checkpoint
from precast.export.reference import build
from precast.export.trace import trace
from precast.graphs.dialects.base import Dialect, unfused_attention
from precast.graphs.dialects.onnxruntime import ONNXRUNTIME
from precast.graphs.emit import Folder, emit
from precast.graphs.passes.base import run
from precast.graphs.passes.canonical import Canonical
from precast.graphs.passes.clean import Clean
from precast.graphs.passes.fold_constants import FoldConstants
from precast.graphs.passes.fuse_bias import FuseBias
from precast.graphs.passes.lower import Lower
from precast.runtime.backends.onnxruntime import OnnxRuntime

SPELLINGS = {
    "fused": ONNXRUNTIME,
    "unfused": dataclasses.replace(ONNXRUNTIME, spellings={**ONNXRUNTIME.spellings, "Attention": unfused_attention}),
}
# Workers of one session that spin after a call would slow the next session's.
SESSION = {"graph_optimization_level": "basic", "entries": {"session.intra_op.allow_spinning": "0"}}


def _passes(dialect: Dialect) -> tuple[object, ...]:
    return FoldConstants(), Clean(), Lower(dialect), FuseBias(), FoldConstants(), Clean(), Canonical()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint")
    parser.add_argument("--points", nargs="*", default=["1x16", "1x128", "1x384", "8x128"])
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    checkpoint = open_checkpoint(arguments.checkpoint)
    reference = build(checkpoint.config, checkpoint.tensors)
    signature = reference.signature
    traced = trace(
        reference.model, signature.example(), signature.dynamic, signature.outputs, "encoder", signature.bounds
    )
    with tempfile.TemporaryDirectory() as scratch:
        runners = {}
        for name, dialect in SPELLINGS.items():
            model: ir.Model = traced.clone()
            run(model, _passes(dialect))  # type: ignore[arg-type]
            folder = Folder(Path(scratch) / name)
            emit(model, folder, "encoder.onnx")
            runners[name] = OnnxRuntime("CPUExecutionProvider").load(
                folder.path / "encoder.onnx", session=SESSION, threads=arguments.threads
            )
        for point in arguments.points:
            batch, length = map(int, point.split("x"))
            ids = np.random.default_rng(0).integers(1000, signature.vocab_size, (batch, length))
            fill = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
            feed = {name: fill[name] for name in (port.name for port in signature.ports)}
            times: dict[str, list[float]] = {name: [] for name in runners}
            for index in range(arguments.rounds + 1):
                for name in sorted(runners, reverse=bool(index % 2)):
                    start = time.perf_counter()
                    runners[name].run(feed)
                    if index:
                        times[name].append((time.perf_counter() - start) * 1e3)
            fused, unfused = np.array(times["fused"]), np.array(times["unfused"])
            low, middle, high = np.quantile(unfused / fused, [0.25, 0.5, 0.75])
            print(
                f"{point}: fused {np.median(fused):.2f} ms, unfused {np.median(unfused):.2f} ms, "
                f"unfused / fused {middle:.2f} ({low:.2f}-{high:.2f})"
            )


if __name__ == "__main__":
    main()
