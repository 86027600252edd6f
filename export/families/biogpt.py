"""BioGPT: a pre-norm decoder with scaled embeddings and learned positions. https://arxiv.org/abs/2210.10341"""

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
from precast.export.families.opt import layer_names
from precast.export.generative import CausalLM
from precast.export.skeletons.decoder import Decoder, DecoderLayer, TokenEmbeddings
from precast.export.spec import hf
from precast.export.weights import Narrow, Rename, Rule, Tie

__all__ = ["FAMILY", "BioGptSpec", "causal_lm"]

# Upstream's norms do not read the config's `layer_norm_eps`.
_EPSILON = 1e-5
_OFFSET = 2  # rows of the table of positions before the first one's


@dataclass(frozen=True, kw_only=True)
class BioGptSpec(TextSpec):
    """Upstream's defaults are BioGPT's."""

    vocab_size: int = hf(default=42384)
    hidden_size: int = hf(default=1024)
    num_hidden_layers: int = hf(default=24)
    num_attention_heads: int = hf(default=16)
    intermediate_size: int = hf(default=4096)
    hidden_act: Activation = hf(default=activation("gelu"), read=activation)
    max_position_embeddings: int = hf(default=1024)
    scale_embedding: bool = hf(default=True)

    def __post_init__(self) -> None:
        head_size(self.hidden_size, self.num_attention_heads)


def _layer(spec: BioGptSpec) -> DecoderLayer:
    return DecoderLayer(
        attention=CachedSelfAttention(spec.hidden_size, heads=spec.num_attention_heads, bias=True),
        attention_norm=LayerNorm(spec.hidden_size, _EPSILON),
        mlp=MLP(spec.hidden_size, spec.intermediate_size, spec.hidden_act),
        mlp_norm=LayerNorm(spec.hidden_size, _EPSILON),
    )


def causal_lm(spec: BioGptSpec, positions: nn.Module) -> nn.Module:
    """The whole model with ``positions`` added to its embeddings."""
    return CausalLM(
        Decoder(
            embeddings=TokenEmbeddings(
                spec.vocab_size,
                spec.hidden_size,
                scale=spec.hidden_size**0.5 if spec.scale_embedding else None,
                positions=positions,
            ),
            layers=[_layer(spec) for _ in range(spec.num_hidden_layers)],
            norm=LayerNorm(spec.hidden_size, _EPSILON),
        ),
        nn.Linear(spec.hidden_size, spec.vocab_size, bias=False),
    )


def _causal_lm(spec: BioGptSpec, absent: frozenset[str]) -> nn.Module:
    return causal_lm(spec, PlacedPositions(spec.max_position_embeddings, spec.hidden_size))


def _weights(spec: BioGptSpec) -> tuple[Rule, ...]:
    return (
        Rename("biogpt.*", "*"),
        *layer_names(),
        Narrow("embed_positions.weight", _OFFSET),
        Rename("embed_tokens.*", "model.embeddings.words.*"),
        Rename("embed_positions.*", "model.embeddings.positions.table.*"),
        Rename("layer_norm.*", "model.norm.*"),
        Rename("output_projection.*", "lm_head.*"),
        *((Tie("lm_head.weight", "model.embeddings.words.weight"),) if spec.tie_word_embeddings else ()),
    )


FAMILY = Family(
    spec=BioGptSpec,
    heads={heads.CAUSAL_LM: _causal_lm},
    weights=_weights,
    limits=lambda spec: spec.max_position_embeddings,
    final_norm=True,
    inert=frozenset({"activation_dropout", "layer_norm_eps", "layerdrop"}),
    tiny={
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 48,
        "max_position_embeddings": 160,
        "vocab_size": 99,
    },
    variations=(
        # Odd sizes: 3 heads of 7 channels, nothing scaled, a head apart.
        {
            "hidden_size": 21,
            "num_hidden_layers": 1,
            "num_attention_heads": 3,
            "intermediate_size": 37,
            "hidden_act": "relu",
            "scale_embedding": False,
            "tie_word_embeddings": False,
            "vocab_size": 131,
        },
    ),
)
