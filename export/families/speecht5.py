"""SpeechT5 reading texts aloud: a transformer says frame after frame of a spectrogram in a given voice.
https://arxiv.org/abs/2110.07205

Three components, of which the runtime calls the second once for each frame or few (`precast.runtime.spectrogram`):
``text`` reads the text, ``step`` says the next frames, and ``postnet`` mends what was said."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from precast.export import heads
from precast.export.blocks.activations import Activation, activation
from precast.export.blocks.attention import head_size
from precast.export.blocks.convolution import COUNTERS
from precast.export.blocks.embeddings import mask_port, words_port
from precast.export.blocks.mlp import MLP
from precast.export.blocks.norms import LayerNorm
from precast.export.blocks.tables import Table
from precast.export.components import Composite
from precast.export.families import Family
from precast.export.operators import attention
from precast.export.signatures import Component
from precast.export.skeletons.conformer import PostNet
from precast.export.skeletons.encoder import PostNormLayer
from precast.export.spec import Spec as Base
from precast.export.spec import hf
from precast.export.weights import Ignore, Merge, Prefixed, Rename, Rule, Within
from precast.runtime.catalogue import CATALOGUE
from precast.runtime.errors import ConfigError
from precast.runtime.ports import Dim, Out, Port

__all__ = ["FAMILY", "Spec"]


@dataclass(frozen=True, kw_only=True)
class Spec(Base):
    """Defaults are the released checkpoints', as upstream's."""

    is_encoder_decoder: bool = hf(default=True)
    vocab_size: int = hf(default=81)
    hidden_size: int = hf(default=768)
    encoder_layers: int = hf(default=12)
    encoder_attention_heads: int = hf(default=12)
    encoder_ffn_dim: int = hf(default=3072)
    encoder_max_relative_position: int = hf(default=160)
    decoder_layers: int = hf(default=6)
    decoder_attention_heads: int = hf(default=12)
    decoder_ffn_dim: int = hf(default=3072)
    hidden_act: Activation = hf(default=activation("gelu"), read=activation)
    layer_norm_eps: float = hf(default=1e-5)
    num_mel_bins: int = hf(default=80)
    speech_decoder_prenet_layers: int = hf(default=2)
    speech_decoder_prenet_units: int = hf(default=256)
    speech_decoder_prenet_dropout: float = hf(default=0.5)
    speaker_embedding_dim: int = hf(default=512)
    speech_decoder_postnet_layers: int = hf(default=5)
    speech_decoder_postnet_units: int = hf(default=256)
    speech_decoder_postnet_kernel: int = hf(default=5)
    reduction_factor: int = hf(default=2)
    max_speech_positions: int = hf(default=4000)
    max_text_positions: int = hf(default=450)

    def __post_init__(self) -> None:
        if (
            self.speech_decoder_postnet_kernel % 2 == 0
            or self.hidden_size % 2
            or self.speech_decoder_postnet_layers < 1
        ):
            raise ConfigError(
                "'speech_decoder_postnet_kernel' is odd, 'hidden_size' even and 'speech_decoder_postnet_layers' 1 or "
                f"more; received {self.speech_decoder_postnet_kernel}, {self.hidden_size} and "
                f"{self.speech_decoder_postnet_layers}"
            )
        if not 0 <= self.speech_decoder_prenet_dropout < 1 or self.speech_decoder_prenet_layers < 1:
            raise ConfigError(
                "'speech_decoder_prenet_dropout' is 0 to below 1, 'speech_decoder_prenet_layers' 1 or more; received "
                f"{self.speech_decoder_prenet_dropout} and {self.speech_decoder_prenet_layers}"
            )


class _Positions(nn.Module):
    """Sines and cosines of positions, in turns, by a factor that was learned, [...] -> [..., H]."""

    def __init__(self, count: int, size: int, dim: str | None = None) -> None:
        super().__init__()
        self.count, self.size, self.dim = count, size, dim
        self.rows, self.alpha = Table((count, size), self._rows), nn.Parameter(torch.empty(()))

    def bounds(self) -> dict[str, Dim]:
        return {} if self.dim is None else {self.dim: Dim(most=self.count)}

    def _rows(self) -> Tensor:
        # Angles are float32 numbers, as models were trained with them.
        steps = torch.arange(0, self.size, 2, dtype=torch.int64).float()
        frequencies = torch.exp(steps * -(math.log(10000.0) / self.size))
        angles = (torch.arange(self.count).float()[:, None] * frequencies).to(torch.float64)
        return torch.stack((angles.sin(), angles.cos()), dim=-1).flatten(1)

    def forward(self, positions: Tensor) -> Tensor:
        return self.alpha * F.embedding(positions, self.rows())


class _RelativeAttention(nn.Module):
    """Self-attention whose scores have a part of how far two tokens are apart, [B, S, H] -> [B, S, H].

    ``relative``: rows for distances [2 * M, D], and which of them each pair of tokens has, [S, S]."""

    def __init__(self, size: int, heads: int) -> None:
        super().__init__()
        self.heads, self.scale = heads, head_size(size, heads) ** -0.5
        self.q_proj, self.k_proj, self.v_proj, self.o_proj = (nn.Linear(size, size) for _ in range(4))

    def forward(self, x: Tensor, mask: Tensor, relative: tuple[Tensor, Tensor]) -> Tensor:
        rows, index = relative
        batch, length, size = x.shape
        query, heads = self.q_proj(x), self.heads
        each = query.view(batch, length, heads, size // heads).transpose(1, 2)
        bias = torch.matmul(each, rows.t()).gather(-1, index.expand(batch, heads, length, length)) * self.scale
        made = attention(query, self.k_proj(x), self.v_proj(x), mask=mask, bias=bias, heads=heads, scale=self.scale)
        return self.o_proj(made)


class _Text(Component):
    """ids, mask [B, S] -> {"cross": [B, S, 2 * L * H]}, keys and values of each layer that looks at the text."""

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        size, self.wide, self.reach = (
            spec.hidden_size,
            2 * spec.decoder_layers * spec.hidden_size,
            spec.encoder_max_relative_position,
        )
        self.words, self.positions = (
            nn.Embedding(spec.vocab_size, size),
            _Positions(spec.max_text_positions, size, "sequence"),
        )
        self.norm = LayerNorm(size, spec.layer_norm_eps)
        self.distances = nn.Parameter(torch.empty(2 * self.reach, size // spec.encoder_attention_heads))
        self.layers = nn.ModuleList(
            PostNormLayer(
                attention=_RelativeAttention(size, spec.encoder_attention_heads),
                attention_norm=LayerNorm(size, spec.layer_norm_eps),
                mlp=MLP(size, spec.encoder_ffn_dim, spec.hidden_act),
                mlp_norm=LayerNorm(size, spec.layer_norm_eps),
            )
            for _ in range(spec.encoder_layers)
        )
        self.cross = nn.Linear(size, self.wide)

    def ports(self) -> tuple[Port, ...]:
        words = words_port(self.words)
        return words, mask_port(words)

    def outs(self) -> tuple[Out, ...]:
        return (Out("cross", ("batch", "sequence", self.wide), "scores"),)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> dict[str, Tensor]:
        place = torch.arange(input_ids.shape[1], device=input_ids.device)
        x = self.norm(self.words(input_ids) + self.positions(place)[None])
        index = (place[:, None] - place[None]).clamp(-self.reach, self.reach - 1) + self.reach
        for layer in self.layers:
            x = layer(x, attention_mask, (self.distances, index))
        return {"cross": self.cross(x)}


class _StepLayer(nn.Module):
    """One state [B, 1, H], what those before it left and the text's keys and values -> the next state, and its own."""

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        size, self.heads = spec.hidden_size, spec.decoder_attention_heads
        self.scale = head_size(size, self.heads) ** -0.5
        self.q_proj, self.k_proj, self.v_proj, self.o_proj = (nn.Linear(size, size) for _ in range(4))
        self.cross_q_proj, self.cross_o_proj = nn.Linear(size, size), nn.Linear(size, size)
        self.mlp = MLP(size, spec.decoder_ffn_dim, spec.hidden_act)
        self.attention_norm, self.cross_norm, self.mlp_norm = (LayerNorm(size, spec.layer_norm_eps) for _ in range(3))

    def forward(self, x: Tensor, past: Tensor, past_mask: Tensor, cross: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """``past``, ``cross``: keys and values side by side, [B, T, 2 * H] and [B, S, 2 * H]."""
        size, options = x.shape[2], {"heads": self.heads, "scale": self.scale}
        own = torch.cat((self.k_proj(x), self.v_proj(x)), dim=-1)
        seen = torch.cat((past, own), dim=1)
        there = torch.cat((past_mask, torch.ones_like(past_mask[:, :1])), dim=1)
        made = attention(self.q_proj(x), seen[..., :size], seen[..., size:], mask=there, **options)
        x, _ = self.attention_norm.add(self.o_proj(made), x)
        made = attention(self.cross_q_proj(x), cross[..., :size], cross[..., size:], mask=mask, **options)
        x, _ = self.cross_norm.add(self.cross_o_proj(made), x)
        x, _ = self.mlp_norm.add(self.mlp(x), x)
        return x, own


class _Step(Component):
    """The last frame [B, C], its number [B], which units of the layers in front are kept [B, K, U], the voice [B, E],
    what was left so far [B, T, 2 * L * H] and what of it is real, and the text -> {"spectrum": the next frames
    [B, R, C], "stop": how likely these are the last, "present": what is left of this step}."""

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        self.spec, size, units = spec, spec.hidden_size, spec.speech_decoder_prenet_units
        sizes = [spec.num_mel_bins, *(units for _ in range(spec.speech_decoder_prenet_layers))]
        self.prenet = nn.ModuleList(nn.Linear(*pair) for pair in itertools.pairwise(sizes))
        self.final_layer, self.positions = nn.Linear(units, size), _Positions(spec.max_speech_positions, size)
        self.voice = nn.Linear(size + spec.speaker_embedding_dim, size)
        self.layers = nn.ModuleList(_StepLayer(spec) for _ in range(spec.decoder_layers))
        self.feat_out = nn.Linear(size, spec.num_mel_bins * spec.reduction_factor)
        self.prob_out = nn.Linear(size, spec.reduction_factor)

    @property
    def wide(self) -> int:
        return 2 * self.spec.decoder_layers * self.spec.hidden_size

    def ports(self) -> tuple[Port, ...]:
        spec, number = self.spec, "float32"
        kept = ("batch", spec.speech_decoder_prenet_layers, spec.speech_decoder_prenet_units)
        return (
            Port("frame", number, ("batch", spec.num_mel_bins), "features"),
            Port("position", "int64", ("batch",), "positions", below=spec.max_speech_positions),
            Port("kept", number, kept, "features", default=1.0),
            Port("speaker_embeddings", number, ("batch", spec.speaker_embedding_dim), "features"),
            Port("past", number, ("batch", "past", self.wide), "features"),
            Port("past_mask", "int64", ("batch", "past"), "mask", default=1),
            Port("cross", number, ("batch", "sequence", self.wide), "features"),
            Port("attention_mask", "int64", ("batch", "sequence"), "mask", default=1),
        )

    def outs(self) -> tuple[Out, ...]:
        spectrum = Out("spectrum", ("batch", self.spec.reduction_factor, self.spec.num_mel_bins), "scores")
        return spectrum, Out("stop", ("batch",), "scores"), Out("present", ("batch", self.wide), "scores")

    def largest(self) -> int:
        return 64  # of a text and of what was said, each of which has keys and values of all layers

    def processing(self) -> Mapping[str, Any]:
        spec = self.spec
        said = {"components": ["text", "step"], "bins": spec.num_mel_bins, "reduction": spec.reduction_factor}
        said |= {"kept": [spec.speech_decoder_prenet_layers, spec.speech_decoder_prenet_units]}
        said |= {"dropout": spec.speech_decoder_prenet_dropout, "width": self.wide, "most": spec.max_speech_positions}
        return {"frames": said}

    def forward(
        self,
        frame: Tensor,
        position: Tensor,
        kept: Tensor,
        speaker_embeddings: Tensor,
        past: Tensor,
        past_mask: Tensor,
        cross: Tensor,
        attention_mask: Tensor,
    ) -> dict[str, Tensor]:
        x = frame
        for number, layer in enumerate(self.prenet):
            x = F.relu(layer(x)) * kept[:, number]
        x = self.final_layer(x) + self.positions(position)
        length = torch.sqrt((speaker_embeddings * speaker_embeddings).sum(dim=1, keepdim=True))
        x = F.relu(self.voice(torch.cat((x, speaker_embeddings / length.clamp_min(1e-12)), dim=-1)))[:, None]
        left, wide = [], 2 * self.spec.hidden_size
        for number, step in enumerate(self.layers):
            own = slice(number * wide, (number + 1) * wide)
            x, made = step(x, past[..., own], past_mask, cross[..., own], attention_mask)
            left.append(made)
        x = x[:, 0]
        spectrum = self.feat_out(x).view(x.shape[0], self.spec.reduction_factor, self.spec.num_mel_bins)
        stop = torch.sigmoid(self.prob_out(x)).sum(dim=-1)
        return {"spectrum": spectrum, "stop": stop, "present": torch.cat(left, dim=-1)[:, 0]}


class _Mend(Component):
    """Frames [B, T, C] -> {"spectrogram": [B, T, C]}."""

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        self.bins = spec.num_mel_bins
        self.postnet = PostNet(
            spec.num_mel_bins,
            units=spec.speech_decoder_postnet_units,
            layers=spec.speech_decoder_postnet_layers,
            kernel=spec.speech_decoder_postnet_kernel,
        )

    def ports(self) -> tuple[Port, ...]:
        return (Port("frames", "float32", ("batch", "spoken", self.bins), "features"),)

    def outs(self) -> tuple[Out, ...]:
        return CATALOGUE["text-to-spectrogram"].outs

    def forward(self, frames: Tensor) -> dict[str, Tensor]:
        x = frames.transpose(1, 2)
        return {"spectrogram": (x + self.postnet(x)).transpose(1, 2)}


def _compose(spec: Spec, absent: frozenset[str]) -> nn.Module:
    return Composite({"text": _Text(spec), "step": _Step(spec), "postnet": _Mend(spec)})


_MLP = (
    Rename("feed_forward.intermediate_dense.*", "mlp.up_proj.*"),
    Rename("feed_forward.output_dense.*", "mlp.down_proj.*"),
    Rename("final_layer_norm.*", "mlp_norm.*"),
)
_ENCODER = (
    Rename("attention.out_proj.*", "self_attn.o_proj.*"),
    Rename("attention.*", "self_attn.*"),
    Rename("layer_norm.*", "attention_norm.*"),
    *_MLP,
)
_DECODER = (
    Rename("self_attn.out_proj.*", "o_proj.*"),
    Rename("self_attn_layer_norm.*", "attention_norm.*"),
    Rename("self_attn.*", "*"),
    Rename("encoder_attn_layer_norm.*", "cross_norm.*"),
    Rename("encoder_attn.q_proj.*", "cross_q_proj.*"),
    Rename("encoder_attn.out_proj.*", "cross_o_proj.*"),
    *_MLP,
)


def _weights(spec: Spec) -> tuple[Rule, ...]:
    decoder = "speecht5.decoder.wrapped_decoder.layers"
    cross = [f"{decoder}.{n}.encoder_attn.{kind}_proj" for n in range(spec.decoder_layers) for kind in "kv"]
    return (
        Prefixed("speecht5", beside=("speech_decoder_postnet.*",)),
        COUNTERS,
        Ignore("*.encode_positions.pe"),
        *(Merge(tuple(f"{name}.{part}" for name in cross), f"text.cross.{part}") for part in ("weight", "bias")),
        Within("speecht5.encoder.wrapped_encoder.layers.{}.", _ENCODER, to="text.layers.{}."),
        Within(f"{decoder}.{{}}.", _DECODER, to="step.layers.{}."),
        Rename("speecht5.encoder.wrapped_encoder.layer_norm.*", "text.norm.*"),
        Rename("speecht5.encoder.wrapped_encoder.embed_positions.pe_k.weight", "text.distances"),
        Rename("speecht5.encoder.prenet.embed_tokens.*", "text.words.*"),
        Rename("speecht5.encoder.prenet.encode_positions.*", "text.positions.*"),
        Rename("speecht5.decoder.prenet.layers.{}.*", "step.prenet.{}.*"),
        Rename("speecht5.decoder.prenet.final_layer.*", "step.final_layer.*"),
        Rename("speecht5.decoder.prenet.encode_positions.*", "step.positions.*"),
        Rename("speecht5.decoder.prenet.speaker_embeds_layer.*", "step.voice.*"),
        *(Rename(f"speech_decoder_postnet.{name}.*", f"step.{name}.*") for name in ("feat_out", "prob_out")),
        Rename("speech_decoder_postnet.layers.{}.conv.*", "postnet.postnet.convs.{}.*"),
        Rename("speech_decoder_postnet.layers.{}.batch_norm.*", "postnet.postnet.norms.{}.*"),
    )


FAMILY = Family(
    spec=Spec,
    heads={heads.TEXT_TO_SPECTROGRAM: _compose},
    weights=_weights,
    refused={"Model": "a transformer without what reads texts and makes spectrograms"},
    inert=frozenset(
        """encoder_layerdrop decoder_layerdrop positional_dropout hidden_dropout activation_dropout scale_embedding
        feat_extract_norm feat_proj_dropout feat_extract_activation conv_dim conv_stride conv_kernel conv_bias
        num_conv_pos_embeddings num_conv_pos_embedding_groups num_feat_extract_layers apply_spec_augment mask_time_prob
        mask_time_length mask_time_min_masks mask_feature_prob mask_feature_length mask_feature_min_masks pad_token_id
        speech_decoder_postnet_dropout use_guided_attention_loss guided_attention_loss_num_heads
        guided_attention_loss_sigma guided_attention_loss_scale use_cache tie_word_embeddings num_hidden_layers
        max_length""".split()
    ),
    tiny={"vocab_size": 31, "hidden_size": 16, "encoder_layers": 1, "encoder_attention_heads": 2, "encoder_ffn_dim": 20}
    | {"encoder_max_relative_position": 4, "decoder_layers": 2, "decoder_attention_heads": 4, "decoder_ffn_dim": 22}
    | {"num_mel_bins": 9, "speech_decoder_prenet_units": 11, "speaker_embedding_dim": 7, "max_speech_positions": 60}
    | {"speech_decoder_postnet_layers": 2, "speech_decoder_postnet_units": 13, "max_text_positions": 64},
    variations=(
        {
            "hidden_size": 18,
            "encoder_layers": 2,
            "encoder_attention_heads": 3,
            "decoder_layers": 1,
            "hidden_act": "relu",
        }
        | {"decoder_attention_heads": 1, "speech_decoder_prenet_layers": 1, "speech_decoder_prenet_dropout": 0.25}
        | {"reduction_factor": 3, "speech_decoder_postnet_layers": 1, "speech_decoder_postnet_kernel": 3}
        | {"layer_norm_eps": 1e-4, "max_text_positions": 33},
    ),
)
