"""Moonshine: an encoder-decoder with rotary positions that hears samples as they are. https://arxiv.org/abs/2410.15608"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from precast.export import heads
from precast.export.blocks.activations import Activation, activation
from precast.export.blocks.attention import CachedSelfAttention, CrossAttention, SelfAttention
from precast.export.blocks.convolution import GroupNorm
from precast.export.blocks.mlp import MLP, GatedMLP
from precast.export.blocks.norms import LayerNorm
from precast.export.blocks.rope import Rope, rope
from precast.export.blocks.rotary import SteppedRotary
from precast.export.families import Family, TextSpec
from precast.export.head_sets.seq2seq import WORDS, generation_keys, seq2seq
from precast.export.operators import rotary, rotary_angles
from precast.export.skeletons.decoder import Decoder, DecoderLayer, TokenEmbeddings
from precast.export.skeletons.encoder import PreNormLayer
from precast.export.skeletons.stack import Stack
from precast.export.spec import hf
from precast.export.weights import Prefixed, Rename, Rule, Split, Tie, Within
from precast.runtime.errors import ConfigError
from precast.runtime.ports import Dim, Port

__all__ = ["FAMILY", "Spec"]

_KERNELS, _STRIDES = (127, 7, 3), (64, 3, 2)
_STEP, _SHORTEST = 384, 895  # samples from one frame to the next, and of the only frame of the shortest recording


@dataclass(frozen=True, kw_only=True)
class Spec(TextSpec):
    """Defaults are upstream's, which are moonshine-tiny's."""

    is_encoder_decoder: bool = hf(default=True, only=(True,))
    vocab_size: int = hf(default=32768)
    hidden_size: int = hf(default=288)
    intermediate_size: int = hf(default=1152)
    encoder_num_hidden_layers: int = hf(default=6)
    decoder_num_hidden_layers: int = hf(default=6)
    encoder_num_attention_heads: int = hf(default=8)
    decoder_num_attention_heads: int = hf(default=8)
    encoder_num_key_value_heads: int | None = hf(default=None)
    decoder_num_key_value_heads: int | None = hf(default=None)
    encoder_hidden_act: Activation = hf(default=activation("gelu"), read=activation)
    decoder_hidden_act: Activation = hf(default=activation("silu"), read=activation)
    max_position_embeddings: int = hf(default=512)
    attention_bias: bool = hf(default=False)
    rope_parameters: dict[str, Any] | None = hf(default=None)
    rope_scaling: dict[str, Any] | None = hf(default=None)
    rope_theta: float | None = hf(default=None)
    partial_rotary_factor: float | None = hf(default=None)

    def __post_init__(self) -> None:
        # Upstream's sides share one number of heads, whatever is said, and queries are taken apart as keys are.
        found = {self.heads, self.decoder_num_attention_heads} | {
            heads or self.heads for heads in (self.encoder_num_key_value_heads, self.decoder_num_key_value_heads)
        }
        if len(found) > 1 or self.hidden_size % self.heads:
            raise ConfigError(
                "all numbers of heads and of key and value heads must be one, a divisor of 'hidden_size' "
                f"{self.hidden_size}; got {sorted(found)}"
            )
        self.rope.check()

    @property
    def heads(self) -> int:
        """Of every attention."""
        return self.encoder_num_attention_heads

    @property
    def rope(self) -> Rope:
        """Of both sides."""
        return rope(
            self.hidden_size // self.heads,
            parameters=self.rope_parameters,
            scaling=self.rope_scaling,
            theta=self.rope_theta,
            longest=self.max_position_embeddings,
            part=0.9 if self.partial_rotary_factor is None else self.partial_rotary_factor,
            partial=True,
        )

    def ignored(self) -> tuple[str, ...]:
        return self.rope.ignored


def _norm(spec: Spec) -> LayerNorm:
    return LayerNorm(spec.hidden_size, 1e-5, bias=False)


class Turned(nn.Module):
    """Turns queries and keys [B, S, N*D] at positions 0, 1, 2 ..., as a `SteppedRotary` does at others."""

    def __init__(self, at: SteppedRotary) -> None:
        super().__init__()
        self.frequencies, self.scale = at.frequencies, at.scale

    def forward(self, states: Tensor, heads: int) -> Tensor:
        places = torch.arange(states.shape[1], device=states.device)[None]
        cos, sin = rotary_angles(places, self.frequencies(), self.scale)
        return rotary(states, places.expand(states.shape[0], -1), cos, sin, heads=heads, interleaved=True)


class Frames(nn.Module):
    """Samples [B, N] -> three convolutions, a norm behind the first: [B, T, H]."""

    def __init__(self, size: int) -> None:
        super().__init__()
        channels = (1, size, 2 * size, size)
        self.conv1, self.conv2, self.conv3 = (
            nn.Conv1d(channels[place], channels[place + 1], _KERNELS[place], _STRIDES[place], bias=place > 0)
            for place in range(3)
        )
        self.groupnorm = GroupNorm(size)

    def forward(self, input_values: Tensor) -> Tensor:
        x = self.groupnorm(torch.tanh(self.conv1(input_values[:, None])))
        x = F.gelu(self.conv3(F.gelu(self.conv2(x))))
        return x.transpose(1, 2).clone(memory_format=torch.contiguous_format)


class Hearing(Stack):
    """Samples [B, N], mask [B, N] -> states [B, T, H], and which of them are real, [B, T]."""

    def __init__(self, spec: Spec) -> None:
        turned, heads = Turned(spec.rope.module(interleaved=True)), spec.heads
        layers = [
            PreNormLayer(
                attention=SelfAttention(
                    spec.hidden_size, heads=heads, bias=spec.attention_bias, out_bias=False, positions=turned
                ),
                attention_norm=_norm(spec),
                mlp=MLP(spec.hidden_size, spec.intermediate_size, spec.encoder_hidden_act),
                mlp_norm=_norm(spec),
            )
            for _ in range(spec.encoder_num_hidden_layers)
        ]
        super().__init__(layers, _norm(spec))
        self.embeddings = Frames(spec.hidden_size)

    def ports(self) -> tuple[Port, ...]:
        row = ("batch", "samples")
        samples = Port("input_values", "float32", row, "waveform")
        return samples, Port("attention_mask", "int64", row, "sample_mask", default=1)

    def bounds(self) -> dict[str, Dim]:
        return {"samples": Dim(least=_SHORTEST)}

    def forward(self, input_values: Tensor, attention_mask: Tensor) -> Any:  # type: ignore[override]
        x = self.embeddings(input_values)
        real = attention_mask.index_select(1, torch.arange(x.shape[1], device=x.device) * _STEP)
        return super().forward(x, real), real


def _decoder(spec: Spec, absent: frozenset[str]) -> Decoder:
    size, heads, bias = spec.hidden_size, spec.heads, spec.attention_bias
    turned = spec.rope.module(interleaved=True)
    layers = [
        DecoderLayer(
            attention=CachedSelfAttention(size, heads=heads, bias=bias, out_bias=False, positions=turned),
            attention_norm=_norm(spec),
            cross=CrossAttention(size, heads=heads, bias=bias, out_bias=False),
            cross_norm=_norm(spec),
            mlp=GatedMLP(size, spec.intermediate_size, spec.decoder_hidden_act),
            mlp_norm=_norm(spec),
        )
        for _ in range(spec.decoder_num_hidden_layers)
    ]
    return Decoder(embeddings=TokenEmbeddings(spec.vocab_size, size), layers=layers, norm=_norm(spec))


def _weights(spec: Spec) -> tuple[Rule, ...]:
    mlp = {"mlp.fc1": "mlp.up_proj", "mlp.fc2": "mlp.down_proj", "input_layernorm": "attention_norm"}
    heard = {**mlp, "post_attention_layernorm": "mlp_norm"}
    said = {
        **mlp,
        "post_attention_layernorm": "cross_norm",
        "final_layernorm": "mlp_norm",
        "encoder_attn": "cross_attn",
    }
    halves = tuple(
        Split(f"mlp.fc1.{kind}", (f"mlp.up_proj.{kind}", f"mlp.gate_proj.{kind}")) for kind in ("weight", "bias")
    )
    made = ("conv1", "conv2", "conv3", "groupnorm")
    return (
        Prefixed("model", beside=("proj_out.*",)),
        Rename("proj_out.*", "lm_head.*"),
        Within("model.encoder.layers.{}.", _renamed(heard), to="encoder.layers.{}."),
        Within("model.decoder.layers.{}.", (*halves, *_renamed(said)), to="decoder.layers.{}."),
        Rename("model.encoder.layer_norm.*", "encoder.norm.*"),
        *(Rename(f"model.encoder.{name}.*", f"encoder.embeddings.{name}.*") for name in made),
        Rename("model.decoder.norm.*", "decoder.norm.*"),
        Rename("model.decoder.embed_tokens.*", "decoder.embeddings.words.*"),
        *((Tie("lm_head.weight", WORDS),) if spec.tie_word_embeddings else ()),
    )


def _renamed(table: dict[str, str]) -> tuple[Rule, ...]:
    return tuple(Rename(f"{old}.*", f"{new}.*") for old, new in table.items())


FAMILY = Family(
    spec=Spec,
    heads=seq2seq(encoder=lambda spec, absent: Hearing(spec), decoder=_decoder, head=heads.SPEECH_SEQ2SEQ),
    weights=_weights,
    # What upstream's mapping of names writes beside the names it stands for, and a padding that changes nothing.
    inert=frozenset(
        """
        hidden_act num_attention_heads num_hidden_layers num_key_value_heads pad_head_dim_to_multiple_of
        """.split()
    ),
    final_norm=True,
    generation=generation_keys(bos=1, eos=2, decoder_start=1),
    tiny={
        "hidden_size": 48, "intermediate_size": 56, "encoder_num_hidden_layers": 2, "decoder_num_hidden_layers": 2,
        "encoder_num_attention_heads": 4, "decoder_num_attention_heads": 4, "max_position_embeddings": 160,
        "vocab_size": 99,
    },
    variations=(
        {
            "hidden_size": 21, "intermediate_size": 37, "encoder_num_hidden_layers": 1, "decoder_num_hidden_layers": 3,
            "encoder_num_attention_heads": 3, "decoder_num_attention_heads": 3, "encoder_hidden_act": "relu",
            "decoder_hidden_act": "gelu", "attention_bias": True, "vocab_size": 131, "tie_word_embeddings": False,
            "rope_parameters": {"rope_type": "default", "rope_theta": 500.0, "partial_rotary_factor": 0.6},
            "pad_head_dim_to_multiple_of": 4,
        },
    ),
)  # fmt: skip
