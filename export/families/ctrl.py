"""CTRL: a pre-norm decoder with scaled embeddings, sines of positions and a head with a bias.
https://arxiv.org/abs/1909.05858"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from precast.export import heads
from precast.export.blocks.activations import activation
from precast.export.blocks.attention import CachedSelfAttention, head_size
from precast.export.blocks.mlp import MLP
from precast.export.blocks.norms import LayerNorm
from precast.export.blocks.rotary import plain
from precast.export.blocks.sines import SteppedSines
from precast.export.families import Family, TextSpec
from precast.export.generative import CausalLM
from precast.export.skeletons.decoder import Decoder, DecoderLayer, TokenEmbeddings
from precast.export.spec import hf
from precast.export.weights import Ignore, Rename, Rule, Tie
from precast.runtime.errors import ConfigError

__all__ = ["FAMILY", "CTRLSpec"]

_EPSILON = 1e-6  # of the norms in layers; the config's is the last one's


@dataclass(frozen=True, kw_only=True)
class CTRLSpec(TextSpec):
    """Upstream's defaults are CTRL's, but for the number of positions."""

    vocab_size: int = hf(default=246534)
    hidden_size: int = hf(("n_embd", "hidden_size"), default=1280)
    dff: int = hf(default=8192)
    layers: int = hf(("n_layer", "num_hidden_layers"), default=48)
    heads: int = hf(("n_head", "num_attention_heads"), default=16)
    positions: int = hf(("n_positions", "max_position_embeddings"), default=256)
    layer_norm_epsilon: float = hf(default=1e-6)

    def __post_init__(self) -> None:
        head_size(self.hidden_size, self.heads)
        if self.hidden_size % 2:
            raise ConfigError(
                f"'n_embd' must be even: a sine and a cosine are added for each frequency; received {self.hidden_size}"
            )


def _layer(spec: CTRLSpec) -> DecoderLayer:
    hidden = spec.hidden_size
    return DecoderLayer(
        attention=CachedSelfAttention(hidden, heads=spec.heads, bias=True),
        attention_norm=LayerNorm(hidden, _EPSILON),
        mlp=MLP(hidden, spec.dff, activation("relu")),
        mlp_norm=LayerNorm(hidden, _EPSILON),
    )


def _causal_lm(spec: CTRLSpec, absent: frozenset[str]) -> nn.Module:
    hidden = spec.hidden_size
    return CausalLM(
        Decoder(
            embeddings=TokenEmbeddings(
                spec.vocab_size, hidden, scale=hidden**0.5, positions=SteppedSines(hidden, plain(hidden, 10000.0))
            ),
            layers=[_layer(spec) for _ in range(spec.layers)],
            norm=LayerNorm(hidden, spec.layer_norm_epsilon),
        ),
        nn.Linear(hidden, spec.vocab_size),
    )


def _weights(spec: CTRLSpec) -> tuple[Rule, ...]:
    old, new = "h.{}", "model.layers.{}"
    return (
        Rename("transformer.*", "*"),
        # A table of sines that was saved with the weights.
        Ignore("pos_encoding"),
        *(Rename(f"{old}.multi_head_attention.W{part}.*", f"{new}.self_attn.{part}_proj.*") for part in "qkv"),
        Rename(f"{old}.multi_head_attention.dense.*", f"{new}.self_attn.o_proj.*"),
        Rename(f"{old}.layernorm1.*", f"{new}.attention_norm.*"),
        Rename(f"{old}.layernorm2.*", f"{new}.mlp_norm.*"),
        Rename(f"{old}.ffn.0.*", f"{new}.mlp.up_proj.*"),
        Rename(f"{old}.ffn.2.*", f"{new}.mlp.down_proj.*"),
        Rename("w.*", "model.embeddings.words.*"),
        Rename("layernorm.*", "model.norm.*"),
        *((Tie("lm_head.weight", "model.embeddings.words.weight"),) if spec.tie_word_embeddings else ()),
    )


FAMILY = Family(
    spec=CTRLSpec,
    heads={heads.CAUSAL_LM: _causal_lm},
    weights=_weights,
    limits=lambda spec: spec.positions,
    final_norm=True,
    inert=frozenset(
        """n_ctx attn_pdrop embd_pdrop resid_pdrop summary_activation summary_first_dropout
        summary_proj_to_labels summary_type summary_use_proj""".split()
    ),
    tiny={"n_embd": 32, "dff": 48, "n_layer": 2, "n_head": 4, "n_positions": 160, "vocab_size": 99},
    variations=(
        # Odd sizes: 2 heads of 11 channels, a head apart, a last norm of another kind than those in layers.
        {
            "n_embd": 22,
            "dff": 37,
            "n_layer": 1,
            "n_head": 2,
            "layer_norm_epsilon": 1e-3,
            "tie_word_embeddings": False,
            "vocab_size": 131,
        },
    ),
)
