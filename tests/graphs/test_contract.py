"""What a graph must hold of fused nodes: equal nodes that became one are not missing, others are."""

from __future__ import annotations

from dataclasses import replace

import onnx_ir as ir
import pytest
from support.lowering import lowerings
from support.oracle import TensorSource, sources, upstream

from precast.export.heads import CAUSAL_LM
from precast.export.operators import counted
from precast.export.reference import build
from precast.export.trace import trace
from precast.graphs import contract
from precast.graphs.passes.base import Report, run
from precast.graphs.passes.clean import Clean
from precast.runtime.errors import ContractError

# Models whose parallel blocks have two norms of one input, which every fresh checkpoint has with equal weights.
TWO_NORMS = {
    "gpt_neox": ("input_layernorm", "post_attention_layernorm"),
    "falcon": ("ln_attn", "ln_mlp"),
}
NEW_FALCON = {"new_decoder_architecture": True, "num_kv_heads": 2, "num_hidden_layers": 2}


@pytest.mark.parametrize("model_type", TWO_NORMS)
def test_equal_norms_may_be_one_node(model_type: str) -> None:
    config, model = upstream(model_type, CAUSAL_LM, NEW_FALCON if model_type == "falcon" else {})
    tensors: dict[str, TensorSource] = sources(model)
    first, second = TWO_NORMS[model_type]
    for name in [name for name in tensors if first in name]:
        tensors[name.replace(first, second)] = tensors[name]
    ours = build(config, tensors)
    part = ours.parts[0]
    promised = counted(part.module, part.signature.example())
    taken = part.signature
    traced = trace(part.module, taken.example(), taken.dynamic, taken.outputs, part.name, taken.bounds)
    proto = ir.to_proto(traced)
    for name, (dialect, passes, _) in lowerings().items():
        if name.startswith("raw-"):
            continue
        graph = ir.from_proto(proto)
        reports = run(graph, passes())
        traced_counts, operators = contract.vocabulary(traced), contract.operators(graph)
        contract.check(promised, traced_counts, operators, dialect.name, reports)
        merged = [count for report in reports for kind, count in report.merged.items() if kind.endswith("LayerNorm")]
        assert merged == [1], name  # the first layer's: later ones have one behind a sum
        if dialect.name == "portable":
            continue  # it spells a sum and its norm as two nodes: one norm more or less does not show
        # The same graph is refused where a norm is gone and nothing stands for it.
        with pytest.raises(ContractError, match=r"LayerNorm: 3 fused nodes wanted, 2 of .* left"):
            contract.check(promised, traced_counts, operators, dialect.name, [replace(r, merged={}) for r in reports])


def test_equal_nodes_after_lowering_count_too() -> None:
    """A sum of what the passes before and after the lowering merged."""
    reports = [
        Report("Clean", 1, merged={"precast::LayerNorm": 1}),
        Report("Clean", 1, merged={"LayerNormalization": 2}),
    ]
    held = {"LayerNormalization": 2}
    contract.check({"LayerNorm": 5}, {"LayerNorm": 5}, held, "onnxruntime", reports)
    with pytest.raises(ContractError, match="LayerNorm: 3 fused nodes wanted, 2 of LayerNormalization left"):
        contract.check({"LayerNorm": 6}, {"LayerNorm": 6}, held, "onnxruntime", reports)
    with pytest.raises(ContractError, match="LayerNorm: 2 in the reference, 1 traced"):
        contract.check({"LayerNorm": 2}, {"LayerNorm": 1}, held, "onnxruntime", reports)


def test_passes_count_what_they_merge() -> None:
    """Of three equal nodes one is left, two are counted; unequal ones are not."""
    x = ir.Value(name="x", shape=ir.Shape([2]), type=ir.TensorType(ir.DataType.FLOAT))
    nodes = [ir.node("Relu", [x]) for _ in range(3)] + [ir.node("Neg", [x])]
    total = ir.node("Sum", [node.outputs[0] for node in nodes])
    total.outputs[0].name = "y"
    graph = ir.Graph([x], [total.outputs[0]], nodes=[*nodes, total], opset_imports={"": 20}, name="g")
    assert run(ir.Model(graph, ir_version=10), (Clean(),))[0].merged == {"Relu": 2}


def test_an_explicit_form_stands_for_capped_attention_alone() -> None:
    traced = {"Attention": 2, "CappedAttention": 1}
    contract.check({"Attention": 2}, traced, {"com.microsoft::MultiHeadAttention": 1, "Softmax": 1}, "onnxruntime")
    with pytest.raises(
        ContractError, match=r"Attention: 1 fused nodes wanted, 0 of com\.microsoft::MultiHeadAttention"
    ):
        contract.check({"Attention": 2}, traced, {"Softmax": 5}, "onnxruntime")
    with pytest.raises(ContractError, match="CappedAttention: 1 explicit forms wanted, 0 Softmax left"):
        contract.check({"Attention": 2}, traced, {"com.microsoft::MultiHeadAttention": 2}, "onnxruntime")
