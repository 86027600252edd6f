"""One-node ONNX graphs as bytes, for the roofline: the runtime has no onnx to make them with.

Protocol buffers' wire format (https://protobuf.dev/programming-guides/encoding/): a field is its number and wire type,
then a varint (type 0) or a length and that many bytes (type 2). Field numbers: onnx.proto, ModelProto to TypeProto
(https://github.com/onnx/onnx/blob/main/onnx/onnx.proto).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

__all__ = ["BFLOAT16", "FLOAT", "FLOAT16", "INT8", "INT32", "INT64", "UINT8", "one_node"]

# TensorProto.DataType.
FLOAT, UINT8, INT8, INT32, INT64, FLOAT16, BFLOAT16 = 1, 2, 3, 6, 7, 10, 16
_IR_VERSION, _OPSET = 8, 18
_DTYPES = {"float32": FLOAT, "uint8": UINT8, "int8": INT8, "int32": INT32, "int64": INT64, "float16": FLOAT16}

Array = np.ndarray[Any, Any]


def one_node(
    op_type: str,
    inputs: Mapping[str, tuple[int, Sequence[int]] | Array],
    output: tuple[int, int],
    attributes: Mapping[str, int] | None = None,
) -> bytes:
    """A ModelProto whose graph is one node of standard ONNX with one output, ``Y``.

    Args:
        inputs: in the operator's order; a type and a shape for what a call brings, an array for a weight.
        output: type and rank of ``Y``.
        attributes: integers.
    """
    node = b"".join(_text(1, name) for name in inputs) + _text(2, "Y") + _text(4, op_type)
    for name, number in (attributes or {}).items():
        # AttributeProto: name = 1, i = 3, type = 20 (INT = 2).
        node += _block(5, _text(1, name) + _number(3, number) + _number(20, 2))
    # GraphProto: node = 1, name = 2, initializer = 5, input = 11, output = 12.
    graph = _block(1, node) + _text(2, "roofline")
    for name, given in inputs.items():
        if isinstance(given, np.ndarray):
            # TensorProto: dims = 1, data_type = 2, name = 8, raw_data = 9.
            sizes = b"".join(_number(1, size) for size in given.shape)
            head = sizes + _number(2, _DTYPES[given.dtype.name]) + _text(8, name)
            graph += _block(5, head + _block(9, np.ascontiguousarray(given).tobytes()))
        else:
            graph += _block(11, _value(name, *given))
    graph += _block(12, _value("Y", output[0], ["?"] * output[1]))
    # ModelProto: ir_version = 1, graph = 7, opset_import = 8 (OperatorSetIdProto: version = 2).
    return _number(1, _IR_VERSION) + _block(7, graph) + _block(8, _number(2, _OPSET))


def _value(name: str, dtype: int, shape: Sequence[int | str]) -> bytes:
    """ValueInfoProto: name = 1, type = 2; TypeProto: tensor_type = 1; there elem_type = 1, shape = 2, and dim = 1 of
    that with dim_value = 1 or dim_param = 2."""
    dims = b"".join(_block(1, _number(1, s) if isinstance(s, int) else _text(2, s)) for s in shape)
    return _text(1, name) + _block(2, _block(1, _number(1, dtype) + _block(2, dims)))


def _varint(number: int) -> bytes:
    number &= (1 << 64) - 1  # negative numbers: two's complement of 64 bits
    made = bytearray()
    while number > 0x7F:
        made.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*made, number])


def _number(field: int, number: int) -> bytes:
    return _varint(field << 3) + _varint(number)


def _block(field: int, content: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(content)) + content


def _text(field: int, text: str) -> bytes:
    return _block(field, text.encode())
