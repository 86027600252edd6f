"""A session of ONNX Runtime, opened as its documentation says for the fastest single call."""

from __future__ import annotations

from pathlib import Path
from typing import Any

__all__ = ["open_session", "session_options"]


def session_options(threads: int) -> Any:
    """All graph optimisations, ``threads`` threads in an operator, operators one after the other."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    return options


def open_session(path: Path, *, threads: int, device: str) -> Any:
    import onnxruntime

    providers = ["CPUExecutionProvider"] if device == "cpu" else ["CUDAExecutionProvider", "CPUExecutionProvider"]
    return onnxruntime.InferenceSession(str(path), session_options(threads), providers=providers)
