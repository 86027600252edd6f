"""The operator domain ``precast``: what a traced graph may hold besides standard ONNX, before a dialect spells it.

A reference model says ``attention(...)`` and its graph holds ONE node ``precast.Attention``. The vocabulary is small
and closed; `precast.export.operators` gives each operator its maths in torch, `precast.graphs.dialects` its spelling.
Dimension names: B batch, S query length, T key length, N heads, G key/value heads, D head size, H = N * D hidden size,
R slots of a cache.
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
        name="CachedAttention",
        inputs=("query", "key", "value", "past_key", "past_value", "past_lengths", "lengths", "bias?"),
        outputs=("output", "present_key", "present_value"),
        attributes={"heads": 1, "kv_heads": 1, "scale": 1.0, "window": -1, "softcap": 0.0},
        doc="""Causal attention of new tokens [B, S, N*D], [B, S, G*D], [B, S, G*D] over themselves and earlier ones
        -> [B, S, N*D]. Row b holds past_lengths[b] tokens already, and lengths[b] of its S new ones are real. The token
        at position p keeps its key and value in slot p % R of past_key, past_value [B, G, R, D]; present_key,
        present_value are these with the new ones in place. window: a query sees itself and the window - 1 positions
        before it, -1 all; a buffer of fewer slots than tokens is a ring, which a window up to its size allows.
        bias: [B or 1, N or 1, S or 1, R], added to the scaled scores by slot. softcap as in Attention.
        Output rows and cache contents of tokens that are not real are undefined.""",
    ),
    Operator(
        name="Rotary",
        inputs=("x", "positions", "cos", "sin"),
        attributes={"heads": 1, "interleaved": 0},
        doc="""Rotary position embedding of x [B, S, N*D] at positions [B, S]; cos, sin: [P, R/2], the first R
        channels of each head are turned. interleaved: pairs are neighbours instead of halves.""",
    ),
    Operator(
        name="RotaryAngles",
        inputs=("frequencies", "positions"),
        outputs=("cos", "sin"),
        attributes={"scale": 1.0},
        doc="""scale * cos and scale * sin of positions [B, S] * frequencies [R/2], [B*S, R/2] each. The product is
        rounded to float32 whatever the type, as models were trained with it.""",
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
        name="RMSNorm",
        inputs=("x", "weight"),
        attributes={"epsilon": 1e-6},
        doc="Root-mean-square normalisation over the last axis. https://arxiv.org/abs/1910.07467",
    ),
    Operator(
        name="AddRMSNorm",
        inputs=("x", "residual", "weight"),
        outputs=("output", "sum"),
        attributes={"epsilon": 1e-6},
        doc="sum = x + residual; output = RMSNorm(sum).",
    ),
    Operator(
        name="GatedActivation",
        inputs=("gate", "up"),
        attributes={"activation": "silu"},
        doc="act(gate) * up; activation is silu, gelu (erf), gelu_tanh or relu. https://arxiv.org/abs/2002.05202",
    ),
    Operator(
        name="MoE",
        inputs=("x", "router", "gate_up", "down"),
        attributes={"top_k": 2},
        doc="""Mixture of E gated MLPs: of each token of x [B, S, H] the top_k experts by router [B, S, E], weighted by
        the softmax of these top_k logits. Expert e makes down[e] @ (silu(gate) * up), with down [E, H, I]; rows of gate
        and up alternate in gate_up [E, 2I, H]. https://arxiv.org/abs/2401.04088""",
    ),
    Operator(
        name="SelectiveScan",
        inputs=("x", "delta", "A", "B", "C", "state"),
        outputs=("output", "present_state"),
        doc="""Recurrence over the S steps of x, delta [B, S, I] and B, C [B, S, N], with A [N, I] and state [B, N, I]:
        state = exp(delta * A) * state + B * (delta * x); output [B, S, I] is the sum over N of C * state. A step whose
        delta is zero leaves the state as it is. https://arxiv.org/abs/2312.00752, section 3.2""",
    ),
    Operator(
        name="Linear",
        inputs=("x", "weight", "bias?"),
        doc="x @ weight.T + bias; weight: [out, in], as checkpoints store it.",
    ),
    Operator(
        name="BlockLinear",
        inputs=("x", "weight", "scales", "zeros?", "bias?"),
        attributes={"bits": 4, "block": 32, "in": 0, "out": 0},
        doc="""Linear with a weight [out, in] in blocks of 4 or 8 bits, as com.microsoft::MatMulNBits stores it: uint8
        [out, blocks, block * bits / 8], scales float32 [out, blocks], zero points uint8 [out, blocks * bits / 8],
        float32 [out, blocks], or none: 2^(bits - 1). blocks is in / block, rounded up, and exact where zero points are
        floats. graphs/dialects/blocks.py packs and unpacks it.""",
    ),
    Operator(
        name="BlockEmbedding",
        inputs=("ids", "weight", "scales", "zeros?"),
        attributes={"bits": 4, "block": 32, "in": 0, "out": 0},
        doc="Rows of such a weight, as float32: ids of any shape -> [..., in].",
    ),
    Operator(
        name="HalfLinear",
        inputs=("x", "weight", "bias?"),
        attributes={"tied": 0},
        doc="""Linear with a weight [out, in] in bfloat16 or float16, products and sums in float32: what a float32
        weight of the same values gives. tied: a HalfEmbedding reads it too.""",
    ),
    Operator(
        name="HalfEmbedding",
        inputs=("ids", "weight"),
        attributes={"tied": 0},
        doc="Rows of such a weight, as float32: ids of any shape -> [..., in]. tied: a HalfLinear reads it too.",
    ),
    Operator(
        name="Gelu",
        inputs=("x",),
        attributes={"approximate": "none"},
        doc="GELU; approximate is 'none' (erf) or 'tanh'. https://arxiv.org/abs/1606.08415",
    ),
)

OPERATORS: dict[str, Operator] = {operator.name: operator for operator in _ALL}
