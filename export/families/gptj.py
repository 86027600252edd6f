"""GPT-J: attention and MLP beside each other behind one norm, rotary positions on pairs of neighbouring channels, a
head with a bias. https://github.com/kingoflolz/mesh-transformer-jax, https://arxiv.org/abs/2104.09864"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from precast.export.blocks.activations import Activation, activation
from precast.export.blocks.rotary import SteppedRotary, plain
from precast.export.families import Family, gpt2
from precast.export.head_sets.decoders import (
    GPT_KEYS,
    ODD,
    TINY,
    attention,
    biased_lm_head,
    causal_heads,
    layer_norm,
    mlp,
    names,
    tied,
)
from precast.export.skeletons.decoder import ParallelLayer
from precast.export.spec import hf
from precast.export.weights import Ignore, Rename, Rule
from precast.runtime.errors import ConfigError

__all__ = ["FAMILY", "GPTJSpec", "weights"]

_BASE = 10000.0


@dataclass(frozen=True, kw_only=True)
class GPTJSpec(gpt2.GPTSpec):
    """Upstream's defaults are GPT-J 6B's."""

    vocab_size: int = hf(default=50400)
    hidden_size: int = hf(("n_embd", "hidden_size"), default=4096)
    num_hidden_layers: int = hf(("n_layer", "num_hidden_layers"), default=28)
    num_attention_heads: int = hf(("n_head", "num_attention_heads"), default=16)
    max_position_embeddings: int = hf(("n_positions", "max_position_embeddings"), default=2048)
    intermediate_size: int | None = hf("n_inner", default=None)
    rotary_dim: int | None = hf(default=64)
    hidden_act: Activation = hf("activation_function", default=activation("gelu_new"), read=activation)
    tie_word_embeddings: bool = hf(default=False)
    # A key of old configs that nothing reads: models are as if it were true.
    scale_attn_weights: bool = hf(default=True, only=(True,))

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rotary_dim is None or self.rotary_dim % 2 or not 2 <= self.rotary_dim <= self.size:
            raise ConfigError(
                f"'rotary_dim' is how many of a head's {self.size} channels are turned in pairs: an even number from 2 "
                f"on; received {self.rotary_dim}"
            )


def _layers(spec: GPTJSpec) -> list[nn.Module]:
    assert spec.rotary_dim is not None
    positions = SteppedRotary(
        spec.rotary_dim, plain(spec.rotary_dim, _BASE), interleaved=True, longest=spec.max_position_embeddings
    )
    return [
        ParallelLayer(attention=attention(spec, positions=positions), attention_norm=layer_norm(spec), mlp=mlp(spec))
        for _ in range(spec.num_hidden_layers)
    ]


_LAYER = {"output": "attn.out_proj", "attention_norm": "ln_1", "up": "mlp.fc_in", "down": "mlp.fc_out"}


def weights(spec: GPTJSpec) -> tuple[Rule, ...]:
    """Rules for everything but queries, keys and values."""
    # Causal masks and sines that were saved with the weights.
    saved = ("bias", "masked_bias", "causal_mask", "embed_positions")
    return (
        Rename("transformer.*", "*"),
        *(Ignore(f"h.{{}}.attn.{name}") for name in saved),
        *names("h.{}", **_LAYER, embeddings="wte", norm="ln_f"),
        *tied(spec),
    )


FAMILY = Family(
    spec=GPTJSpec,
    heads=causal_heads(_layers, norm=layer_norm, lm_head=biased_lm_head, classes=True),
    weights=lambda spec: (*weights(spec), *names("h.{}", attention="attn")),
    final_norm=True,
    inert=GPT_KEYS,
    tiny={**TINY, "rotary_dim": 4},
    variations=(
        # Heads of 10 channels, 6 of them turned, another width, a tied head.
        {**ODD, "hidden_size": 30, "n_inner": 37, "rotary_dim": 6, "tie_word_embeddings": True}
        | {"activation_function": "gelu", "layer_norm_epsilon": 1e-3},
        # Whole heads turned.
        {"num_hidden_layers": 1, "rotary_dim": 8, "activation_function": "relu"},
    ),
)
