"""torch.onnx reads the sources of its 500 translations anew at every export, half of a tiny model's: once is enough."""

from __future__ import annotations

import copy
import functools
from typing import Any

from torch.onnx._internal.exporter import _registration

__all__ = ["remember"]


@functools.cache
def remember() -> None:
    """Let this process read them once. A torch that keeps them elsewhere is left as it is."""
    registry: Any = getattr(_registration, "ONNXRegistry", None)
    if not hasattr(registry, "from_torchlib"):
        return
    read = functools.cache(registry.from_torchlib)

    def remembered(*arguments: Any, **named: Any) -> Any:
        found = copy.copy(read(*arguments, **named))
        found.functions = {target: list(known) for target, known in found.functions.items()}  # exports add to them
        return found

    registry.from_torchlib = staticmethod(remembered)
