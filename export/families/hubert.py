"""HuBERT: wav2vec 2.0's encoder, trained to tell clusters of hidden frames. https://arxiv.org/abs/2106.07447"""

from __future__ import annotations

from dataclasses import dataclass

from precast.export.blocks.convolution import COUNTERS, BatchNorm
from precast.export.families import Family
from precast.export.head_sets.sound import speech_heads
from precast.export.skeletons.speech_encoder import (
    ENCODER_NAMES,
    INERT,
    ODD,
    TINY,
    SpeechEncoder,
    SpeechSpec,
    encoder,
    layer,
    names,
    positions,
    speech,
)
from precast.export.spec import hf
from precast.export.weights import Rename

__all__ = ["FAMILY"]


@dataclass(frozen=True, kw_only=True)
class Spec(SpeechSpec):
    """And norms: of what tells where frames stand, and of frames."""

    conv_pos_batch_norm: bool = hf(default=False)
    feat_proj_layer_norm: bool = hf(default=True)


def _body(spec: Spec) -> SpeechEncoder:
    placed = positions(spec, BatchNorm(spec.hidden_size) if spec.conv_pos_batch_norm else None)
    layers = (layer(spec) for _ in range(spec.num_hidden_layers))
    return speech(spec, encoder(spec, layers, placed), normed=spec.feat_proj_layer_norm)


_ENCODER = (COUNTERS, Rename("pos_conv_embed.batch_norm.*", "positions.norm.*"), *ENCODER_NAMES)

FAMILY = Family(
    spec=Spec,
    heads=speech_heads(_body, features=False, every=False),
    weights=lambda spec: names(spec, "hubert", encoder=_ENCODER),
    inert=INERT,
    tiny=TINY,
    variations=({**ODD, "conv_pos_batch_norm": True}, {"feat_proj_layer_norm": False, "conv_bias": True}),
)
