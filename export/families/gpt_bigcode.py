"""GPTBigCode: GPT-2 whose heads share one head of keys and values; SantaCoder and StarCoder are its checkpoints.
https://arxiv.org/abs/2301.03988, https://arxiv.org/abs/2305.06161"""

from __future__ import annotations

from dataclasses import dataclass, replace

from precast.export.blocks.activations import Activation, activation
from precast.export.families import gpt2
from precast.export.head_sets.decoders import ODD, QKV
from precast.export.spec import hf
from precast.export.weights import Ignore, Rule, Split

__all__ = ["FAMILY", "GPTBigCodeSpec"]


@dataclass(frozen=True, kw_only=True)
class GPTBigCodeSpec(gpt2.GPT2Spec):
    """Upstream's defaults."""

    hidden_act: Activation = hf("activation_function", default=activation("gelu_pytorch_tanh"), read=activation)
    multi_query: bool = hf(default=True)
    scale_attn_by_inverse_layer_idx: bool = hf(default=False, only=(False,))

    @property
    def kv_heads(self) -> int:
        """Heads of keys and values."""
        return 1 if self.multi_query else self.num_attention_heads


def _weights(spec: GPTBigCodeSpec) -> tuple[Rule, ...]:
    heads = spec.num_attention_heads
    packing = {"shares": (heads, 1, 1)} if spec.multi_query else {"groups": heads}
    # A causal mask of the whole model, saved with the weights.
    return (Ignore("transformer.bias"), *gpt2.weights(spec, Split("h.{}.attn.c_attn.*", QKV, **packing)))


FAMILY = replace(
    gpt2.FAMILY,
    crossed=None,
    spec=GPTBigCodeSpec,
    weights=_weights,
    # Which number type softmax has, how a cache is kept, how the tokens of the first configs were run.
    inert=gpt2.FAMILY.inert | {"attention_softmax_in_fp32", "scale_attention_softmax_in_fp32", "num_key_value_heads"},
    variations=(
        # Each head with keys of its own, another width.
        {**ODD, "n_inner": 37, "multi_query": False, "activation_function": "gelu", "layer_norm_epsilon": 1e-3},
        {"scale_attn_weights": False, "activation_function": "relu", "num_hidden_layers": 1},
    ),
)
