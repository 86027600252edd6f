"""Weights on their way into an artifact: what several graphs share is written once, and what is no number is found."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch
from torch import nn

from precast.export import parity
from precast.export.weight_table import _finite
from precast.graphs.dialects.base import transposed
from precast.graphs.emit import INLINE_LIMIT, Written, emit
from precast.graphs.tensors import registered


class Counting:
    """A sink that keeps what it is given."""

    def __init__(self) -> None:
        self.weights: list[bytes] = []
        self.graphs: dict[str, bytes] = {}

    def add_weight(self, chunks: Iterable[Any]) -> tuple[str, int]:
        data = b"".join(bytes(chunk) for chunk in chunks)
        self.weights.append(data)
        return f"weights/{len(self.weights)}.bin", len(data)

    def write_bytes(self, name: str, data: bytes) -> None:
        self.graphs[name] = data


def graph_with(tensor: ir.TensorProtocol, *, turned: bool) -> ir.Model:
    graph = ir.Graph([], [], nodes=[], name="weights", opset_imports={"": 20})
    value = registered(graph, tensor, "weight")
    if turned:
        transposed(graph, value)
    return ir.Model(graph, ir_version=10)


def test_what_two_graphs_share_is_written_once() -> None:
    array = np.arange(INLINE_LIMIT, dtype=np.float32).reshape(64, -1)
    tensor, released = ir.tensor(array, name="weight"), []
    sink, written = Counting(), Written(lambda: released.append(True))
    for name, turned in (("first.onnx", True), ("second.onnx", False), ("third.onnx", True)):
        model = graph_with(tensor, turned=turned)
        emit(model, sink, name, written)
        held = {key: value.const_value for key, value in model.graph.initializers.items()}
        assert (
            [str(entry.location) for entry in held.values()]
            == [  # type: ignore[union-attr]
                f"weights/{place}.bin" for place in (1, 2)[: len(held)]
            ]
        ), name
    assert sink.weights == [array.tobytes(), array.T.tobytes()]
    assert len(released) == 2
    # Another export starts anew.
    emit(graph_with(tensor, turned=False), sink, "again.onnx", Written())
    assert len(sink.weights) == 3


@pytest.mark.parametrize(
    ("value", "finite"),
    [
        ([], True),
        ([0.0, -3e38, 3e38], True),
        ([1.0, float("nan")], False),
        ([float("inf"), float("nan")], False),
        ([1.0, float("inf")], False),
        ([float("-inf"), 2.0], False),
    ],
)
def test_the_extremes_tell_whether_all_are_finite(value: list[float], finite: bool) -> None:
    assert _finite(torch.tensor(value)) is finite


def test_matrices_that_are_widened_one_after_another_stay_apart() -> None:
    torch.manual_seed(3)
    model = nn.Sequential(nn.Linear(7, 19), nn.Tanh(), nn.Linear(19, 5, bias=False), nn.Linear(5, 31)).eval()
    given = torch.randn(4, 7)
    with torch.no_grad(), parity.in_float64():
        found = model(given)
    wanted = model.double()(given.double())
    assert found.dtype is torch.float64
    np.testing.assert_array_equal(found.numpy(), wanted.detach().numpy())
