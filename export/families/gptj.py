"""GPT-J: attention and MLP beside each other behind one norm, rotary positions on pairs of neighbouring channels, a
head with a bias. https://github.com/kingoflolz/mesh-transformer-jax, https://arxiv.org/abs/2104.09864"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from precast.export import heads
from precast.export.blocks.activations import Activation, activation
from precast.export.blocks.attention import CachedSelfAttention, head_size
from precast.export.blocks.mlp import MLP
from precast.export.blocks.norms import LayerNorm
from precast.export.blocks.rotary import SteppedRotary, plain
from precast.export.families import Family, TextSpec
from precast.export.generative import CausalLM
from precast.export.skeletons.decoder import Decoder, ParallelLayer, TokenEmbeddings
from precast.export.spec import hf
from precast.export.weights import Ignore, Rename, Rule, Tie
from precast.runtime.errors import ConfigError

__all__ = ["FAMILY", "INERT_KEYS", "GPTJSpec", "causal_lm", "weights"]

_BASE = 10000.0


@dataclass(frozen=True, kw_only=True)
class GPTJSpec(TextSpec):
    """Upstream's defaults are GPT-J 6B's."""

    vocab_size: int = hf(default=50400)
    hidden_size: int = hf(("n_embd", "hidden_size"), default=4096)
    layers: int = hf(("n_layer", "num_hidden_layers"), default=28)
    heads: int = hf(("n_head", "num_attention_heads"), default=16)
    positions: int = hf(("n_positions", "max_position_embeddings"), default=2048)
    inner: int | None = hf("n_inner", default=None)
    rotary_dim: int | None = hf(default=64)
    activation_function: Activation = hf(default=activation("gelu_new"), read=activation)
    layer_norm_epsilon: float = hf(default=1e-5)
    tie_word_embeddings: bool = hf(default=False)
    # A key of old configs that nothing reads: models are as if it were true.
    scale_attn_weights: bool = hf(default=True, only=(True,))

    def __post_init__(self) -> None:
        size = head_size(self.hidden_size, self.heads)
        if self.rotary_dim is None or self.rotary_dim % 2 or not 2 <= self.rotary_dim <= size:
            raise ConfigError(
                f"'rotary_dim' is how many of a head's {size} channels are turned in pairs: an even number from 2 on; "
                f"received {self.rotary_dim}"
            )


def _layer(spec: GPTJSpec, positions: SteppedRotary) -> nn.Module:
    return ParallelLayer(
        attention=CachedSelfAttention(spec.hidden_size, heads=spec.heads, positions=positions),
        attention_norm=LayerNorm(spec.hidden_size, spec.layer_norm_epsilon),
        mlp=MLP(spec.hidden_size, spec.inner or 4 * spec.hidden_size, spec.activation_function),
    )


def causal_lm(spec: GPTJSpec, absent: frozenset[str]) -> nn.Module:
    """The whole model; CodeGen has the same one."""
    assert spec.rotary_dim is not None
    positions = SteppedRotary(spec.rotary_dim, plain(spec.rotary_dim, _BASE), interleaved=True)
    return CausalLM(
        Decoder(
            embeddings=TokenEmbeddings(spec.vocab_size, spec.hidden_size),
            layers=[_layer(spec, positions) for _ in range(spec.layers)],
            norm=LayerNorm(spec.hidden_size, spec.layer_norm_epsilon),
        ),
        nn.Linear(spec.hidden_size, spec.vocab_size),
    )


def weights(spec: GPTJSpec) -> tuple[Rule, ...]:
    """Rules for everything but queries, keys and values."""
    old, new = "h.{}", "model.layers.{}"
    return (
        Rename("transformer.*", "*"),
        # Causal masks and sines that were saved with the weights.
        Ignore(f"{old}.attn.bias"),
        Ignore(f"{old}.attn.masked_bias"),
        Ignore(f"{old}.attn.causal_mask"),
        Ignore(f"{old}.attn.embed_positions"),
        Rename(f"{old}.attn.out_proj.*", f"{new}.self_attn.o_proj.*"),
        Rename(f"{old}.ln_1.*", f"{new}.attention_norm.*"),
        Rename(f"{old}.mlp.fc_in.*", f"{new}.mlp.up_proj.*"),
        Rename(f"{old}.mlp.fc_out.*", f"{new}.mlp.down_proj.*"),
        Rename("wte.*", "model.embeddings.words.*"),
        Rename("ln_f.*", "model.norm.*"),
        *((Tie("lm_head.weight", "model.embeddings.words.weight"),) if spec.tie_word_embeddings else ()),
    )


def _weights(spec: GPTJSpec) -> tuple[Rule, ...]:
    return (*weights(spec), Rename("h.{}.attn.*", "model.layers.{}.self_attn.*"))


INERT_KEYS = frozenset(
    """n_ctx attn_pdrop embd_pdrop resid_pdrop summary_activation summary_first_dropout summary_proj_to_labels
    summary_type summary_use_proj""".split()
)

FAMILY = Family(
    spec=GPTJSpec,
    heads={heads.CAUSAL_LM: causal_lm},
    weights=_weights,
    limits=lambda spec: spec.positions,
    final_norm=True,
    inert=INERT_KEYS,
    tiny={"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 160, "rotary_dim": 4, "vocab_size": 99},
    variations=(
        # Odd sizes: 3 heads of 10 channels, 6 of them turned, another width, a tied head.
        {
            "n_embd": 30,
            "n_head": 3,
            "n_inner": 37,
            "rotary_dim": 6,
            "activation_function": "gelu",
            "tie_word_embeddings": True,
            "vocab_size": 131,
            "layer_norm_epsilon": 1e-3,
        },
        # Whole heads turned.
        {"n_layer": 1, "rotary_dim": 8, "activation_function": "relu"},
    ),
)
