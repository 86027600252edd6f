"""Channels of a norm's output made alike in size, and the weights that read them changed to match: the same products,
of which rounding the weights leaves more. https://arxiv.org/abs/2211.10438, and by error https://arxiv.org/abs/2306.00978."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx_ir as ir

from precast.graphs import schema
from precast.graphs.passes.base import GraphPass, constant
from precast.graphs.tensors import initializer, lazy, sizes

__all__ = ["SmoothChannels", "smoothable"]

Array = np.ndarray[Any, Any]

_MS, _CPU = "com.microsoft", "precast.cpu"
# Norm -> which of its inputs are the weight and the bias, by the vocabulary and the dialects that are raised from.
_NORMS: Mapping[tuple[str, str], tuple[int, ...]] = {
    ("", "LayerNormalization"): (1, 2),
    ("", "SimplifiedLayerNormalization"): (1,),
    (_MS, "SkipLayerNormalization"): (2, 3),
    (_MS, "SkipSimplifiedLayerNormalization"): (2,),
    **{(domain, "LayerNorm"): (1, 2) for domain in (_CPU, schema.DOMAIN)},
    **{(domain, "RMSNorm"): (1,) for domain in (_CPU, schema.DOMAIN)},
    **{(domain, "AddLayerNorm"): (2, 3) for domain in (_CPU, schema.DOMAIN)},
    **{(domain, "AddRMSNorm"): (2,) for domain in (_CPU, schema.DOMAIN)},
}
_SMOOTHED = "precast.smoothed"  # where a tensor's metadata holds itself with its channels changed


class SmoothChannels(GraphPass):
    """A norm whose output linear layers alone read is divided, and their weights are multiplied, channel by channel.

    Args:
        scales: name of a weight [N, K] -> what its channels are multiplied by [K]; one for all that read a norm.
    """

    def __init__(self, scales: Mapping[str, Array]) -> None:
        self._scales = scales

    def call(self, model: ir.Model) -> None:
        graph = model.graph
        for norm in list(graph):
            weights = smoothable(norm)
            found = [self._scales[name] for name in weights if name in self._scales]
            if not found:
                continue
            if len(found) < len(weights) or any(not np.array_equal(one, found[0]) for one in found):
                raise ValueError(f"the scales of {', '.join(sorted(weights))} must be one: they read one norm")
            self._divide(graph, norm, found[0])
            for name in weights:
                _multiply(graph.initializers[name], found[0])
            self.changed += 1

    def _divide(self, graph: ir.Graph, norm: ir.Node, scales: Array) -> None:
        for index in _NORMS[norm.domain, norm.op_type]:
            value = norm.inputs[index] if index < len(norm.inputs) else None
            if value is None:
                continue
            tensor = constant(value)
            assert tensor is not None
            made = (tensor.numpy().astype(np.float32) / scales).astype(tensor.dtype.numpy())
            norm.replace_input_with(index, initializer(graph, made, f"{value.name}.{norm.name}"))


def smoothable(norm: ir.Node) -> tuple[str, ...]:
    """The weights that read a norm's output, where nothing else does; or none."""
    places = _NORMS.get((norm.domain, norm.op_type))
    if places is None or norm.outputs[0].is_graph_output():
        return ()
    held = [norm.inputs[place] for place in places if place < len(norm.inputs)]
    if any(value is not None and constant(value) is None for value in held):
        return ()
    names = []
    for reader, index in norm.outputs[0].uses():
        weight = reader.inputs[1] if len(reader.inputs) > 1 else None
        linear = (reader.domain, reader.op_type, index) == (schema.DOMAIN, "Linear", 0)
        # A weight that something else reads too stays as it is.
        if not linear or weight is None or not weight.is_initializer() or len(list(weight.uses())) > 1:
            return ()
        if weight.const_value is None or weight.const_value.dtype != ir.DataType.FLOAT:
            return ()
        names.append(str(weight.name))
    return tuple(dict.fromkeys(names))


def _multiply(weight: ir.Value, scales: Array) -> None:
    tensor = weight.const_value
    assert tensor is not None
    made = tensor.meta.get(_SMOOTHED)
    if made is None:
        made = lazy(lambda: tensor.numpy() * scales, sizes(tensor.shape), tensor.dtype, str(weight.name))
        tensor.meta[_SMOOTHED] = made
    weight.const_value = made
