"""wav2vec 2.0 with conformer layers, which know where frames stand by rotation or by distance.
https://arxiv.org/abs/2010.05171"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from precast.export.blocks.attention import SelfAttention
from precast.export.blocks.conformer import (
    ConformerConvolution,
    ConformerLayer,
    DistanceAttention,
    Distances,
    TurnedAttention,
    Turns,
    layer_names,
)
from precast.export.blocks.mlp import MLP
from precast.export.families import wav2vec2
from precast.export.head_sets.sound import speech_heads, xvector_names
from precast.export.skeletons.speech_encoder import (
    INERT,
    ODD,
    SPEAKERS,
    TINY,
    AdapterSpec,
    PreNormFrames,
    SpeechEncoder,
    adapter,
    names,
    norm,
    speech,
)
from precast.export.spec import hf
from precast.export.weights import Ignore, Rename, Rule
from precast.runtime.errors import ConfigError

__all__ = ["FAMILY"]


@dataclass(frozen=True, kw_only=True)
class Spec(AdapterSpec):
    """And what a conformer has beside. Convolutions that would tell where frames stand are kept and not used."""

    position_embeddings_type: str | None = hf(default="relative", only=("relative", "rotary", None))
    rotary_embedding_base: float = hf(default=10000)
    conv_depthwise_kernel_size: int = hf(default=31)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.conv_depthwise_kernel_size % 2 == 0:
            raise ConfigError(f"'conv_depthwise_kernel_size' {self.conv_depthwise_kernel_size} must be odd")

    @property
    def head(self) -> int:
        """Channels of a head."""
        return self.hidden_size // self.num_attention_heads


_ATTENTION = {"relative": DistanceAttention, "rotary": TurnedAttention, None: SelfAttention}


def _layer(spec: Spec) -> nn.Module:
    size, act = spec.hidden_size, spec.hidden_act
    return ConformerLayer(
        size,
        1e-5,
        first=MLP(size, spec.intermediate_size, act),
        attention=_ATTENTION[spec.position_embeddings_type](size, heads=spec.num_attention_heads),
        conv=ConformerConvolution(size, spec.conv_depthwise_kernel_size, act),
        second=MLP(size, spec.intermediate_size, act),
    )


def _body(spec: Spec) -> SpeechEncoder:
    places = {
        "relative": lambda: Distances(spec.hidden_size),
        "rotary": lambda: Turns(spec.head, spec.rotary_embedding_base),
        None: lambda: None,
    }[spec.position_embeddings_type]()
    layers = (_layer(spec) for _ in range(spec.num_hidden_layers))
    return speech(spec, PreNormFrames(layers, norm(spec), None, places), adapter=adapter(spec))


_ENCODER = (Ignore("pos_conv_embed.*"), Ignore("embed_positions.*"), Rename("layer_norm.*", "norm.*"))


def _weights(spec: Any) -> tuple[Rule, ...]:
    made = names(spec, "wav2vec2_conformer", encoder=_ENCODER, layer=layer_names(spec.hidden_size))
    return (*made, *xvector_names(spec))


FAMILY = replace(
    wav2vec2.FAMILY,
    model_type="wav2vec2-conformer",
    spec=Spec,
    heads=speech_heads(_body),
    weights=_weights,
    inert=INERT | {"conformer_conv_dropout", "max_source_positions"},
    tiny={**TINY, **SPEAKERS, "conv_depthwise_kernel_size": 5, "max_source_positions": 50},
    variations=(
        {**ODD, "hidden_size": 24, "position_embeddings_type": "rotary", "rotary_embedding_base": 100}
        | {"conv_depthwise_kernel_size": 3},
        {"position_embeddings_type": None, "add_adapter": True, "num_adapter_layers": 1, "output_hidden_size": 20},
    ),
)
