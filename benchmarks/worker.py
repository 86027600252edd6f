"""One peer in a process of its own: reads requests as JSON lines on stdin, answers on stdout.

``{"ids": [[...]], "mask": [[...]], "repeat": n}`` -> ``{"seconds": [...], "output": [...first row, first values...]}``.
Run by benchmarks/encoders.py, each with the Python of the environment the peer is installed in.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

Array = Any
Forward = Callable[[Array, Array], Array]


def precast(model: str, threads: int) -> Forward:
    """The artifact, through the public call with all its input checks."""
    import precast as package

    loaded = package.load(model, threads=threads)
    return lambda ids, mask: loaded(input_ids=ids, attention_mask=mask)["last_hidden_state"]


def _upstream(model: str, threads: int) -> Any:
    import torch
    from transformers import AutoModel

    torch.set_num_threads(threads)
    torch.set_grad_enabled(False)
    return AutoModel.from_pretrained(model).eval()


def torch_eager(model: str, threads: int) -> Forward:
    import torch

    loaded = _upstream(model, threads)

    def forward(ids: Array, mask: Array) -> Array:
        with torch.inference_mode():
            return loaded(input_ids=torch.from_numpy(ids), attention_mask=torch.from_numpy(mask))[0].numpy()

    return forward


def torch_compile(model: str, threads: int) -> Forward:
    import torch

    loaded = torch.compile(_upstream(model, threads), dynamic=False)

    def forward(ids: Array, mask: Array) -> Array:
        with torch.inference_mode():
            return loaded(input_ids=torch.from_numpy(ids), attention_mask=torch.from_numpy(mask))[0].numpy()

    return forward


def optimum(model: str, threads: int) -> Forward:
    """optimum-onnx's own export, run on ONNX Runtime with its default optimisations."""
    import onnxruntime
    from optimum.onnxruntime import ORTModelForFeatureExtraction

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    loaded = ORTModelForFeatureExtraction.from_pretrained(model, export=True, session_options=options)
    names = [value.name for value in loaded.model.get_inputs()] if hasattr(loaded, "model") else []

    def forward(ids: Array, mask: Array) -> Array:
        given = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
        return loaded.model.run(None, {name: given[name] for name in names})[0]

    return forward


def openvino(model: str, threads: int) -> Forward:
    """The upstream model converted by OpenVINO, fp32, latency hint."""
    import openvino as ov
    import torch

    loaded = _upstream(model, threads)
    example = {name: torch.ones(1, 8, dtype=torch.int64) for name in ("input_ids", "attention_mask")}
    converted = ov.convert_model(loaded, example_input=example)
    settings = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
    compiled = ov.Core().compile_model(converted, "CPU", settings)
    request = compiled.create_infer_request()
    return lambda ids, mask: request.infer({"input_ids": ids, "attention_mask": mask})[0]


PEERS: dict[str, Callable[[str, int], Forward]] = {
    "precast": precast,
    "torch": torch_eager,
    "torch.compile": torch_compile,
    "optimum": optimum,
    "openvino": openvino,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("peer", choices=PEERS)
    parser.add_argument("model")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    answers = os.fdopen(os.dup(1), "w")
    with contextlib.redirect_stdout(sys.stderr):
        forward = PEERS[arguments.peer](arguments.model, arguments.threads)
        print("{}", file=answers, flush=True)
        for line in sys.stdin:
            request = json.loads(line)
            ids, mask = (np.array(request[name], dtype=np.int64) for name in ("ids", "mask"))
            seconds = []
            for _ in range(request["repeat"]):
                start = time.perf_counter()
                output = forward(ids, mask)
                seconds.append(time.perf_counter() - start)
            row = np.asarray(output)[0].astype(float)
            print(json.dumps({"seconds": seconds, "output": row.tolist()}), file=answers, flush=True)


if __name__ == "__main__":
    main()
