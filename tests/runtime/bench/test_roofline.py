"""The roofline: its graphs are ONNX, its figures have the record's form, and what it computes is what it says."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import onnx as onnx_package
import onnxruntime
import pytest

from precast.runtime.bench import onnx_bytes as onnx
from precast.runtime.bench import roofline as module
from precast.runtime.bench.roofline import ceiling, machine_limits, roof
from precast.runtime.errors import BackendError, ProviderError


def outcome(graph: bytes, **feed: Any) -> Any:
    onnx_package.checker.check_model(onnx_package.load_from_string(graph), full_check=True)
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    return session.run(["Y"], feed)[0]


def test_graphs_are_onnx() -> None:
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal((3, 300)).astype(np.float32), rng.standard_normal((300, 5)).astype(np.float32)
    graph = onnx.one_node("MatMul", {"X": (onnx.FLOAT, x.shape), "W": w}, (onnx.FLOAT, 2))
    np.testing.assert_allclose(outcome(graph, X=x), x @ w, rtol=1e-4, atol=1e-4)

    # Seven bits: without VNNI, MLAS adds pairs of products in 16 bits and saturates.
    a, b = rng.integers(0, 256, (3, 8)).astype(np.uint8), rng.integers(-64, 64, (8, 2)).astype(np.int8)
    graph = onnx.one_node("MatMulInteger", {"X": (onnx.UINT8, a.shape), "W": b}, (onnx.INT32, 2))
    np.testing.assert_array_equal(outcome(graph, X=a), a.astype(np.int32) @ b.astype(np.int32))

    axes = np.array([-1], dtype=np.int64)
    graph = onnx.one_node("ReduceMax", {"X": (onnx.FLOAT, x.shape), "axes": axes}, (onnx.FLOAT, 1), {"keepdims": 0})
    np.testing.assert_array_equal(outcome(graph, X=x), x.max(-1))
    proto = onnx_package.load_from_string(onnx.one_node("Concat", {"X": (1, [2])}, (1, 1), {"axis": -1}))
    assert proto.graph.node[0].attribute[0].i == -1


def check(figure: dict[str, Any]) -> None:
    assert set(figure) == {"value", "low", "high", "runs"}
    assert 0 < figure["low"] <= figure["value"] <= figure["high"] < math.inf
    assert figure["runs"] >= 1


def test_machine_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_CALLS", 3)
    found = machine_limits(threads=1, seconds=0.01)
    assert (found["threads"], found["device"]) == (1, "cpu")
    assert set(found) == {"threads", "device", "gemm", "read"}
    assert set(found["gemm"]) == {"fp32", "int8"}
    for figure in (*found["gemm"].values(), found["read"]):
        check(figure)


def test_no_device() -> None:
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        assert {"fp32", "fp16"} <= set(machine_limits(threads=1, device="cuda", seconds=0.1)["gemm"])
    else:
        with pytest.raises(ProviderError, match="CUDAExecutionProvider"):
            machine_limits(threads=1, device="cuda")


def test_device_probes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The way of a GPU, walked on the CPU: bound inputs, results that stay, a precision that is missing."""
    monkeypatch.setattr(module, "_SIZES", (32, 64))
    monkeypatch.setattr(module, "_DEVICE_READ", 2**20)
    here = ("CPUExecutionProvider", "cpu")
    products, (negated, reduced) = module._cuda(tmp_path, 1, here)
    assert "fp32" in products
    assert [probe.amount for probe in products["fp32"]] == [2.0 * 32**3, 2.0 * 64**3]
    values = module._noise(64 * 64).reshape(64, 64)
    made = products["fp32"][1].call(1)[0].numpy()
    np.testing.assert_allclose(made, values @ values, rtol=1e-3, atol=1e-3)
    numbers = module._noise(2**18).reshape(-1, 1024)
    np.testing.assert_array_equal(negated.call(1)[0].numpy(), -numbers)
    np.testing.assert_allclose(reduced.call(1)[0].numpy(), numbers.sum(1, keepdims=True), rtol=1e-3, atol=1e-3)
    assert (negated.amount, reduced.amount) == (2 * numbers.nbytes, numbers.nbytes)

    real = module._on_device

    def only_float(folder: Path, op: str, inputs: Any, dtype: int, *rest: Any) -> Any:
        if dtype != onnx.FLOAT:
            raise BackendError("no such kernel")
        return real(folder, op, inputs, dtype, *rest)

    monkeypatch.setattr(module, "_on_device", only_float)
    assert set(module._cuda(tmp_path, 1, here)[0]) == {"fp32"}

    def nothing(*_: Any) -> Any:
        raise ProviderError("no device")

    monkeypatch.setattr(module, "_on_device", nothing)
    with pytest.raises(ProviderError, match="no device"):
        module._cuda(tmp_path, 1, here)


def test_stored() -> None:
    values = np.array([1.0, -2.5, 0.0], dtype=np.float32)
    assert module._stored(values, onnx.BFLOAT16).tolist() == [0x3F80, 0xC020, 0]
    assert module._stored(values, onnx.FLOAT16).dtype == np.float16
    assert module._stored(values, onnx.FLOAT) is values


def test_ceiling() -> None:
    disturbed = [10.0, 99.0, 50.0, 100.0, 20.0, 98.0, 97.0, 3.0, 60.0, 70.0]
    found = ceiling(disturbed)
    assert (found.value, found.low, found.high, found.runs) == (99.0, 70.0, 100.0, 10)
    # One glitch of the clock is not believed.
    assert ceiling([*disturbed, 5000.0, 1.0]).value < 200
    assert ceiling([5.0]).value == 5.0


def test_roof() -> None:
    limit = {"low": 0.0, "high": 0.0, "runs": 3}
    limits = {
        "gemm": {"fp32": {"value": 1e11, **limit}, "int8": {"value": 4e11, **limit}},
        "read": {"value": 1e10, **limit},
    }
    found = roof({"flops": 2 * 10**9, "bytes": 10**7}, 0.05, limits, "fp32")
    assert found["flops_per_second"] == pytest.approx(4e10)
    assert found["of_gemm"] == pytest.approx(0.4)
    assert found["of_read"] == pytest.approx(0.02)
    assert (found["bound"], found["intensity"], found["gemm"]) == ("compute", 200, "fp32")
    assert roof({"flops": 10**7, "bytes": 10**8}, 0.05, limits, "int8")["bound"] == "memory"
    assert roof({"flops": 10**7, "bytes": 10**8}, 0.05, limits, "int4")["gemm"] == "fp32"
    bare = roof({"flops": 10**7, "bytes": 0}, 0.05, {"gemm": {}, "read": None}, "fp32")
    assert (bare["of_gemm"], bare["of_read"], bare["bound"], bare["intensity"]) == (None, None, None, None)
    assert math.isfinite(bare["flops_per_second"])
