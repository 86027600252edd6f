"""Batch norms of constant statistics go into the convolution in front of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from precast.graphs.passes.base import GraphPass, constant, is_spelled, sole_consumer
from precast.graphs.tensors import initializer, lazy, registered, sizes

__all__ = ["FoldBatchNorms"]

Array = np.ndarray[Any, Any]


class FoldBatchNorms(GraphPass):
    """BatchNormalization(Conv(x, w, b)) -> Conv(x, w * s, b * s + t), where s = scale / sqrt(variance + epsilon) and
    t = bias - mean * s.

    It is computed in float64 and rounded once, when the weight is written.
    """

    def requires(self, model: ir.Model) -> None:
        if is_spelled(model):
            raise ValueError("norms are folded before operators are spelled: put FoldBatchNorms before Lower")

    def call(self, model: ir.Model) -> None:
        for node in list(model.graph):
            if node.domain == "" and node.op_type == "BatchNormalization":
                reason = self._fold(model.graph, node)
                if reason:
                    self.declined[reason] += 1
                else:
                    self.changed += 1

    def _fold(self, graph: ir.Graph, norm: ir.Node) -> str:
        """Fold a norm, or say why it is left alone."""
        before = norm.inputs[0]
        conv = None if before is None else before.producer()
        statistics = [constant(value) for value in norm.inputs[1:]]
        if before is None or conv is None or conv.domain != "" or conv.op_type != "Conv":
            return "no convolution stands in front of it"
        if sole_consumer(before) is not norm:
            return "the convolution has other readers"
        value, tensor = conv.inputs[1], constant(conv.inputs[1])
        given = conv.inputs[2] if len(conv.inputs) > 2 else None
        bias = constant(given)
        if value is None or tensor is None or (given is not None and bias is None):
            return "the convolution's weights are computed"
        if any(found is None for found in statistics) or len(norm.outputs) > 1:
            return "its statistics are computed"
        scale, shift, mean, variance = (found.numpy().astype(np.float64) for found in statistics if found is not None)
        by = scale / np.sqrt(variance + norm.attributes.get_float("epsilon", 1e-5))
        own = 0.0 if bias is None else bias.numpy().astype(np.float64)
        dtype, shape = tensor.dtype, sizes(tensor.shape)

        def folded() -> Array:
            wide = tensor.numpy().astype(np.float64) * by.reshape(-1, *(1 for _ in shape[1:]))
            return wide.astype(dtype.numpy())

        # Of a convolution that several nodes are, each norm makes weights of its own.
        name = _free(graph, f"{value.name}.folded")
        weights = registered(graph, lazy(folded, shape, dtype, name), name)
        whole = initializer(graph, (own * by + (shift - mean * by)).astype(dtype.numpy()), _free(graph, f"{name}.bias"))
        new = ir.Node("", "Conv", [conv.inputs[0], weights, whole], conv.attributes.values(), name=conv.name)
        old, fresh = norm.outputs[0], new.outputs[0]
        fresh.name, fresh.shape, fresh.type = old.name, old.shape, old.type
        ir.convenience.replace_nodes_and_values(graph, norm, [norm], [new], [old], [fresh])
        graph.remove(conv, safe=True)
        return ""


def _free(graph: ir.Graph, name: str) -> str:
    """A name that no initializer has: this one, or with a number behind it."""
    number, found = 1, name
    while found in graph.initializers:
        number, found = number + 1, f"{name}.{number + 1}"
    return found
