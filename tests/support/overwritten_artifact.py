"""An artifact of one small graph, and a process that replaces it again and again by one with other weights.

Run as ``python -m support.overwritten_artifact FOLDER WAY`` it overwrites until its input ends; with the way "two
renames" as on a file system that cannot exchange two folders.
"""

from __future__ import annotations

import errno
import json
import os
import sys
import threading
from pathlib import Path

import numpy as np
import tokenizers
from onnx import TensorProto, external_data_helper, helper

from precast.runtime.artifact import Component, Variant, staging
from precast.runtime.artifact.writer import ArtifactWriter
from precast.runtime.ports import Dim, Out, Port
from support import artifact_samples as samples

__all__ = ["ROWS", "make"]

ROWS, WIDTH = 4096, 32


def make(out: Path, seed: int, mode: str = "create") -> str:
    """An artifact whose every number is ``seed``, and its tokenizer; returns its digest."""
    with ArtifactWriter(out, mode=mode) as writer:
        table = np.full((ROWS, WIDTH), seed, np.float32)
        weights, size = writer.add_weight([table])
        writer.write_bytes("config.json", json.dumps({"seed": seed}).encode())
        writer.write_bytes("tokenizer.json", _tokenizer(seed))
        writer.write_bytes("parity/encoder.npz", b"-")
        writer.write_bytes("encoder.cpu-fp32.onnx", _graph(weights, size))
        variant = Variant(
            name="cpu-fp32",
            graph="encoder.cpu-fp32.onnx",
            target="cpu",
            precision="fp32",
            dialect="onnxruntime",
            provider="CPUExecutionProvider",
            opset={"": 21},
            session={"graph_optimization_level": "basic"},
            weights=(weights,),
            operators={"Gather": 1},
            fusions={},
            fingerprint="5" * 64,
            recipe=(),
            parity={},
        )
        component = Component(
            name="encoder",
            inputs=(Port("input_ids", "int64", ("batch", "sequence"), "ids", below=ROWS),),
            outputs=(Out("last_hidden_state", ("batch", "sequence", WIDTH), "states"),),
            variants={variant.name: variant},
            dims={"sequence": Dim(most=64)},
        )
        described = samples.manifest(variant)._replace(components={"encoder": component})
        writer.publish(described)
        return json.loads((out / "precast.json").read_bytes())["digest"]


def _tokenizer(seed: int) -> bytes:
    """One word, whose id is one more than ``seed``."""
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel({"[UNK]": 0, "word": seed + 1}, unk_token="[UNK]"))
    return made.to_str().encode()


def _graph(weights: str, size: int) -> bytes:
    table = helper.make_tensor("table", TensorProto.FLOAT, (ROWS, WIDTH), b"\0" * (ROWS * WIDTH * 4), raw=True)
    external_data_helper.set_external_data(table, weights, offset=0, length=size)
    table.ClearField("raw_data")
    table.data_location = TensorProto.EXTERNAL
    graph = helper.make_graph(
        [helper.make_node("Gather", ["table", "input_ids"], ["last_hidden_state"])],
        "encoder",
        [helper.make_tensor_value_info("input_ids", TensorProto.INT64, ("batch", "sequence"))],
        [helper.make_tensor_value_info("last_hidden_state", TensorProto.FLOAT, ("batch", "sequence", WIDTH))],
        [table],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    return bytes(made.SerializeToString())


def _refuse(source: Path, target: Path, flags: int) -> None:
    raise OSError(errno.EINVAL, "no such flag")


def _overwrite(out: Path, way: str) -> None:
    if way == "two renames":
        staging._renameat2 = _refuse
    ended = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), ended.set()), daemon=True).start()
    os.fsync = lambda _: None  # type: ignore[assignment]  # a disk that is never waited for is overwritten more often
    seed = 0
    while not ended.is_set():
        make(out, seed := 1 - seed, "overwrite")


if __name__ == "__main__":
    _overwrite(Path(sys.argv[1]), sys.argv[2])
