"""data2vec over sound: wav2vec 2.0's encoder, where several convolutions one after the other tell where frames stand.
https://arxiv.org/abs/2202.03555"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from precast.export.blocks.frames import ConvolvedPositions
from precast.export.blocks.tables import Table
from precast.export.families import Family
from precast.export.head_sets.sound import speech_heads, xvector_names
from precast.export.skeletons.speech_encoder import (
    INERT,
    ODD,
    SPEAKERS,
    TINY,
    AdapterSpec,
    SpeechEncoder,
    adapter,
    encoder,
    layer,
    names,
    speech,
)
from precast.export.spec import hf
from precast.export.weights import Rename

__all__ = ["FAMILY"]


@dataclass(frozen=True, kw_only=True)
class Spec(AdapterSpec):
    """Each frame has a norm, and layers are post-norm, whatever config.json says of either."""

    feat_extract_norm: str = hf(default="layer", read=lambda value: "layer")
    do_stable_layer_norm: bool = hf(default=False, read=lambda value: False)
    num_conv_pos_embeddings: int = hf(default=5)
    conv_pos_kernel_size: int = hf(default=19)


class _Standardised(nn.Module):
    """Layer normalisation without weights, [..., H] -> [..., H]."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.ones = Table((size,), lambda: torch.ones(size))

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, (x.shape[-1],), self.ones(), None, 1e-5)


def _body(spec: Spec) -> SpeechEncoder:
    size, groups, act = spec.hidden_size, spec.num_conv_pos_embedding_groups, spec.feat_extract_activation
    placed = nn.Sequential(
        *(
            ConvolvedPositions(size, spec.conv_pos_kernel_size, groups, act, after=_Standardised(size))
            for _ in range(spec.num_conv_pos_embeddings)
        )
    )
    layers = (layer(spec) for _ in range(spec.num_hidden_layers))
    return speech(spec, encoder(spec, layers, placed), adapter=adapter(spec))


_ENCODER = (Rename("pos_conv_embed.layers.*", "positions.*"), Rename("layer_norm.*", "norm.*"))
_PLACES = {"num_conv_pos_embeddings": 2, "conv_pos_kernel_size": 6}

FAMILY = Family(
    model_type="data2vec-audio",
    spec=Spec,
    heads=speech_heads(_body),
    weights=lambda spec: (*names(spec, "data2vec_audio", encoder=_ENCODER), *xvector_names(spec)),
    inert=INERT,
    tiny={**TINY, **SPEAKERS, **_PLACES},
    variations=(
        {**ODD, "num_conv_pos_embeddings": 1, "conv_pos_kernel_size": 5},
        {"add_adapter": True, "num_adapter_layers": 1, "output_hidden_size": 32},
    ),
)
