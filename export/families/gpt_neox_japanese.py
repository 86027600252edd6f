"""GPT-NeoX Japanese: GPT-NeoX in turn and without biases, but for one behind the last layer's attention; ABEJA's.
https://github.com/tanreinama/Japanese-BPEEncoder_V2"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from precast.export import heads
from precast.export.blocks.attention import CachedSelfAttention
from precast.export.blocks.mlp import MLP
from precast.export.blocks.norms import LayerNorm
from precast.export.blocks.rotary import SteppedRotary
from precast.export.families import Family
from precast.export.families.gpt_neox import NeoXSpec, causal_lm, weights
from precast.export.skeletons.decoder import DecoderLayer
from precast.export.spec import hf
from precast.export.weights import Rename, Rule

__all__ = ["FAMILY", "GPTNeoXJapaneseSpec"]


@dataclass(frozen=True, kw_only=True)
class GPTNeoXJapaneseSpec(NeoXSpec):
    """Upstream's defaults are those of the model of 2.7 billion weights."""

    vocab_size: int = hf(default=32000)
    hidden_size: int = hf(default=2560)
    num_hidden_layers: int = hf(default=32)
    num_attention_heads: int = hf(default=32)
    intermediate_multiple_size: int = hf(default=4)
    rotary_pct: float = hf(default=1.0)


def _layer(spec: GPTNeoXJapaneseSpec, positions: SteppedRotary, last: bool) -> DecoderLayer:
    hidden = spec.hidden_size
    return DecoderLayer(
        attention=CachedSelfAttention(hidden, heads=spec.num_attention_heads, positions=positions, out_bias=last),
        attention_norm=LayerNorm(hidden, spec.layer_norm_eps),
        mlp=MLP(hidden, hidden * spec.intermediate_multiple_size, spec.hidden_act, bias=False),
        mlp_norm=LayerNorm(hidden, spec.layer_norm_eps),
    )


def _causal_lm(spec: GPTNeoXJapaneseSpec, absent: frozenset[str]) -> nn.Module:
    positions, layers = spec.rope.module(), spec.num_hidden_layers
    return causal_lm(spec, [_layer(spec, positions, index == layers - 1) for index in range(layers)])


def _weights(spec: GPTNeoXJapaneseSpec) -> tuple[Rule, ...]:
    bias = Rename("*layers.{}.attention.dense_bias", "*layers.{}.attention.dense.bias")
    return (bias, *weights(spec, "gpt_neox_japanese"))


FAMILY = Family(
    spec=GPTNeoXJapaneseSpec,
    heads={heads.CAUSAL_LM: _causal_lm},
    weights=_weights,
    limits=lambda spec: spec.max_position_embeddings,
    final_norm=True,
    inert=frozenset({"hidden_dropout"}),
    tiny={
        "hidden_size": 32,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "max_position_embeddings": 160,
        "vocab_size": 99,
    },
    variations=(
        # Odd sizes: 3 heads of 10 channels of which 6 are turned, a head apart.
        {
            "hidden_size": 30,
            "num_hidden_layers": 1,
            "num_attention_heads": 3,
            "intermediate_multiple_size": 3,
            "hidden_act": "relu",
            "layer_norm_eps": 1e-3,
            "tie_word_embeddings": False,
            "vocab_size": 131,
            "rope_parameters": {"rope_type": "default", "rope_theta": 500.0, "partial_rotary_factor": 0.6},
        },
    ),
)
