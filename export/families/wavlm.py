"""WavLM: wav2vec 2.0's encoder with relative positions, which every frame lets through as far as it asks for them.
https://arxiv.org/abs/2110.13900"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from precast.export.blocks.attention import SelfAttention
from precast.export.blocks.relative import RelativeBias, RelativeIndex
from precast.export.families import wav2vec2
from precast.export.head_sets.sound import speech_heads, xvector_names
from precast.export.skeletons.speech_encoder import (
    INERT,
    LAYER_NAMES,
    ODD,
    SPEAKERS,
    TINY,
    AdapterSpec,
    SpeechEncoder,
    adapter,
    encoder,
    layer,
    names,
    positions,
    speech,
)
from precast.export.spec import hf
from precast.export.weights import Compute, Rename, Rule

__all__ = ["FAMILY"]


@dataclass(frozen=True, kw_only=True)
class Spec(AdapterSpec):
    """And relative positions."""

    num_buckets: int = hf(default=320)
    max_bucket_distance: int = hf(default=800)


def _buckets(distance: Tensor, count: int, furthest: int) -> Tensor:
    """`two_sided_buckets`, but for where a float32 number is cut off: as a whole."""
    side, exact = count // 2, count // 4
    away = distance.abs()
    scaled = torch.log(away.clamp(min=1).float() / exact) / math.log(furthest / exact) * (side - exact)
    coarse = (exact + scaled).to(torch.int64).clamp(max=side - 1)
    return torch.where(away < exact, away, coarse) + side * (distance < 0)


class GatedAttention(SelfAttention):
    """Self-attention where each frame and head has a factor of its own for the bias of positions, [B, F, H] ->
    [B, F, H]: a * (b * constant - 1) + 2, of two gates a and b that a head's channels make."""

    def __init__(self, hidden: int, heads: int) -> None:
        super().__init__(hidden, heads=heads)
        self.gates = nn.Linear(hidden // heads, 2)
        self.constant = nn.Parameter(torch.empty(1, heads, 1, 1))

    def forward(self, x: Tensor, mask: Tensor | None, bias: Tensor | None = None) -> Tensor:
        assert bias is not None
        split = x.view(*x.shape[:2], self.heads, x.shape[2] // self.heads)
        gates = torch.sigmoid(self.gates(split)).transpose(1, 2)
        factor = gates[..., :1] * (gates[..., 1:] * self.constant - 1) + 2
        return super().forward(x, mask, factor * bias)


def _body(spec: Spec) -> SpeechEncoder:
    count, furthest = spec.num_buckets, spec.max_bucket_distance
    index = RelativeIndex(furthest, lambda distance: _buckets(distance, count, furthest))
    size, heads = spec.hidden_size, spec.num_attention_heads
    layers = (layer(spec, GatedAttention(size, heads)) for _ in range(spec.num_hidden_layers))
    made = encoder(spec, layers, positions(spec), RelativeBias(index, 2 * (count // 2), heads))
    return speech(spec, made, adapter=adapter(spec))


def _gates(spec: Spec) -> tuple[Rule, ...]:
    """Each gate is the sum of four numbers that upstream makes."""
    old, new = "attention.gru_rel_pos_linear", "attention.gates"

    def summed(value: Tensor) -> Tensor:
        return value.unflatten(0, (2, 4)).sum(1)

    width = spec.hidden_size // spec.num_attention_heads
    return (
        Compute((f"{old}.weight",), f"{new}.weight", (2, width), summed),
        Compute((f"{old}.bias",), f"{new}.bias", (2,), summed),
        Rename("attention.gru_rel_pos_const", "attention.constant"),
    )


def _weights(spec: Any) -> tuple[Rule, ...]:
    shared = Rename("encoder.layers.0.attention.rel_attn_embed.*", "model.encoder.bias.table.*")
    return (
        Rename("wavlm.*", "*"),
        shared,
        *names(spec, "wavlm", layer=(*_gates(spec), *LAYER_NAMES)),
        *xvector_names(spec),
    )


FAMILY = replace(
    wav2vec2.FAMILY,
    spec=Spec,
    heads=speech_heads(_body),
    weights=_weights,
    inert=INERT | {"num_ctc_classes"},
    tiny={**TINY, **SPEAKERS, "num_buckets": 16, "max_bucket_distance": 30},
    variations=(
        {**ODD, "num_hidden_layers": 2, "num_buckets": 12, "max_bucket_distance": 11},
        {"add_adapter": True, "num_adapter_layers": 1, "output_hidden_size": 20},
    ),
)
