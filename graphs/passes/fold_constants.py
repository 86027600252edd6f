"""Evaluate small integer and boolean subgraphs at export: the shape arithmetic that tracing leaves behind."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir

from precast.graphs.passes.base import GraphPass, constant
from precast.graphs.tensors import initializer

__all__ = ["FoldConstants"]

_LIMIT = 4096  # elements; larger constants are weights, and those are left to the backend


def _axes(arrays: list[Any], node: ir.Node) -> tuple[int, ...]:
    return tuple(int(axis) for axis in np.atleast_1d(arrays[1]))


def _unsqueeze(arrays: list[Any], node: ir.Node) -> Any:
    result = arrays[0]
    rank = result.ndim + np.atleast_1d(arrays[1]).size
    for axis in sorted(axis % rank for axis in _axes(arrays, node)):
        result = np.expand_dims(result, axis)
    return result


def _squeeze(arrays: list[Any], node: ir.Node) -> Any:
    return np.squeeze(arrays[0], _axes(arrays, node) if len(arrays) > 1 else None)


def _cast(arrays: list[Any], node: ir.Node) -> Any:
    return arrays[0].astype(ir.DataType(node.attributes["to"].as_int()).numpy())


_EVALUATE: dict[str, Callable[[list[Any], ir.Node], Any]] = {
    "Cast": _cast,
    "CastLike": lambda arrays, node: arrays[0].astype(arrays[1].dtype),
    "Reshape": lambda arrays, node: arrays[0].reshape([int(dim) for dim in arrays[1]]),
    "Unsqueeze": _unsqueeze,
    "Squeeze": _squeeze,
    "Identity": lambda arrays, node: arrays[0],
    "Concat": lambda arrays, node: np.concatenate(arrays, axis=node.attributes["axis"].as_int()),
    "Add": lambda arrays, node: arrays[0] + arrays[1],
    "Sub": lambda arrays, node: arrays[0] - arrays[1],
    "Mul": lambda arrays, node: arrays[0] * arrays[1],
    "Neg": lambda arrays, node: -arrays[0],
    "Range": lambda arrays, node: np.arange(arrays[0], arrays[1], arrays[2], dtype=arrays[0].dtype),
}


class FoldConstants(GraphPass):
    """Replace nodes whose inputs are all small constants by their value; inline Constant nodes as initializers."""

    def call(self, model: ir.Model) -> None:
        graph = model.graph
        for node in list(graph):
            if node.domain not in ("", "ai.onnx") or node.op_type not in _EVALUATE | {
                "Constant": None,
                "CastLike": None,
            }:
                continue
            if node.op_type == "Constant":
                tensor = constant(node.outputs[0])
                array = None if tensor is None else tensor.numpy()
            else:
                array = self._evaluate(node)
            if array is None:
                self._same_type_cast(graph, node)
                continue
            self._replace(graph, node, array)

    def _evaluate(self, node: ir.Node) -> Any:
        arrays = []
        for value in node.inputs:
            tensor = constant(value)
            if tensor is None:
                return None
            if tensor.size > _LIMIT:
                self.declined[f"{node.op_type}: an input of over {_LIMIT} elements"] += 1
                return None
            arrays.append(tensor.numpy())
        return _EVALUATE[node.op_type](arrays, node)

    def _same_type_cast(self, graph: ir.Graph, node: ir.Node) -> None:
        """CastLike towards a computed value of known type is a plain constant too."""
        if node.op_type != "CastLike":
            return
        tensor, like = constant(node.inputs[0]), node.inputs[1]
        if tensor is not None and tensor.size <= _LIMIT and like is not None and like.dtype is not None:
            self._replace(graph, node, tensor.numpy().astype(like.dtype.numpy()))

    def _replace(self, graph: ir.Graph, node: ir.Node, array: Any) -> None:
        output = node.outputs[0]
        if output.is_graph_output():
            self.declined["the value is an output of the graph"] += 1
            return
        name = f"{output.name}.value"
        ir.convenience.replace_all_uses_with(output, initializer(graph, array, name))
        graph.remove(node, safe=True)
        self.changed += 1
