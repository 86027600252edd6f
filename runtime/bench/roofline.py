"""What this machine can do, by a short measurement: the two limits of the roofline (doi:10.1145/1498765.1498785).

Matrix products and reads go through the engine that runs artifacts, with its threads and its kernels: a limit that
another library would reach is no limit of ours to be held to. Records and `precast bench` name it "calibration".
"""

from __future__ import annotations

import re
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from precast.runtime.backends.base import Array
from precast.runtime.backends.onnxruntime import OnnxRuntime, engine
from precast.runtime.bench import onnx_bytes as onnx
from precast.runtime.bench.statistics import Estimate, quantile
from precast.runtime.errors import BackendError
from precast.runtime.machine import memory_bytes

__all__ = ["ceiling", "machine_limits", "roof"]

_BLOCKS = 5
_CALLS = 10
_MIB = 2**20
# Rows and columns of matrices on a GPU: what suits a small one, and what fills any.
_SIZES = (4096, 8192)
_DEVICE_READ = 256 * _MIB
_CUDA = ("CUDAExecutionProvider", "cuda")
# As our own variants run: float32 is float32, not TF32.
_SESSIONS: dict[str, dict[str, Any]] = {"CUDAExecutionProvider": {"provider_options": {"use_tf32": "0"}}}


class _Probe(NamedTuple):
    """One thing to measure: ``call(i)`` does ``amount`` operations or reads that many bytes."""

    amount: float
    call: Callable[[int], Any]


def machine_limits(*, threads: int, device: str = "cpu", seconds: float = 1.0) -> dict[str, Any]:
    """Measure for about ``seconds``: matrix products of each precision, and reading memory.

    Returns:
        ``{"threads", "device", "gemm": {"fp32": E, ...}, "read": E}`` in operations and bytes a second. E is
        ``{"value", "low", "high", "runs"}`` of `ceiling`: what the machine does when it is left alone. On the CPU
        ``int8`` is unsigned activations times signed weights; on CUDA ``fp32`` is without TF32, as our variants run. A
        precision the device does not take is left out.

    Raises:
        ProviderError: there is no such device, or its libraries are missing.
    """
    with tempfile.TemporaryDirectory(prefix="precast-roofline-") as folder:
        if device == "cpu":
            products, reads = _cpu(Path(folder), threads)
        else:
            products, reads = _cuda(Path(folder), threads)
        share = seconds / (len(products) + 1)
        gemm = {name: _measure(probes, share).to_json() for name, probes in products.items()}
        read = _measure(reads, share).to_json()
    return {"threads": threads, "device": device, "gemm": gemm, "read": read}


def ceiling(speeds: Sequence[float]) -> Estimate:
    """The speed that calls in a row show to be possible.

    Whatever else the machine does only ever slows a call, so that neither mean nor median tells of a limit; and the
    single best call may be a glitch of the clock. Calls are cut into five blocks in time, and the best of each is
    taken: the figure is the upper quartile of those, the interval goes from the least of them to the greatest.
    """
    count = min(_BLOCKS, len(speeds))
    edges = [len(speeds) * index // count for index in range(count + 1)]
    tops = [max(speeds[a:b]) for a, b in pairwise(edges)]
    return Estimate(quantile(tops, 0.75), min(tops), max(tops), len(speeds))


def roof(work: Mapping[str, int], time: float, limits: Mapping[str, Any], precision: str) -> dict[str, Any]:
    """Where a call that takes ``time`` seconds stands below the machine's two limits.

    Args:
        work: ``flops`` and ``bytes`` of the call (`precast.runtime.bench.work.work_of`).
        limits: what `machine_limits` measured.
        precision: of the variant; picks the product to compare with. One that was not measured is held to fp32's.

    Returns:
        ``flops_per_second``, ``bytes_per_second``; ``of_gemm`` and ``of_read``, fractions of what was measured (None
        where it was not); ``bound``, the limit that is nearer: ``compute`` or ``memory``; ``intensity`` in operations
        a byte; ``gemm``, the precision compared with.
    """
    flops, moved = work["flops"] / time, work["bytes"] / time
    products = limits.get("gemm") or {}
    gemm = precision if precision in products else "fp32"
    of_gemm, of_read = (
        value / limit["value"] if limit and limit["value"] > 0 else None
        for value, limit in ((flops, products.get(gemm)), (moved, limits.get("read")))
    )
    bound = None if of_gemm is None or of_read is None else "compute" if of_gemm >= of_read else "memory"
    return {
        "flops_per_second": flops,
        "bytes_per_second": moved,
        "of_gemm": of_gemm,
        "of_read": of_read,
        "bound": bound,
        "intensity": work["flops"] / work["bytes"] if work["bytes"] else None,
        "gemm": gemm,
    }


def _measure(probes: Sequence[_Probe], seconds: float) -> Estimate:
    """The ceiling of the fastest probe. One after the other: the engine's threads spin for a while after a call, and
    would disturb the next probe's."""
    found = []
    for probe in probes:
        probe.call(0)
        speeds: list[float] = []
        end = time.perf_counter() + seconds / len(probes)
        while time.perf_counter() < end or len(speeds) < _CALLS:
            began = time.perf_counter()
            probe.call(len(speeds) + 1)
            now = time.perf_counter()
            speeds.append(probe.amount / (now - began))
            if now > end + seconds / 2:
                break  # a slow machine: rather few calls than a long wait
        found.append(ceiling(speeds))
    return max(found, key=lambda estimate: estimate.value)


def _noise(count: int) -> Array:
    """Normal numbers, a short piece repeated: a matrix of zeros would cost a GPU less power, and so less clock."""
    return np.resize(np.random.default_rng(0).standard_normal(65521).astype(np.float32), count)


def _load(provider: str, folder: Path, graph: bytes, threads: int) -> Any:
    path = folder / "graph.onnx"
    path.write_bytes(graph)
    return OnnxRuntime(provider).load(path, session=_SESSIONS.get(provider, {}), threads=threads)


# The CPU


def _cpu(folder: Path, threads: int) -> tuple[dict[str, list[_Probe]], list[_Probe]]:
    # Weights of the graph, so that the engine lays them out once, as it does for an artifact. Calls of one to some
    # five milliseconds: long enough to start all threads, short enough to slip between what else the machine does.
    shapes = [(min(4096, 128 * max(2, threads)), 512), (min(4096, 192 * max(2, threads)), 1024)]
    products: dict[str, list[_Probe]] = {"fp32": [], "int8": []}
    for rows, size in shapes:
        x, weight = _noise(rows * size).reshape(rows, size), _noise(size * size).reshape(size, size)
        graph = onnx.one_node("MatMul", {"X": (onnx.FLOAT, x.shape), "W": weight}, (onnx.FLOAT, 2))
        products["fp32"].append(_product(folder, graph, x, size, threads))
        integers = (x * 30 + 128).clip(0, 255).astype(np.uint8)
        signed = (weight * 30).clip(-127, 127).astype(np.int8)
        graph = onnx.one_node("MatMulInteger", {"X": (onnx.UINT8, x.shape), "W": signed}, (onnx.INT32, 2))
        products["int8"].append(_product(folder, graph, integers, size, threads))
    return products, [_cpu_read(folder, threads)]


def _product(folder: Path, graph: bytes, x: Array, columns: int, threads: int) -> _Probe:
    session = _load("CPUExecutionProvider", folder, graph, threads)
    return _Probe(2.0 * x.shape[0] * x.shape[1] * columns, lambda _: session.run({"X": x}))


def _cpu_read(folder: Path, threads: int) -> _Probe:
    """Largest of each row, of one piece after the other of a buffer that no cache holds."""
    piece = max(8, 4 * threads) * _MIB
    most = (memory_bytes() or 2048 * _MIB) // 8
    pieces = max(2, min(max(256 * _MIB, 2 * _cache_bytes()), most) // piece)
    shape = (pieces, 2048, piece // (4 * 2048))
    buffer = np.ones(shape, dtype=np.float32)
    axes = np.array([1], dtype=np.int64)
    graph = onnx.one_node("ReduceMax", {"X": (onnx.FLOAT, shape[1:]), "axes": axes}, (onnx.FLOAT, 2), {"keepdims": 1})
    session = _load("CPUExecutionProvider", folder, graph, threads)
    return _Probe(float(piece), lambda turn: session.run({"X": buffer[turn % pieces]}))


def _cache_bytes() -> int:
    """All last-level caches together, as Linux tells; 0 where it does not."""
    found: dict[str, tuple[int, int]] = {}
    for folder in Path("/sys/devices/system/cpu").glob("cpu[0-9]*/cache/index[0-9]*"):
        with suppress(OSError, ValueError):
            level = int((folder / "level").read_text())
            size = re.fullmatch(r"([0-9]+)([KMG]?)", (folder / "size").read_text().strip())
            if size:
                factor = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30}[size[2]]
                found[f"{level} {(folder / 'shared_cpu_list').read_text()}"] = (level, int(size[1]) * factor)
    last = max((level for level, _ in found.values()), default=0)
    return sum(size for level, size in found.values() if level == last)


# CUDA


def _cuda(folder: Path, threads: int, at: tuple[str, str] = _CUDA) -> tuple[dict[str, list[_Probe]], list[_Probe]]:
    products: dict[str, list[_Probe]] = {}
    for name, dtype in (("fp32", onnx.FLOAT), ("fp16", onnx.FLOAT16), ("bf16", onnx.BFLOAT16)):
        for size in _SIZES:
            values = _noise(size * size).reshape(size, size)
            try:
                probe = _on_device(folder, "MatMul", {"A": values, "B": values}, dtype, threads, 2.0 * size**3, at)
                probe.call(0)
            except Exception:
                # The smallest product of all must work. Devices may lack a precision, or the memory for more.
                if not products:
                    raise
                break
            products.setdefault(name, []).append(probe)
    values = _noise(_DEVICE_READ // 4).reshape(-1, 1024)
    reads = [
        # Read and written, so that the bytes count twice; a reduction only reads, where the engine's is a good one.
        _on_device(folder, "Neg", {"X": values}, onnx.FLOAT, threads, 2.0 * values.nbytes, at),
        _on_device(folder, "ReduceSum", {"X": values}, onnx.FLOAT, threads, float(values.nbytes), at),
    ]
    return products, reads


def _on_device(
    folder: Path,
    op_type: str,
    inputs: Mapping[str, Array],
    dtype: int,
    threads: int,
    amount: float,
    at: tuple[str, str],
) -> _Probe:
    """One operator whose inputs lie on the device already and whose result stays there; a call waits for its end."""
    provider, device = at
    shapes: dict[str, Any] = {name: (dtype, array.shape) for name, array in inputs.items()}
    if op_type.startswith("Reduce"):
        shapes["axes"] = np.array([1], dtype=np.int64)
    session = _load(provider, folder, onnx.one_node(op_type, shapes, (dtype, 2)), threads).session
    binding, kept = session.io_binding(), []
    for name, array in inputs.items():
        value = engine().OrtValue.ortvalue_from_numpy(_stored(array, dtype), device, 0)
        kept.append(value)
        binding.bind_input(name, device, 0, dtype, list(array.shape), value.data_ptr())
    binding.bind_output("Y", device, 0)

    def call(_: int, kept: Sequence[Any] = kept) -> Any:
        try:
            session.run_with_iobinding(binding)
            binding.synchronize_outputs()
        except Exception as error:
            raise BackendError(f"{provider} could not run {op_type}: {error}") from error
        return binding.get_outputs()

    return _Probe(amount, call)


def _stored(array: Array, dtype: int) -> Array:
    """float32 as it lies in memory in ``dtype``; bfloat16, which NumPy lacks, is float32's upper half."""
    if dtype == onnx.BFLOAT16:
        return (array.view(np.uint32) >> 16).astype(np.uint16)
    return array.astype(np.float16) if dtype == onnx.FLOAT16 else array
