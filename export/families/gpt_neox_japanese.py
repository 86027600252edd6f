"""GPT-NeoX Japanese: GPT-NeoX in turn and without biases, but for one behind the last layer's attention; ABEJA's.
https://github.com/tanreinama/Japanese-BPEEncoder_V2"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

from torch import nn

from precast.export.families import gpt_neox
from precast.export.head_sets.decoders import ODD, TINY, causal_heads, layer, layer_norm, mlp
from precast.export.spec import hf
from precast.export.weights import Rename, Rule

__all__ = ["FAMILY", "GPTNeoXJapaneseSpec"]


@dataclass(frozen=True, kw_only=True)
class GPTNeoXJapaneseSpec(gpt_neox.NeoXSpec):
    """Upstream's defaults are those of the model of 2.7 billion weights."""

    vocab_size: int = hf(default=32000)
    hidden_size: int = hf(default=2560)
    num_hidden_layers: int = hf(default=32)
    num_attention_heads: int = hf(default=32)
    intermediate_multiple_size: int = hf(default=4)
    rotary_pct: float = hf(default=1.0)

    @property
    def intermediate_size(self) -> int:
        """Channels inside the MLPs."""
        return self.intermediate_multiple_size * self.hidden_size


def _layers(spec: GPTNeoXJapaneseSpec) -> list[nn.Module]:
    made = partial(layer, spec, norm=layer_norm, mlp=partial(mlp, bias=False), positions=spec.rope.module())
    return [made(out_bias=index == spec.num_hidden_layers - 1) for index in range(spec.num_hidden_layers)]


def _weights(spec: GPTNeoXJapaneseSpec) -> tuple[Rule, ...]:
    bias = Rename("*layers.{}.attention.dense_bias", "*layers.{}.attention.dense.bias")
    return (bias, *gpt_neox.weights(spec, "gpt_neox_japanese"))


FAMILY = replace(
    gpt_neox.FAMILY,
    spec=GPTNeoXJapaneseSpec,
    heads=causal_heads(_layers, norm=layer_norm),
    weights=_weights,
    tiny={**TINY, "num_hidden_layers": 3},
    variations=(
        {**ODD, "hidden_size": 30, "num_hidden_layers": 1, "intermediate_multiple_size": 3, **gpt_neox.PARTIAL}
        | {"hidden_act": "relu", "layer_norm_eps": 1e-3},
    ),
)
