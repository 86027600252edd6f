"""BioGPT: a pre-norm decoder with scaled embeddings and learned positions. https://arxiv.org/abs/2210.10341"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from torch import nn

from precast.export.blocks.activations import Activation, activation
from precast.export.blocks.embeddings import PlacedPositions
from precast.export.families import opt
from precast.export.head_sets.decoders import (
    ODD,
    TINY,
    DecoderSpec,
    causal_heads,
    layer,
    layer_norm,
    mlp,
    names,
    tied,
    words,
)
from precast.export.spec import hf
from precast.export.weights import Rename, Rule

__all__ = ["FAMILY", "BioGptSpec", "layers"]


@dataclass(frozen=True, kw_only=True)
class BioGptSpec(DecoderSpec):
    """Upstream's defaults are BioGPT's."""

    vocab_size: int = hf(default=42384)
    hidden_size: int = hf(default=1024)
    num_hidden_layers: int = hf(default=24)
    num_attention_heads: int = hf(default=16)
    intermediate_size: int = hf(default=4096)
    hidden_act: Activation = hf(default=activation("gelu"), read=activation)
    max_position_embeddings: int = hf(default=1024)
    scale_embedding: bool = hf(default=True)
    layer_norm_eps: ClassVar[float] = 1e-5  # upstream's norms do not read the config's

    @property
    def embedding_scale(self) -> float | None:
        """Factor of the embeddings of words."""
        return self.hidden_size**0.5 if self.scale_embedding else None


def layers(spec: BioGptSpec) -> list[nn.Module]:
    """XGLM has the same ones."""
    return [layer(spec, norm=layer_norm, mlp=mlp, bias=True) for _ in range(spec.num_hidden_layers)]


def _embeddings(spec: BioGptSpec) -> nn.Module:
    positions = PlacedPositions(spec.max_position_embeddings, spec.hidden_size)
    return words(spec, scale=spec.embedding_scale, positions=positions)


def _weights(spec: BioGptSpec) -> tuple[Rule, ...]:
    ends = names(norm="layer_norm", head="output_projection")
    return (Rename("biogpt.*", "*"), *opt.NAMES, *opt.POSITIONS, *ends, *tied(spec))


FAMILY = replace(
    opt.FAMILY,
    spec=BioGptSpec,
    heads=causal_heads(layers, embeddings=_embeddings, norm=layer_norm),
    weights=_weights,
    inert=frozenset({"activation_dropout", "layer_norm_eps", "layerdrop"}),
    tiny={**TINY, "intermediate_size": 48},
    variations=(
        {**ODD, "num_hidden_layers": 1, "intermediate_size": 37, "hidden_act": "relu", "scale_embedding": False},
    ),
)
