"""A decoder that says a spectrogram, some frames at a step, in a given voice; and what mends the frames.
https://arxiv.org/abs/1809.08895

The runtime calls a `FrameStep` once for each frame or few (`precast.runtime.spectrogram`), and `Mending` at the end."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from precast.export.blocks.activations import Activation, activation
from precast.export.blocks.attention import head_size
from precast.export.blocks.mlp import MLP
from precast.export.blocks.norms import LayerNorm
from precast.export.blocks.tables import Table
from precast.export.operators import attention
from precast.export.signatures import Component
from precast.export.skeletons.conformer import PostNet
from precast.export.spec import Spec, hf
from precast.runtime.catalogue import CATALOGUE
from precast.runtime.errors import ConfigError
from precast.runtime.ports import Dim, Out, Port

__all__ = ["FrameStep", "Mending", "ScaledSines", "SpectrogramSpec"]


@dataclass(frozen=True, kw_only=True)
class SpectrogramSpec(Spec):
    """Defaults are SpeechT5's."""

    hidden_size: int = hf(default=768)
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

    def __post_init__(self) -> None:
        head_size(self.hidden_size, self.decoder_attention_heads)
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

    @property
    def left(self) -> int:
        """Channels of the keys and values of all layers."""
        return 2 * self.decoder_layers * self.hidden_size


class ScaledSines(nn.Module):
    """Sines and cosines of positions, in turns, by a factor that was learned, [...] -> [..., H].

    Args:
        count: positions. dim: the name of the dimension that counts them, or None.
    """

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


class _Remembered(nn.Module):
    """Attention of one state [B, 1, H] over those before it, whose keys and values stand side by side [B, T, 2 * H],
    and itself -> [B, 1, H], and its own keys and values [B, 1, 2 * H]."""

    def __init__(self, size: int, heads: int) -> None:
        super().__init__()
        self.heads, self.scale = heads, head_size(size, heads) ** -0.5
        self.q_proj, self.k_proj, self.v_proj, self.o_proj = (nn.Linear(size, size) for _ in range(4))

    def forward(self, x: Tensor, past: Tensor, past_mask: Tensor) -> tuple[Tensor, Tensor]:
        size = x.shape[2]
        own = torch.cat((self.k_proj(x), self.v_proj(x)), dim=-1)
        seen = torch.cat((past, own), dim=1)
        mask = torch.cat((past_mask, torch.ones_like(past_mask[:, :1])), dim=1)
        keys, values = seen[..., :size], seen[..., size:]
        made = attention(self.q_proj(x), keys, values, mask=mask, heads=self.heads, scale=self.scale)
        return self.o_proj(made), own


class _Encoded(nn.Module):
    """Attention of one state [B, 1, H] over keys and values that an encoder made, side by side [B, S, 2 * H]."""

    def __init__(self, size: int, heads: int) -> None:
        super().__init__()
        self.heads, self.scale = heads, head_size(size, heads) ** -0.5
        self.q_proj, self.o_proj = nn.Linear(size, size), nn.Linear(size, size)

    def forward(self, x: Tensor, cross: Tensor, mask: Tensor) -> Tensor:
        size = x.shape[2]
        keys, values = cross[..., :size], cross[..., size:]
        return self.o_proj(attention(self.q_proj(x), keys, values, mask=mask, heads=self.heads, scale=self.scale))


class _Layer(nn.Module):
    """One state [B, 1, H], what those before it left and the encoder's keys and values -> the next state, and its
    own keys and values."""

    def __init__(self, spec: SpectrogramSpec) -> None:
        super().__init__()
        size, heads = spec.hidden_size, spec.decoder_attention_heads
        self.self_attn, self.cross_attn = _Remembered(size, heads), _Encoded(size, heads)
        self.mlp = MLP(size, spec.decoder_ffn_dim, spec.hidden_act)
        self.attention_norm, self.cross_norm, self.mlp_norm = (LayerNorm(size, spec.layer_norm_eps) for _ in range(3))

    def forward(self, x: Tensor, past: Tensor, past_mask: Tensor, cross: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        made, own = self.self_attn(x, past, past_mask)
        x, _ = self.attention_norm.add(made, x)
        x, _ = self.cross_norm.add(self.cross_attn(x, cross, mask), x)
        x, _ = self.mlp_norm.add(self.mlp(x), x)
        return x, own


class FrameStep(Component):
    """The last frame [B, C], its number [B], which units of the layers in front are kept [B, K, U], the voice [B, E],
    what was left so far [B, T, 2 * L * H] and what of it is real, and what was encoded -> {"spectrum": the next frames
    [B, R, C], "stop": how likely these are the last, "present": what is left of this step}.

    Args:
        own: this component's name. encoder: that of the one that encodes.
    """

    def __init__(self, spec: SpectrogramSpec, *, encoder: str, own: str) -> None:
        super().__init__()
        self.spec, size, units = spec, spec.hidden_size, spec.speech_decoder_prenet_units
        self.components = [encoder, own]
        sizes = [spec.num_mel_bins, *(units for _ in range(spec.speech_decoder_prenet_layers))]
        self.prenet = nn.ModuleList(nn.Linear(*pair) for pair in itertools.pairwise(sizes))
        self.final_layer, self.positions = nn.Linear(units, size), ScaledSines(spec.max_speech_positions, size)
        self.voice = nn.Linear(size + spec.speaker_embedding_dim, size)
        self.layers = nn.ModuleList(_Layer(spec) for _ in range(spec.decoder_layers))
        self.feat_out = nn.Linear(size, spec.num_mel_bins * spec.reduction_factor)
        self.prob_out = nn.Linear(size, spec.reduction_factor)

    def ports(self) -> tuple[Port, ...]:
        spec, number = self.spec, "float32"
        kept = ("batch", spec.speech_decoder_prenet_layers, spec.speech_decoder_prenet_units)
        return (
            Port("frame", number, ("batch", spec.num_mel_bins), "features"),
            Port("position", "int64", ("batch",), "positions", below=spec.max_speech_positions),
            Port("kept", number, kept, "features", default=1.0),
            Port("speaker_embeddings", number, ("batch", spec.speaker_embedding_dim), "features"),
            Port("past", number, ("batch", "past", spec.left), "features"),
            Port("past_mask", "int64", ("batch", "past"), "mask", default=1),
            Port("cross", number, ("batch", "source", spec.left), "features"),
            Port("cross_mask", "int64", ("batch", "source"), "mask", default=1),
        )

    def outs(self) -> tuple[Out, ...]:
        spectrum = Out("spectrum", ("batch", self.spec.reduction_factor, self.spec.num_mel_bins), "scores")
        return spectrum, Out("stop", ("batch",), "scores"), Out("present", ("batch", self.spec.left), "scores")

    def largest(self) -> int:
        return 64  # of what was encoded and of what was said, each of which has keys and values of all layers

    def processing(self) -> Mapping[str, Any]:
        spec = self.spec
        said = {"components": self.components, "bins": spec.num_mel_bins, "reduction": spec.reduction_factor}
        said |= {"kept": [spec.speech_decoder_prenet_layers, spec.speech_decoder_prenet_units]}
        said |= {"dropout": spec.speech_decoder_prenet_dropout, "width": spec.left, "most": spec.max_speech_positions}
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
        cross_mask: Tensor,
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
            x, made = step(x, past[..., own], past_mask, cross[..., own], cross_mask)
            left.append(made)
        x = x[:, 0]
        spectrum = self.feat_out(x).view(x.shape[0], self.spec.reduction_factor, self.spec.num_mel_bins)
        stop = torch.sigmoid(self.prob_out(x)).sum(dim=-1)
        return {"spectrum": spectrum, "stop": stop, "present": torch.cat(left, dim=-1)[:, 0]}


class Mending(Component):
    """Frames [B, T, C] -> {"spectrogram": [B, T, C]}."""

    def __init__(self, spec: SpectrogramSpec) -> None:
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
