"""GPT-2: a pre-norm decoder with learned positions; DialoGPT, CPM, GPT-Sw3 and Megatron-GPT2 are its checkpoints.
https://cdn.openai.com/better-language-models/language_models_are_unsupervised_multitask_learners.pdf"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from precast.export.blocks.activations import Activation, activation
from precast.export.families import Family
from precast.export.head_sets.decoders import (
    GPT_KEYS,
    ODD,
    QKV,
    TINY,
    DecoderSpec,
    causal_heads,
    layer,
    layer_norm,
    mlp,
    names,
    placed,
    tied,
)
from precast.export.spec import hf
from precast.export.weights import Ignore, Rename, Rule, Split, Transpose

__all__ = ["FAMILY", "NAMES", "UPRIGHT", "GPT2Spec", "GPTSpec", "weights"]


@dataclass(frozen=True, kw_only=True)
class GPTSpec(DecoderSpec):
    """Keys of GPT and its relatives; upstream's defaults are GPT-2 small's."""

    vocab_size: int = hf(default=50257)
    hidden_size: int = hf(("n_embd", "hidden_size"), default=768)
    num_hidden_layers: int = hf(("n_layer", "num_hidden_layers"), default=12)
    num_attention_heads: int = hf(("n_head", "num_attention_heads"), default=12)
    max_position_embeddings: int = hf(("n_positions", "max_position_embeddings"), default=1024)
    layer_norm_eps: float = hf("layer_norm_epsilon", default=1e-5)


@dataclass(frozen=True, kw_only=True)
class GPT2Spec(GPTSpec):
    """And what GPT-2 has besides."""

    intermediate_size: int | None = hf("n_inner", default=None)
    hidden_act: Activation = hf("activation_function", default=activation("gelu_new"), read=activation)
    scale_attn_weights: bool = hf(default=True)
    scale_attn_by_inverse_layer_idx: bool = hf(default=False)

    def scale(self, index: int) -> float:
        """The factor of a layer's attention scores."""
        scale = self.size**-0.5 if self.scale_attn_weights else 1.0
        return scale / (index + 1) if self.scale_attn_by_inverse_layer_idx else scale


def _layers(spec: GPT2Spec) -> list[nn.Module]:
    scales = map(spec.scale, range(spec.num_hidden_layers))
    return [layer(spec, norm=layer_norm, mlp=mlp, bias=True, scale=scale) for scale in scales]


_LAYER = {"output": "attn.c_proj", "attention_norm": "ln_1", "mlp_norm": "ln_2", "up": "mlp.c_fc", "down": "mlp.c_proj"}
NAMES = names("h.{}", **_LAYER, embeddings="wte", positions="wpe", norm="ln_f")
# Upstream's Conv1D keeps [in, out].
UPRIGHT = tuple(Transpose(f"h.{{}}.{name}.weight") for name in ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"))


def weights(spec: GPTSpec, *first: Rule) -> tuple[Rule, ...]:
    """Rules from GPT-2's names; ``first`` bring weights to [out, in] and split ``h.{}.attn.c_attn``."""
    # Causal masks that were saved with the weights.
    masks = (Ignore("h.{}.attn.bias"), Ignore("h.{}.attn.masked_bias"))
    return (Rename("transformer.*", "*"), *masks, *first, *NAMES, *tied(spec))


FAMILY = Family(
    spec=GPT2Spec,
    heads=causal_heads(_layers, embeddings=placed, norm=layer_norm),
    weights=lambda spec: weights(spec, *UPRIGHT, Split("h.{}.attn.c_attn.*", QKV)),
    final_norm=True,
    # Megatron's, in configs of GPT-Sw3: how it kept numbers small in float16, computing the same.
    inert=GPT_KEYS | {"reorder_and_upcast_attn"},
    tiny=TINY,
    variations=(
        # Another width, scores scaled by the layer.
        {**ODD, "num_hidden_layers": 3, "n_inner": 37, "activation_function": "gelu", "layer_norm_epsilon": 1e-3}
        | {"scale_attn_by_inverse_layer_idx": True},
        {"scale_attn_weights": False, "activation_function": "relu", "num_hidden_layers": 1},
    ),
)
