"""GPT-2: a pre-norm decoder with learned positions; DialoGPT, CPM, GPT-Sw3 and Megatron-GPT2 are its checkpoints.
https://cdn.openai.com/better-language-models/language_models_are_unsupervised_multitask_learners.pdf"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from torch import nn

from precast.export.blocks.activations import Activation, activation
from precast.export.blocks.attention import CrossAttention
from precast.export.families import Crossed, Family
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
from precast.export.heads import CAUSAL_LM
from precast.export.skeletons.decoder import DecoderLayer
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


def _layers(spec: GPT2Spec, source: int | None = None) -> list[nn.Module]:
    """``source``: channels of an encoder's states that they attend to."""
    made = []
    for scale in map(spec.scale, range(spec.num_hidden_layers)):
        kind: Callable[..., nn.Module] = DecoderLayer
        if source is not None:
            cross = CrossAttention(spec.hidden_size, heads=spec.num_attention_heads, source=source, scale=scale)
            kind = partial(DecoderLayer, cross=cross, cross_norm=layer_norm(spec))
        made.append(layer(spec, norm=layer_norm, mlp=mlp, kind=kind, bias=True, scale=scale))
    return made


def _crossed(spec: GPT2Spec, source: int) -> nn.Module:
    return _heads(partial(_layers, source=source))[CAUSAL_LM](spec, frozenset())


_LAYER = {"output": "attn.c_proj", "attention_norm": "ln_1", "mlp_norm": "ln_2", "up": "mlp.c_fc", "down": "mlp.c_proj"}
NAMES = names("h.{}", **_LAYER, embeddings="wte", positions="wpe", norm="ln_f")
# Upstream's Conv1D keeps [in, out].
UPRIGHT = tuple(Transpose(f"h.{{}}.{name}.weight") for name in ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"))


def weights(spec: GPTSpec, *first: Rule) -> tuple[Rule, ...]:
    """Rules from GPT-2's names; ``first`` bring weights to [out, in] and split ``h.{}.attn.c_attn``."""
    # Causal masks that were saved with the weights.
    masks = (Ignore("h.{}.attn.bias"), Ignore("h.{}.attn.masked_bias"))
    return (Rename("transformer.*", "*"), *masks, *first, *NAMES, *tied(spec))


_CROSS = "model.layers.{}.cross_attn."
_CROSS_NAMES = (
    *map(Ignore, ("h.{}.crossattention.bias", "h.{}.crossattention.masked_bias")),
    *(Transpose(f"h.{{}}.crossattention.{name}.weight") for name in ("c_attn", "q_attn", "c_proj")),
    Split("h.{}.crossattention.c_attn.*", (f"{_CROSS}k_proj.*", f"{_CROSS}v_proj.*")),
    Rename("h.{}.crossattention.q_attn.*", f"{_CROSS}q_proj.*"),
    Rename("h.{}.crossattention.c_proj.*", f"{_CROSS}o_proj.*"),
    Rename("h.{}.ln_cross_attn.*", "model.layers.{}.cross_norm.*"),
)


def _weights(spec: GPT2Spec) -> tuple[Rule, ...]:
    return weights(spec, *UPRIGHT, Split("h.{}.attn.c_attn.*", QKV))


_heads = partial(causal_heads, embeddings=placed, norm=layer_norm)

FAMILY = Family(
    spec=GPT2Spec,
    heads=_heads(_layers, classes=True),
    weights=_weights,
    crossed=Crossed(_crossed, weights=lambda spec: (Rename("transformer.*", "*"), *_CROSS_NAMES, *_weights(spec))),
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
