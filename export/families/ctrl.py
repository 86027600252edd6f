"""CTRL: a pre-norm decoder with scaled embeddings, sines of positions and a head with a bias.
https://arxiv.org/abs/1909.05858"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

from torch import nn

from precast.export.blocks.activations import activation
from precast.export.blocks.mlp import MLP
from precast.export.blocks.norms import LayerNorm
from precast.export.blocks.rotary import plain
from precast.export.blocks.sines import SteppedSines
from precast.export.families import gpt2
from precast.export.head_sets.decoders import (
    GPT_KEYS,
    ODD,
    TINY,
    biased_lm_head,
    causal_heads,
    layer,
    layer_norm,
    names,
    tied,
    words,
)
from precast.export.spec import hf
from precast.export.weights import Ignore, Rename, Rule
from precast.runtime.errors import ConfigError

__all__ = ["FAMILY", "CTRLSpec"]

_EPSILON = 1e-6  # of the norms in layers; the config's is the last one's


@dataclass(frozen=True, kw_only=True)
class CTRLSpec(gpt2.GPTSpec):
    """Upstream's defaults are CTRL's, but for the number of positions."""

    vocab_size: int = hf(default=246534)
    hidden_size: int = hf(("n_embd", "hidden_size"), default=1280)
    dff: int = hf(default=8192)
    num_hidden_layers: int = hf(("n_layer", "num_hidden_layers"), default=48)
    num_attention_heads: int = hf(("n_head", "num_attention_heads"), default=16)
    max_position_embeddings: int = hf(("n_positions", "max_position_embeddings"), default=256)
    layer_norm_eps: float = hf("layer_norm_epsilon", default=1e-6)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.hidden_size % 2:
            raise ConfigError(
                f"'n_embd' must be even: a sine and a cosine are added for each frequency; received {self.hidden_size}"
            )


def _layers(spec: CTRLSpec) -> list[nn.Module]:
    made = partial(
        layer,
        spec,
        norm=lambda spec: LayerNorm(spec.hidden_size, _EPSILON),
        mlp=lambda spec: MLP(spec.hidden_size, spec.dff, activation("relu")),
        bias=True,
    )
    return [made() for _ in range(spec.num_hidden_layers)]


def _embeddings(spec: CTRLSpec) -> nn.Module:
    hidden = spec.hidden_size
    sines = SteppedSines(hidden, plain(hidden, 10000.0), longest=spec.max_position_embeddings)
    return words(spec, scale=hidden**0.5, positions=sines)


def _weights(spec: CTRLSpec) -> tuple[Rule, ...]:
    attention = "h.{}.multi_head_attention."
    return (
        Rename("transformer.*", "*"),
        # A table of sines that was saved with the weights.
        Ignore("pos_encoding"),
        *(Rename(f"{attention}W{part}.*", f"model.layers.{{}}.self_attn.{part}_proj.*") for part in "qkv"),
        *names("h.{}", output="multi_head_attention.dense", attention_norm="layernorm1", mlp_norm="layernorm2"),
        *names("h.{}", up="ffn.0", down="ffn.2", embeddings="w", norm="layernorm"),
        *tied(spec),
    )


FAMILY = replace(
    gpt2.FAMILY,
    crossed=None,
    spec=CTRLSpec,
    heads=causal_heads(_layers, embeddings=_embeddings, norm=layer_norm, lm_head=biased_lm_head),
    weights=_weights,
    inert=GPT_KEYS,
    tiny={**TINY, "dff": 48},
    variations=(
        # 2 heads of 11 channels, a last norm of another kind than those in layers.
        {**ODD, "hidden_size": 22, "num_attention_heads": 2, "num_hidden_layers": 1, "dff": 37}
        | {"layer_norm_epsilon": 1e-3},
    ),
)
