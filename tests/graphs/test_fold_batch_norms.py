"""Batch norms folded into convolutions: what is computed stays, in float64's rounding, and what is left says why."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
from onnx_ir.tape import Tape

from precast.graphs.passes.base import run
from precast.graphs.passes.clean import Clean
from precast.graphs.passes.fold_batch_norms import FoldBatchNorms

CHANNELS, MADE = 6, 8
Array = np.ndarray[Any, Any]


def drawn(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


class Toy:
    """A graph over x [batch, 6, height, width]; what is added is read by name."""

    def __init__(self) -> None:
        self.x = self.value("x", ["batch", CHANNELS, "height", "width"])
        self.graph = ir.Graph([self.x], [], nodes=[], opset_imports={"": 23})
        self.tape = Tape(self.graph)

    @staticmethod
    def value(name: str, shape: list[Any]) -> ir.Value:
        return ir.Value(name=name, shape=ir.Shape(shape), type=ir.TensorType(ir.DataType.FLOAT))

    def weight(self, name: str, array: Array) -> ir.Value:
        made = self.value(name, list(array.shape))
        made.const_value = ir.tensor(array, name=name)
        self.graph.register_initializer(made)
        return made

    def conv(self, x: ir.Value, weight: ir.Value, bias: ir.Value | None = None, **attributes: Any) -> ir.Value:
        return self.tape.op("Conv", [x, weight, *([] if bias is None else [bias])], attributes)

    def norm(self, x: ir.Value, channels: int = MADE, seed: int = 0, epsilon: float = 1e-3) -> ir.Value:
        given = [drawn(channels, seed=seed + number) for number in range(3)]
        given.append(np.exp(drawn(channels, seed=seed + 3)))
        named = [self.weight(f"{name}{seed}", array) for name, array in zip("sbmv", given, strict=True)]
        return self.tape.op("BatchNormalization", [x, *named], {"epsilon": epsilon})

    def model(self, *outputs: ir.Value) -> ir.Model:
        self.graph.extend(self.tape.nodes)
        for number, output in enumerate(outputs):
            output.name, output.type = f"y{number}", ir.TensorType(ir.DataType.FLOAT)
            self.graph.outputs.append(output)
        return ir.Model(self.graph, ir_version=10)


def called(model: ir.Model) -> list[Array]:
    data = ir.serde.serialize_model(model).SerializeToString()
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    return list(session.run(None, {"x": drawn(2, CHANNELS, 9, 7, seed=9)}))


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("groups", [1, 2])
def test_what_is_computed_stays(bias: bool, groups: int) -> None:
    toy = Toy()
    weight = toy.weight("w", drawn(MADE, CHANNELS // groups, 3, 3))
    own = toy.weight("o", drawn(MADE, seed=5)) if bias else None
    model = toy.model(toy.norm(toy.conv(toy.x, weight, own, group=groups, pads=[1, 1, 1, 1], strides=[2, 1])))
    expected = called(model)
    [report] = run(model, [FoldBatchNorms()])
    assert (report.changed, report.declined) == (1, {})
    assert [node.op_type for node in model.graph] == ["Conv"]
    np.testing.assert_allclose(called(model), expected, rtol=1e-5, atol=1e-5)


def test_it_is_rounded_once() -> None:
    """The weights are the nearest float32 to those of float64."""
    toy = Toy()
    array = drawn(MADE, CHANNELS, 1, 1)
    model = toy.model(toy.norm(toy.conv(toy.x, toy.weight("w", array), toy.weight("o", drawn(MADE, seed=5)))))
    run(model, [FoldBatchNorms(), Clean()])
    wide = [drawn(MADE, seed=number).astype(np.float64) for number in range(3)]
    by = wide[0] / np.sqrt(np.exp(drawn(MADE, seed=3)).astype(np.float64) + np.float32(1e-3).astype(np.float64))
    shift = (drawn(MADE, seed=5) - wide[2]) * by + wide[1]
    [conv] = model.graph
    found = [value.const_value.numpy() for value in conv.inputs[1:] if value is not None and value.const_value]
    np.testing.assert_array_equal(found[0], (array * by[:, None, None, None]).astype(np.float32))
    np.testing.assert_allclose(found[1], shift, rtol=1e-7, atol=1e-7)


def test_norms_of_one_weight_have_their_own() -> None:
    toy = Toy()
    weight = toy.weight("w", drawn(MADE, CHANNELS, 1, 1))
    one, other = (toy.norm(toy.conv(toy.x, weight, strides=[by, by]), seed=by) for by in (1, 10))
    model = toy.model(one, other)
    expected = called(model)
    [report] = run(model, [FoldBatchNorms()])
    assert report.changed == 2
    for found, wanted in zip(called(model), expected, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)


def test_what_is_left_says_why() -> None:
    toy = Toy()
    weight = toy.weight("w", drawn(MADE, CHANNELS, 1, 1))
    shared = toy.conv(toy.x, weight)
    computed = toy.tape.op("Mul", [weight, weight])
    model = toy.model(
        toy.norm(toy.x, CHANNELS, 20),
        toy.norm(shared, seed=30),
        toy.tape.op("Relu", [shared]),
        toy.norm(toy.conv(toy.x, computed), seed=40),
    )
    expected = called(model)
    [report] = run(model, [FoldBatchNorms()])
    assert (report.changed, report.declined) == (
        0,
        {
            "no convolution stands in front of it": 1,
            "the convolution has other readers": 1,
            "the convolution's weights are computed": 1,
        },
    )
    for found, wanted in zip(called(model), expected, strict=True):
        np.testing.assert_array_equal(found, wanted)
