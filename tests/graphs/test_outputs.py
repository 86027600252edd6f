"""Outputs of a graph that are one value keep a name each."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
import torch
from torch import Tensor, nn

from precast.export.trace import trace
from precast.graphs.emit import Folder, emit
from precast.graphs.outputs import name_outputs
from precast.graphs.passes.base import run
from precast.graphs.passes.clean import Clean
from precast.graphs.recipes import RECIPES
from precast.runtime.backends.onnxruntime import OnnxRuntime

# What a model makes of its input x and of y = linear(x): two outputs that are equal, and how they came to be.
TWICE: dict[str, Callable[[nn.Module, Tensor], dict[str, Tensor]]] = {
    "one value": lambda linear, x: dict.fromkeys(("first", "second"), linear(x)),
    "a copy": lambda linear, x: {"first": (y := linear(x)), "second": y.clone()},
    "computed twice": lambda linear, x: {"first": linear(x).relu(), "second": linear(x).relu()},
    "read by another": lambda linear, x: {"first": (y := linear(x)), "second": y, "third": y.relu()},
    "the input": lambda linear, x: {"first": x, "second": x, "third": linear(x)},
}


class Twice(nn.Module):
    def __init__(self, outputs: Callable[[nn.Module, Tensor], dict[str, Tensor]]) -> None:
        super().__init__()
        self.outputs = outputs
        self.linear = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return self.outputs(self.linear, x)


@pytest.mark.parametrize("kind", TWICE)
def test_equal_outputs_keep_a_name_each_in_every_recipe(kind: str, tmp_path: Path) -> None:
    model = Twice(TWICE[kind]).eval()
    x = torch.arange(8.0).view(2, 4)
    with torch.no_grad():
        expected = model(x)
    traced = trace(model, {"x": x}, {"x": {0: "batch"}}, tuple(expected), "twice")
    assert [value.name for value in traced.graph.inputs] == ["x"]
    proto = ir.to_proto(traced)
    for recipe in RECIPES:
        graph = ir.from_proto(proto)
        run(graph, recipe.passes())
        assert [value.name for value in graph.graph.outputs] == list(expected), recipe.variant
        if recipe.variant == "cpu-fp32":
            emit(graph, Folder(tmp_path), "graph.onnx")
            runner = OnnxRuntime("CPUExecutionProvider").load(tmp_path / "graph.onnx", session={}, threads=1)
            found = dict(zip(runner.output_names, runner.run({"x": x.numpy()}), strict=True))
            assert found.keys() == expected.keys()
            for name, value in expected.items():
                np.testing.assert_allclose(found[name], value.numpy(), rtol=1e-6, atol=1e-6)


def test_outputs_that_differ_are_renamed_in_place() -> None:
    x = ir.Value(name="x", shape=ir.Shape([2]), type=ir.TensorType(ir.DataType.FLOAT))
    nodes = [ir.node("Relu", [x]), ir.node("Neg", [x])]
    graph = ir.Graph([x], [node.outputs[0] for node in nodes], nodes=nodes, opset_imports={"": 20}, name="g")
    name_outputs(graph, ("a", "b"))
    assert [value.name for value in graph.outputs] == ["a", "b"] and len(list(graph)) == 2
    assert run(ir.Model(graph, ir_version=10), (Clean(),))[0].changed == 0
