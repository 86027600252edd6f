"""Attention without a cache whose heads are grouped or whose scores are capped: each spelling beside its maths."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
import torch

from precast.export.operators import attention
from precast.graphs import contract, schema
from precast.graphs.dialects.base import Dialect
from precast.graphs.dialects.onnxruntime import ONNXRUNTIME
from precast.graphs.dialects.portable import PORTABLE
from precast.graphs.passes.base import run
from precast.graphs.passes.canonical import Canonical
from precast.graphs.passes.clean import Clean
from precast.graphs.passes.fuse_bias import FuseBias
from precast.graphs.passes.lower import Lower
from precast.graphs.tensors import initializer
from precast.graphs.work import work
from precast.runtime.bench.work import evaluate

HEADS, SIZE, BATCH, LENGTH = 6, 5, 2, 7
FLOAT = ir.TensorType(ir.DataType.FLOAT)
CASES: dict[str, dict[str, Any]] = {
    "grouped": {"kv_heads": 2},
    "one head": {"kv_heads": 1, "causal": 1},
    "grouped in a window": {"kv_heads": 3, "window_left": 2, "window_right": 1},
    "capped": {"kv_heads": 6, "softcap": 0.7},
    "grouped and capped": {"kv_heads": 2, "softcap": 0.7, "window_left": 3, "window_right": 0},
}


def model_of(at: dict[str, Any], masked: bool, biased: bool) -> ir.Model:
    """Attention over three inputs, keys and values with a vector added in front of it."""
    rng = np.random.default_rng(5)
    widths = {"query": HEADS * SIZE, "key": at["kv_heads"] * SIZE, "value": at["kv_heads"] * SIZE}
    given = {
        name: ir.Value(name=name, shape=ir.Shape(["batch", "sequence", width]), type=FLOAT)
        for name, width in widths.items()
    }
    mask = ir.Value(name="mask", shape=ir.Shape(["batch", "sequence"]), type=ir.TensorType(ir.DataType.INT64))
    bias = ir.Value(name="bias", shape=ir.Shape([1, HEADS, "sequence", "sequence"]), type=FLOAT)
    inputs = [*given.values(), *([mask] if masked else []), *([bias] if biased else [])]
    graph = ir.Graph(inputs, [], nodes=[], opset_imports={"": 23, schema.DOMAIN: schema.VERSION}, name="g")
    added = {}
    for name in ("key", "value"):
        vector = initializer(graph, rng.standard_normal(widths[name]).astype(np.float32), f"{name}.bias")
        node = ir.node("Add", [given[name], vector], num_outputs=1)
        graph.append(node)
        [added[name]] = node.outputs
        added[name].shape, added[name].type = given[name].shape, FLOAT
    asked = [given["query"], added["key"], added["value"], mask if masked else None, bias if biased else None]
    node = ir.node("Attention", asked, {"heads": HEADS, "scale": 0.4, **at}, domain=schema.DOMAIN, num_outputs=1)
    graph.append(node)
    [out] = node.outputs
    out.name, out.shape, out.type = "out", given["query"].shape, FLOAT
    graph.outputs.append(out)
    return ir.Model(graph, ir_version=10)


@pytest.mark.parametrize("dialect", [ONNXRUNTIME, PORTABLE], ids=lambda dialect: dialect.name)
@pytest.mark.parametrize(("masked", "biased"), [(False, False), (True, False), (False, True), (True, True)])
@pytest.mark.parametrize("name", CASES)
def test_spellings_compute_the_operator(name: str, masked: bool, biased: bool, dialect: Dialect) -> None:
    at = CASES[name]
    model = model_of(at, masked, biased)
    vectors = [model.graph.initializers[f"{part}.bias"].const_value.numpy() for part in ("key", "value")]  # type: ignore[union-attr]
    traced = contract.vocabulary(model)
    fuse = (FuseBias(),) if dialect is ONNXRUNTIME else ()
    reports = run(model, (Lower(dialect), *fuse, Canonical(), Clean()))
    contract.check(traced, traced, contract.operators(model), dialect.name, reports)
    session = onnxruntime.InferenceSession(
        ir.serde.serialize_model(model).SerializeToString(), providers=["CPUExecutionProvider"]
    )
    rng = np.random.default_rng(6)
    feeds: dict[str, Any] = {
        entry.name: rng.standard_normal([{"batch": BATCH, "sequence": LENGTH}.get(dim, dim) for dim in entry.shape])
        for entry in session.get_inputs()
        if entry.name != "mask"
    }
    feeds = {key: value.astype(np.float32) for key, value in feeds.items()}
    if masked:
        feeds["mask"] = np.array([[1] * LENGTH, [1, 1, 1, 1, 0, 0, 0]], np.int64)
    [found] = session.run(None, feeds)
    given = {key: torch.from_numpy(value) for key, value in feeds.items()}
    wanted = attention(
        given["query"].double(),
        given["key"].double() + torch.from_numpy(vectors[0]),
        given["value"].double() + torch.from_numpy(vectors[1]),
        mask=given.get("mask"),
        bias=given["bias"].double() if biased else None,
        heads=HEADS,
        kv_heads=at["kv_heads"],
        scale=0.4,
        causal=bool(at.get("causal", 0)),
        window=(at.get("window_left", -1), at.get("window_right", -1)),
        softcap=at.get("softcap", 0.0),
    )
    np.testing.assert_allclose(found, wanted.numpy(), rtol=0, atol=2e-6)
    cost = work(model)
    assert cost["uncounted"] == []
    assert evaluate(cost["flops"], {"batch": BATCH, "sequence": LENGTH}) > 0


def test_heads_that_do_not_divide_are_refused() -> None:
    with pytest.raises(ValueError, match="6 query heads cannot share 4 heads of keys and values"):
        run(model_of({"kv_heads": 4}, False, False), (Lower(PORTABLE),))
