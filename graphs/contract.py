"""How many fused nodes a model must have. Counted as the reference runs, demanded of its graphs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

import onnx_ir as ir

from precast.graphs import schema
from precast.graphs.passes.base import Report, counted
from precast.runtime.errors import ContractError

__all__ = ["FUSED", "check", "fusions", "operators", "vocabulary"]

# Dialect -> operator of the vocabulary -> the node types of which it must leave at least one each.
FUSED: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "onnxruntime": {
        "Attention": ("com.microsoft::MultiHeadAttention",),
        # Odd head sizes have the explicit form.
        "CachedAttention": ("com.microsoft::GroupQueryAttention", "ScatterND"),
        "RMSNorm": ("SimplifiedLayerNormalization",),
        "AddRMSNorm": ("com.microsoft::SkipSimplifiedLayerNormalization",),
        "AddLayerNorm": ("com.microsoft::SkipLayerNormalization",),
        "LayerNorm": ("LayerNormalization",),
        "Rotary": ("com.microsoft::RotaryEmbedding",),
        "MoE": ("com.microsoft::MoE",),
        "SelectiveScan": ("Scan",),
        "Gelu": ("com.microsoft::BiasGelu", "com.microsoft::FastGelu", "com.microsoft::Gelu"),
    },
    "native": {
        "Attention": ("precast.cpu::Attention",),
        "CachedAttention": ("precast.cpu::CachedAttention", "precast.cpu::CachedAttentionInt8"),
        "RMSNorm": ("precast.cpu::RMSNorm",),
        "AddRMSNorm": ("precast.cpu::AddRMSNorm",),
        "GatedActivation": ("precast.cpu::GatedActivation",),
        "AddLayerNorm": ("precast.cpu::AddLayerNorm",),
        "LayerNorm": ("precast.cpu::LayerNorm",),
        "Rotary": ("com.microsoft::RotaryEmbedding",),
        "MoE": ("com.microsoft::MoE",),
        "SelectiveScan": ("Scan",),
        "Gelu": ("precast.cpu::BiasGelu", "precast.cpu::BlockFeedForward"),
    },
    "portable": {
        "LayerNorm": ("LayerNormalization",),
        "Rotary": ("RotaryEmbedding",),
        "Gelu": ("Gelu",),
        "SelectiveScan": ("Scan",),
    },
}

# Of these operators some nodes have an explicit form in a dialect: under which name `vocabulary` counts those, and the
# node type of which each leaves one at least.
EXPLICIT: Mapping[str, Mapping[str, tuple[str, str]]] = {"onnxruntime": {"Attention": ("CappedAttention", "Softmax")}}


def operators(model: ir.Model) -> dict[str, int]:
    """Node counts by ``domain::op_type`` (standard ONNX without a domain), sorted."""
    return dict(sorted(counted(model).items()))


def vocabulary(model: ir.Model) -> dict[str, int]:
    """How often the traced graph holds each operator of the vocabulary; Attention whose scores have a soft cap is
    counted as CappedAttention, too."""
    said = [node for node in model.graph if node.domain == schema.DOMAIN]
    counts = Counter(node.op_type for node in said)
    counts["CappedAttention"] = sum(
        node.op_type == "Attention" and node.attributes.get_float("softcap", 0.0) != 0 for node in said
    )
    return dict(sorted((+counts).items()))


def fusions(promised: Mapping[str, int], dialect: str) -> dict[str, int]:
    """Of the operators that a reference says, those that a graph of this dialect holds as fused nodes."""
    return {name: count for name, count in promised.items() if name in FUSED[dialect]}


def check(
    promised: Mapping[str, int],
    traced: Mapping[str, int],
    lowered: Mapping[str, int],
    dialect: str,
    reports: Iterable[Report] = (),
) -> None:
    """Hold a graph to what its reference model says.

    Args:
        promised: operators of the vocabulary, and how often one call of the reference says each.
        traced: what the traced graph holds (`vocabulary`).
        lowered: node counts of the optimised graph (`operators`).
        reports: of the passes that made it: a node that an equal one stands for is not missing.

    Raises:
        ContractError: an operator was traced into pieces, or its fused node is missing after the recipe.
    """
    problems = [
        f"{name}: {promised.get(name, 0)} in the reference, {traced.get(name, 0)} traced"
        for name in sorted({name for fused in FUSED.values() for name in fused})
        if traced.get(name, 0) != promised.get(name, 0)
    ]
    merged: Counter[str] = sum((Counter(report.merged) for report in reports), Counter())
    for name, kinds in FUSED[dialect].items():
        found = sum(lowered.get(kind, 0) for kind in kinds)
        equal = sum(merged[kind] for kind in (f"{schema.DOMAIN}::{name}", *kinds))
        special, form = EXPLICIT.get(dialect, {}).get(name, ("", ""))
        explicit = traced.get(special, 0)
        if lowered.get(form, 0) + merged[form] < explicit:
            problems.append(f"{special}: {explicit} explicit forms wanted, {lowered.get(form, 0)} {form} left")
        want = promised.get(name, 0) - explicit - equal
        if found < want:
            problems.append(f"{name}: {want} fused nodes wanted, {found} of {' or '.join(kinds)} left")
    if problems:
        raise ContractError(f"the {dialect} graph is not fused as its reference is: {'; '.join(problems)}")
