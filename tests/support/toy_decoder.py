"""The graph of a decoder without layers, as a trace leaves it: for passes over weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx_ir as ir
from onnx_ir.tape import Tape

from precast.graphs.tensors import initializer

__all__ = ["toy_decoder"]

Array = np.ndarray[Any, Any]


def toy_decoder(arrays: Mapping[str, Array], bias: Array, tied: bool) -> ir.Model:
    """(embed[input_ids] + places[position_ids]) -> up, with bias -> down -> the head, tied to the embedding or not.

    ``arrays``: the weights of embed, places, up, down and head, by name.
    """
    ids = ir.val("input_ids", dtype=ir.DataType.INT64, shape=ir.Shape(["batch", "sequence"]))
    places = ir.val("position_ids", dtype=ir.DataType.INT64, shape=ir.Shape(["batch", "sequence"]))
    tape = Tape()
    (tokens, width), hidden = arrays["embed.weight"].shape, len(arrays["up.weight"])

    def op(name: str, inputs: list[ir.Value], size: int, domain: str = "precast") -> ir.Value:
        out = tape.op(name, inputs, domain=domain)
        out.shape, out.dtype = ir.Shape(["batch", "sequence", size]), ir.DataType.FLOAT
        return out

    graph = ir.Graph([ids, places], [], nodes=[], opset_imports={"": 23, "precast": 1}, name="decoder")
    held = {name: initializer(graph, array, name) for name, array in arrays.items()}
    added = initializer(graph, bias, "up.bias")
    embedded = op("Gather", [held["embed.weight"], ids], width, "")
    states = op("Add", [embedded, op("Gather", [held["places.weight"], places], width, "")], width, "")
    states = op("Linear", [states, held["up.weight"], added], hidden)
    states = op("Linear", [states, held["down.weight"]], width)
    logits = op("Linear", [states, held["embed.weight" if tied else "head.weight"]], tokens)
    logits.name = "logits"
    graph.extend(tape.nodes)
    graph.outputs.append(logits)
    return ir.Model(graph, ir_version=10)
