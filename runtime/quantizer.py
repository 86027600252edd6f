"""The way from the runtime into the room of calibration, which not every installation has what it needs for."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any

from precast.runtime.errors import DependencyError, listing

__all__ = ["load_quantizer"]


def load_quantizer() -> Callable[..., dict[str, Any]]:
    """``quantize``, with everything it imports; ``DependencyError`` says what is missing and how to get it."""
    missing = [name for name in ("onnx_ir", "onnxruntime") if importlib.util.find_spec(name) is None]
    if missing:
        raise DependencyError(
            f"Quantising needs {listing(missing)}, not installed here. Install the extra: "
            'pip install "precast[quantize]".'
        )
    from precast.calibration.quantize import quantize

    return quantize
