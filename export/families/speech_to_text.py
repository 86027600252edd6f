"""Speech2Text: a pre-norm encoder-decoder over features of speech, which convolutions with gates shorten first.
https://arxiv.org/abs/2010.05171"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from precast.export import heads
from precast.export.blocks.activations import Activation, activation
from precast.export.blocks.sines import PlacedFromPadding, inclusive_frequencies, inclusive_sine_table
from precast.export.blocks.tables import Table
from precast.export.families import Family
from precast.export.head_sets.seq2seq import generation_keys, seq2seq
from precast.export.operators import rotary_angles
from precast.export.skeletons.decoder import Decoder
from precast.export.skeletons.encoder import PreNormLayer
from precast.export.skeletons.encoder_decoder import EncoderDecoderSpec, decoder, encoder_layers, names, norm
from precast.export.skeletons.stack import Stack
from precast.export.spec import hf
from precast.export.weights import Ignore, Rule
from precast.runtime.errors import ConfigError
from precast.runtime.ports import Dim, Port

__all__ = ["FAMILY", "Spec"]

_PADDING = 1  # the row of the tables of positions that is all zeros; the first position follows it


@dataclass(frozen=True, kw_only=True)
class Spec(EncoderDecoderSpec):
    """Defaults are upstream's, which are s2t-small's."""

    vocab_size: int = hf(default=10000)
    hidden_size: int = hf(("d_model", "hidden_size"), default=256)
    encoder_ffn_dim: int = hf(default=2048)
    encoder_attention_heads: int = hf(default=4)
    decoder_layers: int = hf(default=6)
    decoder_ffn_dim: int = hf(default=2048)
    decoder_attention_heads: int = hf(default=4)
    activation_function: Activation = hf(default=activation("relu"), read=activation)
    scale_embedding: bool = hf(default=True)
    max_source_positions: int = hf(default=6000)
    max_position_embeddings: int = hf("max_target_positions", default=1024)
    num_conv_layers: int = hf(default=2)
    conv_kernel_sizes: tuple[int, ...] = hf(default=(5, 5), read=tuple)
    conv_channels: int = hf(default=1024)
    input_feat_per_channel: int = hf(default=80)
    input_channels: int = hf(default=1)
    # Positions of what is heard are counted as those of words are, over 1 for a frame that is padding.
    pad_token_id: int | None = hf(default=_PADDING, only=(_PADDING,))

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.conv_kernel_sizes) != self.num_conv_layers:
            raise ConfigError(
                f"'conv_kernel_sizes' {list(self.conv_kernel_sizes)} must have 'num_conv_layers' "
                f"{self.num_conv_layers} sizes"
            )

    @property
    def shared(self) -> bool:
        """The encoder has no words."""
        return False


class Subsampler(nn.Module):
    """Features [B, T, F] -> gated convolutions of stride 2 (https://arxiv.org/abs/1911.08460): [B, U, H]."""

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        *inner, last = spec.conv_kernel_sizes
        channels, half = spec.input_feat_per_channel * spec.input_channels, spec.conv_channels // 2
        sizes = [(kernel, spec.conv_channels) for kernel in inner] + [(last, 2 * spec.hidden_size)]
        self.conv_layers = nn.ModuleList(
            nn.Conv1d(half if place else channels, out, kernel, stride=2, padding=kernel // 2)
            for place, (kernel, out) in enumerate(sizes)
        )

    def forward(self, x: Tensor) -> Tensor:
        # Laid out anew: torch asks for the layout of what is turned alone, which a single frame does not say.
        x = x.transpose(1, 2).clone(memory_format=torch.contiguous_format)
        for conv in self.conv_layers:
            x = F.glu(conv(x), dim=1)
        return x.transpose(1, 2)

    def lengths(self, mask: Tensor) -> Tensor:
        """Of masks [B, T], what is left of the frames they show, [B]."""
        found = mask.sum(-1)
        for _ in self.conv_layers:
            found = (found + 1) // 2
        return found


class Hearing(Stack):
    """Features [B, T, F], mask [B, T] -> states [B, U, H], and which of them are real, [B, U]."""

    def __init__(self, spec: Spec) -> None:
        super().__init__(encoder_layers(spec, PreNormLayer), norm(spec))
        self.conv = Subsampler(spec)
        self.frequencies = Table((spec.hidden_size // 2,), partial(inclusive_frequencies, spec.hidden_size // 2))
        self.scale, self.odd = spec.scale or 1.0, spec.hidden_size % 2
        self.bins = spec.input_feat_per_channel * spec.input_channels
        self.longest = spec.max_source_positions << spec.num_conv_layers

    def ports(self) -> tuple[Port, ...]:
        row = ("batch", "frames")
        features = Port("input_features", "float32", (*row, self.bins), "features")
        return features, Port("attention_mask", "int64", row, "sample_mask", default=1)

    def bounds(self) -> dict[str, Dim]:
        return {"frames": Dim(most=self.longest)}

    def forward(self, input_features: Tensor, attention_mask: Tensor) -> Any:  # type: ignore[override]
        x = self.conv(input_features) * self.scale
        places = torch.arange(x.shape[1], device=x.device)[None]
        real = (places < self.conv.lengths(attention_mask)[:, None]).to(torch.int64)
        cos, sin = rotary_angles(places + _PADDING + 1, self.frequencies())
        positions = F.pad(torch.cat((sin, cos), dim=-1), (0, self.odd))
        return super().forward(x + positions * real[..., None].to(x.dtype), real), real


def _decoder(spec: Spec, absent: frozenset[str]) -> Decoder:
    counted = spec.max_position_embeddings + _PADDING + 1, spec.hidden_size, _PADDING
    positions = PlacedFromPadding(*counted, inclusive_sine_table(*counted))
    return decoder(spec, pre_norm=True, normed=False, positions=positions)


def _weights(spec: Spec) -> tuple[Rule, ...]:
    stored = (f"{side}.embeddings.positions.table.weights" for side in ("encoder", "decoder"))  # computed anew
    return (*names(spec), *map(Ignore, stored))


FAMILY = Family(
    spec=Spec,
    heads=seq2seq(encoder=lambda spec, absent: Hearing(spec), decoder=_decoder, head=heads.SPEECH_SEQ2SEQ),
    weights=_weights,
    inert=frozenset(
        """
        activation_dropout decoder_layerdrop encoder_layerdrop init_std num_attention_heads num_hidden_layers
        """.split()
    ),
    final_norm=True,
    generation=generation_keys(pad=1, bos=0, eos=2, decoder_start=2),
    tiny={
        "d_model": 32, "encoder_layers": 2, "encoder_ffn_dim": 48, "encoder_attention_heads": 4, "decoder_layers": 2,
        "decoder_ffn_dim": 48, "decoder_attention_heads": 4, "max_source_positions": 200, "max_target_positions": 160,
        "conv_channels": 20, "input_feat_per_channel": 10, "vocab_size": 99,
    },
    variations=(
        {
            "d_model": 21, "encoder_layers": 1, "encoder_ffn_dim": 37, "encoder_attention_heads": 3,
            "decoder_layers": 3, "decoder_ffn_dim": 29, "decoder_attention_heads": 1, "activation_function": "gelu",
            "scale_embedding": False, "vocab_size": 131, "num_conv_layers": 3, "conv_kernel_sizes": [3, 4, 7],
            "conv_channels": 14, "input_feat_per_channel": 7, "input_channels": 2, "tie_word_embeddings": False,
        },
    ),
)  # fmt: skip
