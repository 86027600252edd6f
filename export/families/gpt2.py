"""GPT-2: a pre-norm decoder with learned positions; DialoGPT, CPM, GPT-Sw3 and Megatron-GPT2 are its checkpoints.
https://cdn.openai.com/better-language-models/language_models_are_unsupervised_multitask_learners.pdf"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from precast.export import heads
from precast.export.blocks.activations import Activation, activation
from precast.export.blocks.attention import CachedSelfAttention, head_size
from precast.export.blocks.embeddings import PlacedPositions
from precast.export.blocks.mlp import MLP
from precast.export.blocks.norms import LayerNorm
from precast.export.families import Family, TextSpec
from precast.export.generative import CausalLM
from precast.export.skeletons.decoder import Decoder, DecoderLayer, TokenEmbeddings
from precast.export.spec import hf
from precast.export.weights import Ignore, Rename, Rule, Split, Tie, Transpose

__all__ = ["FAMILY", "INERT_KEYS", "PACKED", "GPT2Spec", "causal_lm", "weights"]


@dataclass(frozen=True, kw_only=True)
class GPT2Spec(TextSpec):
    """Upstream's defaults are GPT-2 small's."""

    vocab_size: int = hf(default=50257)
    hidden_size: int = hf(("n_embd", "hidden_size"), default=768)
    layers: int = hf(("n_layer", "num_hidden_layers"), default=12)
    heads: int = hf(("n_head", "num_attention_heads"), default=12)
    positions: int = hf(("n_positions", "max_position_embeddings"), default=1024)
    inner: int | None = hf("n_inner", default=None)
    activation_function: Activation = hf(default=activation("gelu_new"), read=activation)
    layer_norm_epsilon: float = hf(default=1e-5)
    scale_attn_weights: bool = hf(default=True)
    scale_attn_by_inverse_layer_idx: bool = hf(default=False)

    def __post_init__(self) -> None:
        head_size(self.hidden_size, self.heads)

    def scale(self, layer: int) -> float:
        """The factor of a layer's attention scores."""
        size = head_size(self.hidden_size, self.heads)
        scale = size**-0.5 if self.scale_attn_weights else 1.0
        return scale / (layer + 1) if self.scale_attn_by_inverse_layer_idx else scale


def _layer(spec: GPT2Spec, index: int, kv_heads: int | None) -> DecoderLayer:
    return DecoderLayer(
        attention=CachedSelfAttention(
            spec.hidden_size, heads=spec.heads, kv_heads=kv_heads, bias=True, scale=spec.scale(index)
        ),
        attention_norm=LayerNorm(spec.hidden_size, spec.layer_norm_epsilon),
        mlp=MLP(spec.hidden_size, spec.inner or 4 * spec.hidden_size, spec.activation_function),
        mlp_norm=LayerNorm(spec.hidden_size, spec.layer_norm_epsilon),
    )


def causal_lm(spec: GPT2Spec, kv_heads: int | None = None) -> nn.Module:
    """The whole model; GPTBigCode has the same one with ``kv_heads``."""
    return CausalLM(
        Decoder(
            embeddings=TokenEmbeddings(
                spec.vocab_size, spec.hidden_size, positions=PlacedPositions(spec.positions, spec.hidden_size)
            ),
            layers=[_layer(spec, index, kv_heads) for index in range(spec.layers)],
            norm=LayerNorm(spec.hidden_size, spec.layer_norm_epsilon),
        ),
        nn.Linear(spec.hidden_size, spec.vocab_size, bias=False),
    )


# What splits a packed projection of queries, keys and values.
PACKED = ("h.{}.attn.c_attn.*", tuple(f"model.layers.{{}}.self_attn.{part}_proj.*" for part in "qkv"))


def weights(spec: GPT2Spec, *first: Rule) -> tuple[Rule, ...]:
    """Rules from GPT-2's names; ``first`` bring weights to [out, in] and split `PACKED`."""
    old, new = "h.{}", "model.layers.{}"
    return (
        Rename("transformer.*", "*"),
        # Causal masks that were saved with the weights.
        Ignore(f"{old}.attn.bias"),
        Ignore(f"{old}.attn.masked_bias"),
        *first,
        Rename(f"{old}.attn.c_proj.*", f"{new}.self_attn.o_proj.*"),
        Rename(f"{old}.ln_1.*", f"{new}.attention_norm.*"),
        Rename(f"{old}.ln_2.*", f"{new}.mlp_norm.*"),
        Rename(f"{old}.mlp.c_fc.*", f"{new}.mlp.up_proj.*"),
        Rename(f"{old}.mlp.c_proj.*", f"{new}.mlp.down_proj.*"),
        Rename("wte.*", "model.embeddings.words.*"),
        Rename("wpe.*", "model.embeddings.positions.table.*"),
        Rename("ln_f.*", "model.norm.*"),
        *((Tie("lm_head.weight", "model.embeddings.words.weight"),) if spec.tie_word_embeddings else ()),
    )


def _weights(spec: GPT2Spec) -> tuple[Rule, ...]:
    # Upstream's Conv1D keeps [in, out].
    names = ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
    return weights(spec, *(Transpose(f"h.{{}}.{name}.weight") for name in names), Split(*PACKED))


# The first two are Megatron's, in configs of GPT-Sw3: how it kept numbers small in float16, computing the same.
INERT_KEYS = frozenset(
    """n_ctx reorder_and_upcast_attn attn_pdrop embd_pdrop resid_pdrop summary_activation summary_first_dropout
    summary_proj_to_labels summary_type summary_use_proj""".split()
)

FAMILY = Family(
    spec=GPT2Spec,
    heads={heads.CAUSAL_LM: lambda spec, absent: causal_lm(spec)},
    weights=_weights,
    limits=lambda spec: spec.positions,
    final_norm=True,
    inert=INERT_KEYS,
    tiny={"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 160, "vocab_size": 99},
    variations=(
        # Odd sizes: 3 heads of 7 channels, another width, scores scaled by the layer, head apart.
        {
            "n_embd": 21,
            "n_head": 3,
            "n_inner": 37,
            "n_layer": 3,
            "activation_function": "gelu",
            "scale_attn_by_inverse_layer_idx": True,
            "tie_word_embeddings": False,
            "vocab_size": 131,
            "layer_norm_epsilon": 1e-3,
        },
        {"scale_attn_weights": False, "activation_function": "relu", "n_layer": 1},
    ),
)
