"""Sessions of one native operator, and that their results are as near as they must be."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from functools import cache
from typing import Any

import numpy as np
import onnxruntime as ort
import torch
from onnx import TensorProto, helper

from precast.graphs.dialects.native import DOMAIN
from precast.runtime import kernels
from support.rounding import Rounded

__all__ = ["ISAS", "Array", "both", "close", "compute", "normal", "session"]

Array = np.ndarray[Any, Any]
ISAS = kernels.isas() or ("missing",)


@cache
def session(
    op: str,
    given: tuple[tuple[str, int], ...],
    results: tuple[int, ...],
    attributes: tuple[tuple[str, Any], ...],
    isa: str,
    threads: int,
) -> Any:
    """A session of one node; ``given`` names its inputs in order, empty where an optional one is left out.

    Beside each name stands its type in ONNX; ``results`` are those of the outputs.
    """
    made = [(f"out{index}", kind) for index, kind in enumerate(results)]
    graph = helper.make_graph(
        [
            helper.make_node(
                op, [name for name, _ in given], [name for name, _ in made], domain=DOMAIN, **dict(attributes)
            )
        ],
        "one",
        [helper.make_tensor_value_info(name, kind, None) for name, kind in given if name],
        [helper.make_tensor_value_info(name, kind, None) for name, kind in made],
    )
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid(DOMAIN, 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=9)
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4
    options.register_custom_ops_library(str(kernels.library_path()))
    before = os.environ.get("PRECAST_KERNELS_ISA")
    os.environ["PRECAST_KERNELS_ISA"] = isa
    try:
        return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    finally:
        os.environ.pop("PRECAST_KERNELS_ISA")
        if before is not None:
            os.environ["PRECAST_KERNELS_ISA"] = before


def compute(
    op: str,
    inputs: Mapping[str, Array | None],
    isa: str = "",
    outputs: int = 1,
    threads: int = 1,
    bound: Mapping[int, Array] | None = None,
    int8: Collection[int] = (),
    **attributes: Any,
) -> list[Array]:
    """The operator's outputs, float32 but for those in ``int8``.

    ``bound``: arrays that receive some of them; where one is an input's too, in place.
    """
    given = [
        (name, helper.np_dtype_to_tensor_dtype(array.dtype)) if array is not None else ("", TensorProto.UNDEFINED)
        for name, array in inputs.items()
    ]
    while not given[-1][0]:
        given.pop()
    feeds = {name: array for name, array in inputs.items() if array is not None}
    results = tuple(TensorProto.INT8 if index in int8 else TensorProto.FLOAT for index in range(outputs))
    runner = session(op, tuple(given), results, tuple(sorted(attributes.items())), isa, threads)
    if not bound:
        result: list[Array] = runner.run(None, feeds)
        return result
    binding = runner.io_binding()
    for name, array in feeds.items():
        binding.bind_input(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)
    for index in range(outputs):
        if index in bound:
            held = bound[index]
            binding.bind_output(f"out{index}", "cpu", 0, held.dtype, held.shape, held.ctypes.data)
        else:
            binding.bind_output(f"out{index}", "cpu")
    runner.run_with_iobinding(binding)
    return [bound[i] if i in bound else value.numpy() for i, value in enumerate(binding.get_outputs())]


def close(ours: Array, exact: Rounded) -> None:
    """As near to the exact value as float32 arithmetic must come, element by element."""
    assert ours.dtype == np.float32
    assert ours.shape == exact.shape
    assert np.isfinite(ours).all()
    error = np.abs(ours - exact.value)
    far = error > exact.error + 2.0**-126
    assert not far.any(), f"error {error[far].max():.3g}, bound {exact.error[far][error[far].argmax()]:.3g}"


def normal(rng: np.random.Generator, *shape: int, scale: float = 1.0) -> Array:
    return (rng.standard_normal(shape) * scale).astype(np.float32)


def both(function: Any, *arrays: Array | None) -> tuple[Array, Array]:
    """``function`` in float64 and in float32."""

    def tensor(array: Array | None, kind: torch.dtype) -> torch.Tensor | None:
        return None if array is None else torch.from_numpy(array).to(kind if array.dtype == np.float32 else torch.int64)

    exact, reference = (function(*(tensor(array, kind) for array in arrays)) for kind in (torch.float64, torch.float32))
    return exact.numpy(), reference.numpy()
