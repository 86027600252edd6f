"""Weights of spelled graphs as operators of the vocabulary again, and norms made smooth: the same numbers."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
from onnx_ir.tape import Tape

from precast.graphs import schema
from precast.graphs.dialects.base import Dialect
from precast.graphs.dialects.native import NATIVE
from precast.graphs.dialects.onnxruntime import ONNXRUNTIME
from precast.graphs.passes.base import counted, run
from precast.graphs.passes.lower import Lower
from precast.graphs.passes.narrow_weights import NarrowWeights
from precast.graphs.passes.quantize_weights import QuantizeWeights
from precast.graphs.passes.raise_weights import RaiseWeights
from precast.graphs.passes.smooth_channels import SmoothChannels, smoothable
from precast.graphs.tensors import initializer
from precast.runtime import kernels

RNG = np.random.default_rng(0)
WIDTH, INNER = 32, 48


def model(*, narrow: bool = False, tied: bool = True) -> ir.Model:
    """ids -> table -> norm -> two products, one with a bias, added -> the table again."""
    ids = ir.Value(name="input_ids", shape=ir.Shape(["batch", "sequence"]), type=ir.TensorType(ir.DataType.INT64))
    graph = ir.Graph([ids], [], nodes=[], opset_imports={"": 23, schema.DOMAIN: schema.VERSION}, name="toy")
    tape = Tape(graph)

    def held(name: str, *shape: int) -> ir.Value:
        values = RNG.standard_normal(shape).astype(np.float32)
        if narrow and len(shape) == 2:
            values = (values.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)
        return initializer(graph, values, name)

    def made(op: str, inputs: list[Any], width: int, domain: str = schema.DOMAIN, **attributes: Any) -> ir.Value:
        value = tape.op(op, inputs, attributes, domain=domain)
        value.shape, value.type = ir.Shape(["batch", "sequence", width]), ir.TensorType(ir.DataType.FLOAT)
        return value

    table = held("words.weight", 64, WIDTH)
    states = made("Gather", [table, ids], WIDTH, "", axis=0)
    norm = made("LayerNorm", [states, held("norm.weight", WIDTH), held("norm.bias", WIDTH)], WIDTH, epsilon=1e-5)
    first = made("Linear", [norm, held("a.weight", INNER, WIDTH), held("a.bias", INNER)], INNER)
    second = made("Linear", [norm, held("b.weight", INNER, WIDTH)], INNER)
    both = made("Add", [first, second], INNER, "")
    down = made("Linear", [both, held("c.weight", WIDTH, INNER)], WIDTH)
    last = made("Linear", [down, table if tied else held("head.weight", 64, WIDTH)], 64)
    last.name = "logits"
    graph.extend(tape.nodes)
    graph.outputs.append(last)
    return ir.Model(graph, ir_version=10)


def answers(graph: ir.Model, folder: Path) -> np.ndarray:
    path = folder / "graph.onnx"
    path.write_bytes(ir.to_proto(graph).SerializeToString())
    options = onnxruntime.SessionOptions()
    if any(node.domain == "precast.cpu" for node in graph.graph):
        options.register_custom_ops_library(str(kernels.library_path()))
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"input_ids": np.arange(12).reshape(2, 6)})[0])


DIALECTS = [ONNXRUNTIME, pytest.param(NATIVE, marks=pytest.mark.skipif(not kernels.available(), reason="no kernels"))]


@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda value: value.name)
@pytest.mark.parametrize("narrow", [False, True])
@pytest.mark.parametrize("tied", [False, True])
def test_what_is_spelled_is_raised_and_spelled_again(
    dialect: Dialect, narrow: bool, tied: bool, tmp_path: Path
) -> None:
    spelled = model(narrow=narrow, tied=tied)
    run(spelled, [*([NarrowWeights()] if narrow else []), Lower(dialect)])
    expected, operators = answers(spelled, tmp_path), counted(spelled)
    weights: dict[str, ir.TensorProtocol] = {}
    run(spelled, [RaiseWeights(weights)])
    raised = counted(spelled)
    assert raised[f"{schema.DOMAIN}::Linear"] == 4 and raised["Gather"] == 1
    assert raised["MatMul"] == raised["Cast"] == raised["precast.cpu::HalfLinear"] == 0
    own = {"a.weight", "b.weight", "c.weight", *(() if tied else ("head.weight",))}
    assert own <= weights.keys() <= own | {"words.weight"}
    assert ("words.weight" in weights) == (tied or narrow)
    with pytest.raises(ValueError, match="RaiseWeights in front of it"):
        QuantizeWeights(8).requires(lowered(dialect))
    QuantizeWeights(8).requires(spelled)
    run(spelled, [Lower(dialect)])
    np.testing.assert_array_equal(answers(spelled, tmp_path), expected)
    if not narrow:
        assert counted(spelled) == operators


def lowered(dialect: Dialect) -> ir.Model:
    made = model()
    run(made, [Lower(dialect)])
    return made


def test_graphs_of_one_model_share_their_weights() -> None:
    weights: dict[str, ir.TensorProtocol] = {}
    first, second = lowered(ONNXRUNTIME), lowered(ONNXRUNTIME)
    run(first, [RaiseWeights(weights)])
    run(second, [RaiseWeights(weights)])
    for name in ("a.weight", "b.weight"):
        assert first.graph.initializers[name].const_value is second.graph.initializers[name].const_value
    other = lowered(ONNXRUNTIME)
    with pytest.raises(ValueError, match=r"'a.weight' is \[3, 3\] in one graph and \[48, 32\] here"):
        run(other, [RaiseWeights({"a.weight": ir.tensor(np.zeros((3, 3), np.float32))})])


@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda value: value.name)
@pytest.mark.parametrize("spelled", [False, True])
def test_smoothing_changes_no_product(dialect: Dialect, spelled: bool, tmp_path: Path) -> None:
    graph = model()
    plain_graph = graph.clone()
    run(plain_graph, [Lower(dialect)])
    plain = answers(plain_graph, tmp_path)
    if spelled:
        run(graph, [Lower(dialect), RaiseWeights({})])
    [names] = [found for node in graph.graph if (found := smoothable(node))]
    assert names == ("a.weight", "b.weight")
    scales = np.exp2(RNG.integers(-3, 4, WIDTH)).astype(np.float32)
    before = {name: graph.graph.initializers[name].const_value.numpy() for name in names}  # type: ignore[union-attr]
    run(graph, [SmoothChannels(dict.fromkeys(names, scales))])
    for name in names:
        held = graph.graph.initializers[name].const_value
        assert held is not None
        np.testing.assert_array_equal(held.numpy(), before[name] * scales)
    run(graph, [Lower(dialect)])
    np.testing.assert_allclose(answers(graph, tmp_path), plain, rtol=0, atol=1e-5 * np.abs(plain).max())


def test_scales_of_one_norm_are_one() -> None:
    ones, twos = np.ones(WIDTH, np.float32), np.full(WIDTH, 2, np.float32)
    for scales in ({"a.weight": twos}, {"a.weight": twos, "b.weight": ones}):
        with pytest.raises(ValueError, match=r"the scales of a\.weight, b\.weight must be one: they read one norm"):
            run(model(), [SmoothChannels(scales)])


def test_a_norm_that_something_else_reads_is_left_alone() -> None:
    graph = model().graph
    norm = next(node for node in graph if node.op_type == "LayerNorm")
    assert smoothable(norm)
    graph.outputs.append(norm.outputs[0])
    assert smoothable(norm) == ()
    assert Counter(len(smoothable(node)) for node in graph) == {0: len(list(graph))}
