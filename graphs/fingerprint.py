"""A digest of a graph's structure that ignores names: equal for equal computations, for diffs and regression tests."""

from __future__ import annotations

import hashlib
import json

import onnx_ir as ir

from precast.graphs.tensors import sizes

__all__ = ["fingerprint"]


def _attribute(attribute: ir.Attr) -> object:
    value = attribute.value
    if isinstance(value, ir.TensorProtocol):
        return [str(value.dtype), list(map(str, value.shape)), hashlib.sha256(value.tobytes()).hexdigest()]
    return list(value) if isinstance(value, (list, tuple)) else value


def fingerprint(model: ir.Model) -> str:
    """SHA-256 over operators, attributes, wiring, shapes and dtypes, in topological order; weights by shape only.

    Small constants (up to 64 elements) count by value: they are part of the computation, not of the checkpoint.
    """
    numbers: dict[ir.Value | None, object] = {None: None}
    for index, value in enumerate(model.graph.inputs):
        numbers[value] = f"input {index}"

    def number(value: ir.Value | None) -> object:
        if value in numbers:
            return numbers[value]
        tensor = None if value is None else value.const_value
        if tensor is None:
            raise ValueError(f"value {value} is used before it is made")
        integer = tensor.dtype.is_integer() or tensor.dtype == ir.DataType.BOOL
        shown = tensor.numpy().tolist() if tensor.size <= 64 and integer else None
        return ["weight", str(tensor.dtype), list(sizes(tensor.shape)), shown]

    rows: list[object] = [
        [str(value.dtype), [str(getattr(dim, "value", dim)) for dim in value.shape or ()]]
        for value in model.graph.inputs
    ]
    for index, node in enumerate(model.graph):
        attributes = {name: _attribute(attribute) for name, attribute in sorted(node.attributes.items())}
        rows.append([node.domain, node.op_type, attributes, [number(value) for value in node.inputs]])
        for position, value in enumerate(node.outputs):
            numbers[value] = [index, position]
    rows.append([number(value) for value in model.graph.outputs])
    rows.append(sorted(model.opset_imports.items()))
    return hashlib.sha256(json.dumps(rows, sort_keys=True, default=str).encode()).hexdigest()
