"""The operator domain ``precast``: what a traced graph may hold besides standard ONNX, before a dialect spells it.

A reference model says ``attention(...)`` and its graph holds ONE node ``precast.Attention``. The vocabulary is small
and closed; `precast.export.operators` gives each operator its maths in torch, `precast.graphs.dialects` its spelling.
Dimension names: B batch, S query length, T key length, N heads, G key/value heads, D head size, H = N * D hidden size.
"""

from __future__ import annotations

from dataclasses import dataclass, field

__all__ = ["DOMAIN", "OPERATORS", "VERSION", "Operator"]

DOMAIN = "precast"
VERSION = 1


@dataclass(frozen=True, kw_only=True)
class Operator:
    """One operator: ordered inputs (a trailing ``?`` marks an optional one), outputs, attributes with defaults."""

    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...] = ("output",)
    attributes: dict[str, int | float | str] = field(default_factory=dict)
    doc: str


_ALL = (
    Operator(
        name="Attention",
        inputs=("query", "key", "value", "mask?", "bias?"),
        attributes={
            "heads": 1,
            "kv_heads": 1,
            "scale": 1.0,
            "causal": 0,
            "window_left": -1,
            "window_right": -1,
            "softcap": 0.0,
        },
        doc="""Scaled dot-product attention over [B, S, N*D], [B, T, G*D], [B, T, G*D] -> [B, S, N*D].
        mask: [B, T] int64, 1 for a key that may be seen. bias: [B or 1, N or 1, S, T], added to the scaled scores.
        window_left / window_right: how many positions before / after the query are seen; -1 is all.
        softcap: c * tanh(scores / c), 0 is off. A row that may see no key gives zeros.""",
    ),
    Operator(
        name="Rotary",
        inputs=("x", "positions", "cos", "sin"),
        attributes={"heads": 1, "interleaved": 0},
        doc="""Rotary position embedding of x [B, S, N*D] at positions [B, S]; cos, sin: [P, R/2], the first R
        channels of each head are turned. interleaved: pairs are neighbours instead of halves.""",
    ),
    Operator(
        name="LayerNorm",
        inputs=("x", "weight", "bias?"),
        attributes={"epsilon": 1e-5},
        doc="Layer normalisation over the last axis. https://arxiv.org/abs/1607.06450",
    ),
    Operator(
        name="AddLayerNorm",
        inputs=("x", "residual", "weight", "bias?"),
        outputs=("output", "sum"),
        attributes={"epsilon": 1e-5},
        doc="sum = x + residual; output = LayerNorm(sum). Post-norm models drop the sum, pre-norm models carry it on.",
    ),
    Operator(
        name="Linear",
        inputs=("x", "weight", "bias?"),
        doc="x @ weight.T + bias; weight: [out, in], as checkpoints store it.",
    ),
    Operator(
        name="Gelu",
        inputs=("x",),
        attributes={"approximate": "none"},
        doc="GELU; approximate is 'none' (erf) or 'tanh'. https://arxiv.org/abs/1606.08415",
    ),
)

OPERATORS: dict[str, Operator] = {operator.name: operator for operator in _ALL}
