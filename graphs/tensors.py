"""Initializers: made at once from an array, or computed when they are written."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir

__all__ = ["computed", "initializer", "sizes"]


def sizes(shape: ir.ShapeProtocol | None) -> tuple[int, ...]:
    """The dimensions of a shape that must be known, as those of a weight are. Raises ValueError."""
    if shape is None or not all(isinstance(dim, int) for dim in shape):
        raise ValueError(f"the shape {shape} must be known in full")
    return tuple(dim for dim in shape if isinstance(dim, int))


def initializer(graph: ir.Graph, array: np.ndarray[Any, Any], name: str) -> ir.Value:
    """An initializer of ``graph`` that holds ``array``."""
    value = ir.Value(
        name=name,
        shape=ir.Shape(array.shape),
        type=ir.TensorType(ir.DataType.from_numpy(array.dtype)),
        const_value=ir.tensor(array, name=name),
    )
    graph.register_initializer(value)
    return value


def computed(
    graph: ir.Graph,
    compute: Callable[[], np.ndarray[Any, Any]],
    shape: tuple[int, ...],
    dtype: ir.DataType,
    name: str,
) -> ir.Value:
    """An initializer whose array is computed when it is written, so that no second copy of a weight is held."""
    lazy = ir.LazyTensor(
        lambda: ir.tensor(compute(), dtype=dtype, name=name), dtype=dtype, shape=ir.Shape(shape), name=name
    )
    value = ir.Value(name=name, shape=ir.Shape(shape), type=ir.TensorType(dtype), const_value=lazy)
    graph.register_initializer(value)
    return value
