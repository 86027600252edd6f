"""Shapes and costs of what pictures go through, for sizes that only the call knows: beside ONNX Runtime and torch."""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from onnx_ir.tape import Tape
from torch.utils.flop_counter import FlopCounterMode

from precast.graphs.polynomials import Polynomial
from precast.graphs.shapes import infer
from precast.graphs.work import FREE, PER_ELEMENT, PER_INPUT_ELEMENT, WINDOWED, products, work
from precast.runtime.bench.work import evaluate
from precast.runtime.errors import InputError

Node = tuple[str, list[Any], dict[str, Any], int]  # its weights behind the first input, attributes, outputs
POINTS = ((1, 16, 16), (2, 17, 31), (3, 64, 45), (1, 23, 18))


def ints(*numbers: int) -> np.ndarray[Any, Any]:
    return np.array(numbers, np.int64)


def floats(*shape: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def model_of(*nodes: Node) -> ir.Model:
    """x [batch, 8, height, width] through the nodes, each after the one before; arrays are weights."""
    sizes = ir.Shape(["batch", 8, "height", "width"])
    value = x = ir.Value(name="x", shape=sizes, type=ir.TensorType(ir.DataType.FLOAT))
    graph = ir.Graph([x], [], nodes=[], opset_imports={"": 23})
    tape, made = Tape(graph), []
    for number, (op_type, weights, attributes, count) in enumerate(nodes):
        inputs: list[ir.Value | None] = [value]
        for place, array in enumerate(weights):
            weight = None
            if array is not None:
                weight = ir.Value(name=f"w{number}_{place}", const_value=ir.tensor(array, name=f"w{number}_{place}"))
                weight.shape, weight.type = ir.Shape(array.shape), ir.TensorType(weight.const_value.dtype)
                graph.register_initializer(weight)
            inputs.append(weight)
        made = list(tape.op_multi_out(op_type, inputs, attributes, num_outputs=count))
        value = made[0]
    graph.extend(tape.nodes)
    for index, output in enumerate(made):
        output.name = f"y{index}"
        output.type = ir.TensorType(
            ir.DataType.INT64 if op_type in ("MaxPool", "TopK") and index else ir.DataType.FLOAT
        )
        graph.outputs.append(output)
    return ir.Model(graph, ir_version=10)


def node(
    op_type: str, *weights: Any, outputs: int = 1, **attributes: Any
) -> tuple[str, list[Any], dict[str, Any], int]:
    return op_type, list(weights), attributes, outputs


STEM = node("Conv", floats(4, 8, 3, 3), strides=[2, 2], pads=[1, 1, 1, 1])
CASES = {
    "convolution": [node("Conv", floats(4, 8, 3, 3), floats(4), pads=[0, 1, 1, 0])],
    "patches": [node("Conv", floats(4, 8, 5, 7), strides=[5, 7])],
    "strided": [STEM],
    "strided twice": [STEM, node("Conv", floats(6, 4, 3, 3), strides=[2, 3], dilations=[2, 1])],
    "strided thrice": [STEM, node("MaxPool", kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]),
                       node("Conv", floats(6, 4, 1, 1), strides=[2, 2])],
    "grouped": [node("Conv", floats(8, 1, 3, 3), group=8, pads=[1, 1, 1, 1])],
    "same": [node("Conv", floats(4, 8, 3, 3), strides=[2, 2], auto_pad="SAME_UPPER")],
    "valid": [node("Conv", floats(4, 8, 3, 3), strides=[2, 2], auto_pad="VALID")],
    "transposed": [node("ConvTranspose", floats(8, 4, 2, 3), floats(4), strides=[2, 2], pads=[0, 1, 0, 1])],
    "transposed, grouped": [node("ConvTranspose", floats(8, 2, 3, 3), group=4, strides=[2, 1], output_padding=[1, 0])],
    "largest": [node("MaxPool", kernel_shape=[3, 2], strides=[2, 2], outputs=2)],
    "average": [node("AveragePool", kernel_shape=[3, 3], strides=[3, 2], pads=[1, 0, 1, 0])],
    "rounded up": [node("AveragePool", kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1)],
    "average of all": [STEM, node("GlobalAveragePool")],
    "largest of all": [node("GlobalMaxPool")],
    "doubled": [STEM, node("Resize", None, np.array([1, 1, 4, 4], np.float32), mode="linear")],
    "by a half": [node("Resize", None, np.array([1, 1, 0.5, 1.5], np.float32))],
    "to a size": [node("Resize", None, None, ints(20, 30), axes=[2, 3], mode="cubic")],
    "padded": [node("Pad", ints(0, 1, 0, 2, 0, 0, 3, 0))],
    "padded axes": [node("Pad", ints(1, 2, 3, 4), None, ints(-1, 2))],
    "split": [node("Split", axis=1, num_outputs=3, outputs=3)],
    "split by": [node("Split", ints(3, 5), axis=1, outputs=2)],
    "split rows": [node("Split", axis=2, num_outputs=2, outputs=2)],
    "largest few": [node("TopK", ints(3), axis=1, outputs=2)],
    "largest few columns": [node("TopK", ints(5), largest=0, outputs=2)],
    "tiled": [node("Tile", ints(1, 2, 1, 3))],
    "shuffled": [node("DepthToSpace", blocksize=2)],
    "group norm": [node("GroupNormalization", floats(8), floats(8), num_groups=4)],
    "instance norm": [node("InstanceNormalization", floats(8), floats(8))],
    "batch norm": [node("BatchNormalization", floats(8), floats(8), floats(8), np.abs(floats(8)))],
    "norm": [node("ReduceL2", ints(1), keepdims=0)],
    "squares": [node("ReduceSumSquare", ints(-1, -2))],
    **{name: [node(name)] for name in ("HardSwish", "HardSigmoid", "Mish", "LeakyRelu", "Elu", "Selu", "Floor")},
    "parametric": [node("PRelu", floats(8, 1, 1))],
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_shapes_are_those_of_the_engine(name: str) -> None:
    model = model_of(*CASES[name])
    facts = infer(model)
    session = onnxruntime.InferenceSession(
        ir.serde.serialize_model(model).SerializeToString(), providers=["CPUExecutionProvider"]
    )
    for batch, height, width in POINTS:
        made = session.run(None, {"x": floats(batch, 8, height, width)})
        point = {"batch": batch, "height": height, "width": width}
        for output, array in zip(model.graph.outputs, made, strict=True):
            shape = facts[output].shape
            assert shape is not None
            assert tuple(evaluate(size.to_json(), point) for size in shape) == array.shape
        cost = work(model)
        assert cost["uncounted"] == []
        assert evaluate(cost["bytes"], point) >= sum(array.nbytes for array in made)
        flops = evaluate(cost["flops"], point)
        assert flops > 0 or CASES[name][-1][0] in FREE or name == "by a half"


def test_a_picture_is_cut_into_blocks() -> None:
    model = model_of(node("SpaceToDepth", blocksize=2))
    [shape] = [infer(model)[output].shape for output in model.graph.outputs]
    assert shape is not None
    point = {"batch": 2, "height": 6, "width": 10}
    assert [evaluate(size.to_json(), point) for size in shape] == [2, 32, 3, 5]


@pytest.mark.parametrize(("name", "layer"), [
    ("strided", torch.nn.Conv2d(8, 4, 3, stride=2, padding=1, bias=False)),
    ("grouped", torch.nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False)),
    ("transposed", torch.nn.ConvTranspose2d(8, 4, (2, 3), stride=2, padding=(0, 1))),
])  # fmt: skip
def test_convolutions_count_what_torch_counts(name: str, layer: torch.nn.Module) -> None:
    graph = model_of(*CASES[name])
    for batch, height, width in POINTS:
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            made = layer(torch.ones(batch, 8, height, width))
        point = {"batch": batch, "height": height, "width": width}
        assert evaluate(products(graph).to_json(), point) == counter.get_total_flops()
        bias = 0 if getattr(layer, "bias", None) is None else made.numel()
        assert evaluate(work(graph)["flops"], point) == counter.get_total_flops() + bias


@pytest.mark.parametrize(("name", "flops"), [
    ("average", lambda b, h, w: b * 8 * ((h + 2 - 3) // 3 + 1) * ((w - 3) // 2 + 1) * 9),
    ("average of all", lambda b, h, w: b * 4 * ((h + 1) // 2) * ((w + 1) // 2) * (2 * 8 * 9 + 1)),
    ("doubled", lambda b, h, w: b * 4 * ((h + 1) // 2) * ((w + 1) // 2) * (2 * 8 * 9 + 16 * 2 * 4)),
    ("to a size", lambda b, h, w: b * 8 * 20 * 30 * 2 * 16),
    ("by a half", lambda b, h, w: 0),  # the nearest is copied
    ("group norm", lambda b, h, w: b * 8 * h * w * 7),
    ("norm", lambda b, h, w: b * 8 * h * w * 2),
])  # fmt: skip
def test_costs_by_hand(name: str, flops: Any) -> None:
    terms = work(model_of(*CASES[name]))["flops"]
    for batch, height, width in POINTS:
        assert evaluate(terms, {"batch": batch, "height": height, "width": width}) == flops(batch, height, width)


@pytest.mark.parametrize("one", [
    node("Resize", None, np.array([1, 1, 2, 2], np.float32), keep_aspect_ratio_policy="not_larger", axes=[0, 1, 2, 3]),
    node("MaxPool", kernel_shape=[1, 1], strides=[3, 3], ceil_mode=1),
    node("ConvTranspose", floats(8, 4, 2, 2), auto_pad="SAME_UPPER"),
])  # fmt: skip
def test_what_has_no_spelling_is_named(one: Any) -> None:
    model = model_of(one)
    assert infer(model)[model.graph.outputs[0]].shape is None
    assert work(model)["uncounted"] == [one[0]]


def test_floors() -> None:
    h, w = Polynomial.of("height"), Polynomial.of("width")
    for size, by in ((h - 9, 16), (h * 6 + 4, 8), (h * 32 + 5, 16), (h * 5 - 1, 3), (h, 1)):
        made = size.floored(by)
        assert made is not None
        again = (made + 3).floored(2)
        for height in (0, 1, 7, 16, 31, 224):
            point = {"height": height}
            floor = math.floor(evaluate(size.to_json(), point) / by)
            assert evaluate(made.to_json(), point) == floor
            if again is not None:
                assert evaluate(again.to_json(), point) == (floor + 3) // 2
    assert (h - 9).floored(16) == Polynomial.of("floor((height+7)/16)") - 1
    assert Polynomial.of(-7).floored(2) == -4
    assert (h * w * 4 + h).floored(4) == h * w + Polynomial.of("floor((height)/4)")
    for size in (h + w, h * h, h * w * 3, Polynomial.of("min(4,height)")):
        assert size.floored(2) is None
    halved = h.floored(2)
    assert halved is not None and (halved * 3).floored(4) is None


@pytest.mark.parametrize("name", ["floor((height)/0)", "floor(height/2)", "floor((height-1)/2)", "floor((height)/2"])
def test_malformed_floors(name: str) -> None:
    with pytest.raises(InputError, match=re.escape(f"depends on its dimension {name!r}, which was not given")):
        evaluate([{"coefficient": 1, "dimensions": {name: 1}}], {"height": 4})


def test_operators_have_one_kind() -> None:
    assert not set(WINDOWED) & {*FREE, *PER_ELEMENT, *PER_INPUT_ELEMENT}


def test_integers_are_divided_downwards() -> None:
    """What is padded to a multiple has a size of one term: 2 * floor((h + 1) / 2)."""
    h = Polynomial.of("height")
    toy = model_of(node("Shape", start=2, end=3), node("Add", ints(1)), node("Div", ints(2)), node("Mul", ints(2)))
    [known] = [infer(toy)[output].known for output in toy.graph.outputs]
    assert known == ((h + 1).floored(2) * 2,)  # type: ignore[operator]


def test_sizes_are_divided_as_integers_are() -> None:
    """A row for each whole patch: what Conv makes and what is computed of the picture's size are one size."""
    x = ir.Value(name="x", shape=ir.Shape(["height"]), type=ir.TensorType(ir.DataType.FLOAT))
    graph = ir.Graph([x], [], nodes=[], opset_imports={"": 23})
    tape = Tape(graph)
    numbers = {}
    for name, array in {"by": np.array(12), "from": np.array(0), "step": np.array(1)}.items():
        numbers[name] = ir.Value(name=name, const_value=ir.tensor(array.astype(np.int64), name=name))
        numbers[name].shape, numbers[name].type = ir.Shape(()), ir.TensorType(ir.DataType.INT64)
        graph.register_initializer(numbers[name])
    patches = tape.op("Div", [tape.op("Squeeze", [tape.op("Shape", [x])]), numbers["by"]])
    rows = tape.op("Range", [numbers["from"], patches, numbers["step"]])
    rows.name, rows.type = "y", ir.TensorType(ir.DataType.INT64)
    graph.extend(tape.nodes)
    graph.outputs.append(rows)
    model = ir.Model(graph, ir_version=10)
    session = onnxruntime.InferenceSession(
        ir.serde.serialize_model(model).SerializeToString(), providers=["CPUExecutionProvider"]
    )
    shape = infer(model)[rows].shape
    assert shape is not None
    for height in (12, 23, 24, 145):
        [made] = session.run(None, {"x": floats(height)})
        assert tuple(evaluate(size.to_json(), {"height": height}) for size in shape) == made.shape
