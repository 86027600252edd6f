"""Initializers: made at once from an array, or computed when they are written."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx_ir as ir

__all__ = ["Derived", "initializer", "lazy", "registered", "sizes"]


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


def lazy(
    compute: Callable[[], np.ndarray[Any, Any]], shape: tuple[int, ...], dtype: ir.DataType, name: str
) -> ir.LazyTensor:
    """A tensor whose array is computed when it is read, so that no second copy of a weight is held."""
    return ir.LazyTensor(
        lambda: ir.tensor(compute(), dtype=dtype, name=name), dtype=dtype, shape=ir.Shape(shape), name=name
    )


class Derived(ir.LazyTensor):
    """An array that is made, when a session is, of a weight that an artifact stores in another layout: of ``source``,
    as ``rule`` says (`precast.runtime.initializers`). ``compute`` makes the same for who runs a graph alone.
    """

    def __init__(
        self,
        source: ir.TensorProtocol,
        rule: Mapping[str, Any],
        compute: Callable[[], np.ndarray[Any, Any]],
        shape: tuple[int, ...],
        dtype: ir.DataType,
        name: str,
    ) -> None:
        super().__init__(
            lambda: ir.tensor(compute(), dtype=dtype, name=name), dtype=dtype, shape=ir.Shape(shape), name=name
        )
        self.source, self.rule = source, dict(rule)


def registered(graph: ir.Graph, tensor: ir.TensorProtocol, name: str) -> ir.Value:
    """An initializer of ``graph`` that holds ``tensor``."""
    shape = ir.Shape(sizes(tensor.shape))
    value = ir.Value(name=name, shape=shape, type=ir.TensorType(tensor.dtype), const_value=tensor)
    graph.register_initializer(value)
    return value
