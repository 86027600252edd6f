"""An encoder that reads or hears, whatever stands in front of it, and what a decoder of frames is told of its states.
https://arxiv.org/abs/2110.07205"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from precast.export.blocks.activations import Activation, activation
from precast.export.blocks.attention import head_size
from precast.export.blocks.cache import Step
from precast.export.blocks.distances import DistanceAttention, Distances
from precast.export.blocks.embeddings import mask_port, words_port
from precast.export.blocks.mlp import MLP
from precast.export.blocks.sines import inclusive_frequencies
from precast.export.blocks.tables import Table
from precast.export.operators import rotary_angles
from precast.export.signatures import Component
from precast.export.skeletons.encoder import PostNormLayer
from precast.export.skeletons.spectrogram import ScaledSines
from precast.export.skeletons.speech_encoder import FramesSpec, PostNormFrames, frames, norm, positions
from precast.export.spec import hf
from precast.runtime.ports import Out, Port

__all__ = ["Encoder", "FrameEncoder", "Sounds", "TextOrSoundSpec", "Words", "WrittenSines"]

_PADDING = 1  # the id of padding; positions are counted from the number behind it


@dataclass(frozen=True, kw_only=True)
class TextOrSoundSpec(FramesSpec):
    """Defaults are SpeechT5's."""

    vocab_size: int = hf(default=81)
    encoder_layers: int = hf(default=12)
    encoder_attention_heads: int = hf(default=12)
    encoder_ffn_dim: int = hf(default=3072)
    encoder_max_relative_position: int = hf(default=160)
    hidden_act: Activation = hf(default=activation("gelu"), read=activation)
    max_text_positions: int = hf(default=450)
    # Of any other, upstream counts where frames stand by those that are padding.
    pad_token_id: int | None = hf(default=_PADDING, only=(_PADDING,))

    def __post_init__(self) -> None:
        super().__post_init__()
        head_size(self.hidden_size, self.encoder_attention_heads)


class Words(nn.Module):
    """Ids, mask [B, S] -> [B, S, H], and the mask."""

    def __init__(self, spec: TextOrSoundSpec) -> None:
        super().__init__()
        self.words = nn.Embedding(spec.vocab_size, spec.hidden_size)
        self.positions = ScaledSines(spec.max_text_positions, spec.hidden_size, "sequence")

    def ports(self) -> tuple[Port, ...]:
        words = words_port(self.words)
        return words, mask_port(words)

    def forward(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        return self.words(ids) + self.positions(torch.arange(ids.shape[1], device=ids.device))[None], mask


class Sines(nn.Module):
    """Sines of positions [B or 1, S] in the first half of the channels, cosines in the second, zeros where nothing is
    real, [B, S]: [B, S, H]. There may be any number of positions: upstream's table of them grows."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size, self.frequencies = size, Table((size // 2,), partial(inclusive_frequencies, size // 2))

    def forward(self, places: Tensor, real: Tensor) -> Tensor:
        cos, sin = rotary_angles(places + _PADDING + 1, self.frequencies())
        return torch.cat((sin, cos), dim=-1).view(*places.shape, self.size) * real[..., None].to(cos.dtype)


class WrittenSines(Sines):
    """Of the tokens of a decoder's call; padding that it wrote itself has none, and counts."""

    def forward(self, input_ids: Tensor, step: Step) -> Tensor:  # type: ignore[override] # as tokens are placed
        assert step.positions is not None
        return super().forward(step.positions, input_ids != _PADDING)


class Sounds(nn.Module):
    """Samples, mask [B, N] -> frames [B, F, H], and which of them are real, [B, F]. Those that are not are heard, too:
    of what tells where frames stand the last ones see them."""

    def __init__(self, spec: TextOrSoundSpec) -> None:
        super().__init__()
        self.frames, self.norm = frames(spec), norm(spec, spec.conv_dim[-1])
        self.projection = nn.Linear(spec.conv_dim[-1], spec.hidden_size)
        self.positions, self.sines = positions(spec), Sines(spec.hidden_size)

    def ports(self) -> tuple[Port, ...]:
        return self.frames.ports()

    def forward(self, samples: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        x = self.projection(self.norm(self.frames(samples)))
        real = self.frames.real(mask, x.shape[1])
        places = torch.arange(x.shape[1], device=x.device)[None]
        return x + self.positions(x) + self.sines(places, real), real


class Encoder(Component):
    """What ``prenet`` takes: ids or samples, and a mask -> states [B, S, H], and which of them are real, [B, S]."""

    def __init__(self, spec: TextOrSoundSpec, prenet: Words | Sounds) -> None:
        super().__init__()
        self.prenet, size, heads = prenet, spec.hidden_size, spec.encoder_attention_heads
        layers = [
            PostNormLayer(
                attention=DistanceAttention(size, heads),
                attention_norm=norm(spec),
                mlp=MLP(size, spec.encoder_ffn_dim, spec.hidden_act),
                mlp_norm=norm(spec),
            )
            for _ in range(spec.encoder_layers)
        ]
        self.stack = PostNormFrames(
            layers, norm(spec), bias=Distances(spec.encoder_max_relative_position, size // heads)
        )

    @property
    def hears(self) -> bool:
        return isinstance(self.prenet, Sounds)

    def ports(self) -> tuple[Port, ...]:
        return self.prenet.ports()

    def processing(self) -> Mapping[str, Any]:
        """Recordings that are filled up are not heard as they are alone."""
        return {"batches": {"one_length": True}} if self.hears else {}

    def forward(self, given: Tensor, mask: Tensor) -> Any:
        x, real = self.prenet(given, mask)
        return self.stack(x, real), real


class FrameEncoder(Encoder):
    """Ids or samples, and a mask -> {"cross": [B, S, C]}, the keys and values of each layer of a decoder of frames, and
    of what is heard {"cross_mask": [B, S]}, which of them are real.

    Args:
        width: C.
    """

    def __init__(self, spec: TextOrSoundSpec, prenet: Words | Sounds, width: int) -> None:
        super().__init__(spec, prenet)
        self.cross = nn.Linear(spec.hidden_size, width)

    def outs(self) -> tuple[Out, ...]:
        row = ("batch", "places" if self.hears else "sequence")
        cross = Out("cross", (*row, self.cross.out_features), "scores")
        return (cross, Out("cross_mask", row, "features", dtype="int64")) if self.hears else (cross,)

    def forward(
        self, attention_mask: Tensor, input_ids: Tensor | None = None, input_values: Tensor | None = None
    ) -> dict[str, Tensor]:
        given = input_values if input_ids is None else input_ids
        assert given is not None
        states, real = super().forward(given, attention_mask)
        made = {"cross": self.cross(states)}
        return {**made, "cross_mask": real} if self.hears else made
