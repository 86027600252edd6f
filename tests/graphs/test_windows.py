"""A window of attention where no mask of padding is given: every dialect spells it, and no row of it is lost."""

from __future__ import annotations

import onnx_ir as ir
import pytest

from precast.graphs import schema
from precast.graphs.dialects.base import Dialect
from precast.graphs.dialects.onnxruntime import ONNXRUNTIME
from precast.graphs.dialects.portable import PORTABLE
from precast.graphs.passes.base import run
from precast.graphs.passes.lower import Lower


@pytest.mark.parametrize("dialect", [ONNXRUNTIME, PORTABLE], ids=lambda dialect: dialect.name)
def test_a_window_without_a_mask(dialect: Dialect) -> None:
    kind, shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape(["batch", "sequence", 8])
    states = [ir.Value(name=name, shape=shape, type=kind) for name in ("query", "key", "value")]
    sizes = {"heads": 2, "kv_heads": 2, "scale": 0.5, "window_left": 1, "window_right": 1}
    node = ir.node("Attention", states, sizes, domain=schema.DOMAIN, num_outputs=1)
    [out] = node.outputs
    out.name, out.shape, out.type = "out", shape, kind
    graph = ir.Graph(states, [out], nodes=[node], opset_imports={"": 23, schema.DOMAIN: schema.VERSION}, name="g")
    model = ir.Model(graph, ir_version=10)
    run(model, (Lower(dialect),))
    assert all(made.domain != schema.DOMAIN for made in model.graph)
    # What a query sees is told of its window alone.
    assert any(made.op_type == "ReduceMax" for made in model.graph)
