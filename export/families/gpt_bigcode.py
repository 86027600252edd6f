"""GPTBigCode: GPT-2 whose heads share one head of keys and values; SantaCoder and StarCoder are its checkpoints.
https://arxiv.org/abs/2301.03988, https://arxiv.org/abs/2305.06161"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from precast.export import heads
from precast.export.blocks.activations import Activation, activation
from precast.export.families import Family
from precast.export.families.gpt2 import INERT_KEYS, PACKED, GPT2Spec, causal_lm, weights
from precast.export.spec import hf
from precast.export.weights import Ignore, Rule, Split

__all__ = ["FAMILY", "GPTBigCodeSpec"]


@dataclass(frozen=True, kw_only=True)
class GPTBigCodeSpec(GPT2Spec):
    """Upstream's defaults."""

    activation_function: Activation = hf(default=activation("gelu_pytorch_tanh"), read=activation)
    multi_query: bool = hf(default=True)
    scale_attn_by_inverse_layer_idx: bool = hf(default=False, only=(False,))

    @property
    def kv_heads(self) -> int:
        """Heads of keys and values."""
        return 1 if self.multi_query else self.heads


def _causal_lm(spec: GPTBigCodeSpec, absent: frozenset[str]) -> nn.Module:
    return causal_lm(spec, spec.kv_heads)


def _weights(spec: GPTBigCodeSpec) -> tuple[Rule, ...]:
    if spec.multi_query:
        packed = Split(*PACKED, shares=(spec.heads, 1, 1))
    else:
        packed = Split(*PACKED, groups=spec.heads)
    # A causal mask of the whole model, saved with the weights.
    return (Ignore("transformer.bias"), *weights(spec, packed))


FAMILY = Family(
    spec=GPTBigCodeSpec,
    heads={heads.CAUSAL_LM: _causal_lm},
    weights=_weights,
    limits=lambda spec: spec.positions,
    final_norm=True,
    # Which number type softmax has, how a cache is kept, how the tokens of the first configs were run.
    inert=INERT_KEYS
    | frozenset({"attention_softmax_in_fp32", "scale_attention_softmax_in_fp32", "num_key_value_heads"}),
    tiny={"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 160, "vocab_size": 99},
    variations=(
        # Odd sizes: 3 heads of 7 channels, each with keys of its own, another width, a head apart.
        {
            "n_embd": 21,
            "n_head": 3,
            "n_inner": 37,
            "multi_query": False,
            "activation_function": "gelu",
            "tie_word_embeddings": False,
            "vocab_size": 131,
            "layer_norm_epsilon": 1e-3,
        },
        {"scale_attn_weights": False, "activation_function": "relu", "n_layer": 1},
    ),
)
