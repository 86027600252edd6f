"""CLAP: CLIP of recordings, whose spectrograms a Swin reads as pictures, and texts. https://arxiv.org/abs/2211.06687;
the tower of sound is HTS-AT, https://arxiv.org/abs/2202.00874"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from precast.export import heads
from precast.export.blocks.activations import Activation, activation
from precast.export.blocks.convolution import COUNTERS, BatchNorm
from precast.export.blocks.embeddings import CountedPositions
from precast.export.blocks.norms import LayerNorm
from precast.export.blocks.patches import rows_of
from precast.export.blocks.resample import Bicubic
from precast.export.blocks.tables import Table
from precast.export.components import Composite
from precast.export.families import Family, roberta, swin
from precast.export.image_heads import MeanState
from precast.export.signatures import Component
from precast.export.skeletons import post_norm
from precast.export.skeletons.two_towers import Embeds, TextEmbeds
from precast.export.spec import Spec as Base
from precast.export.spec import hf
from precast.export.weights import Rename, Rule, Within
from precast.runtime.catalogue import CATALOGUE
from precast.runtime.errors import ConfigError
from precast.runtime.ports import Dim, Out, Port

__all__ = ["FAMILY", "AudioSpec", "Spec", "TextSpec"]

_NORM = 1e-5  # epsilon of the norms outside of layers, whatever that of layers is
_INERT = frozenset({"initializer_factor", "model_type", "projection_dim", "projection_hidden_act", "drop_path_rate"})
_INERT |= {
    "num_classes",
    "fusion_hidden_size",
    "fusion_num_hidden_layers",
    "num_hidden_layers",
    "bos_token_id",
    "eos_token_id",
}


@dataclass(frozen=True, kw_only=True)
class TextSpec(roberta.Spec):
    vocab_size: int = hf(default=50265)
    max_position_embeddings: int = hf(default=514)
    type_vocab_size: int = hf(default=1)


@dataclass(frozen=True, kw_only=True)
class AudioSpec(Base):
    """Defaults are those of upstream's class; names as `swin.Stages` has them."""

    embed_dim: int = hf("patch_embeds_hidden_size", default=96)
    depths: tuple[int, ...] = hf(default=(2, 2, 6, 2), read=swin.numbers)
    num_heads: tuple[int, ...] = hf("num_attention_heads", default=(4, 8, 16, 32), read=swin.numbers)
    window_size: int = hf(default=8)
    mlp_ratio: float = hf(default=4.0)
    qkv_bias: bool = hf(default=True)
    hidden_act: Activation = hf(default=activation("gelu"), read=activation)
    layer_norm_eps: float = hf(default=1e-5)
    image_size: int = hf("spec_size", default=256)
    patch_size: int = hf(default=4)
    patch_stride: Any = hf(default=(4, 4))
    num_mel_bins: int = hf(default=64)
    hidden_size: int = hf(default=768)
    enable_fusion: bool = hf(default=False)
    fusion_type: str | None = hf(default=None)
    aff_block_r: int = hf(default=4)
    enable_patch_layer_norm: bool = hf(default=True)
    patch_embed_input_channels: int = hf(default=1, only=(1,))
    flatten_patch_embeds: bool = hf(default=True, only=(True,))

    @property
    def ratio(self) -> int:
        """Parts of a spectrogram that are put on top of each other, so that it becomes a square."""
        return self.image_size // self.num_mel_bins

    def __post_init__(self) -> None:
        if len(self.depths) != len(self.num_heads):
            raise ConfigError(f"'num_attention_heads' {self.num_heads} must be as many as 'depths' {self.depths}")
        strides = [self.patch_stride] if isinstance(self.patch_stride, int) else list(self.patch_stride)
        if set(strides) != {self.patch_size}:
            raise ConfigError(
                f"'patch_stride' {strides} must be 'patch_size' {self.patch_size}: patches do not overlap"
            )
        if self.image_size % self.num_mel_bins or self.image_size % self.ratio or self.image_size % self.patch_size:
            raise ConfigError(
                f"'spec_size' {self.image_size} must be a multiple of 'num_mel_bins' {self.num_mel_bins}, of how often "
                f"it has these, and of 'patch_size' {self.patch_size}"
            )
        if self.enable_fusion and self.fusion_type == "channel_map":
            raise ConfigError("'fusion_type' is 'channel_map', which is not honoured here")
        if self.hidden_size != self.embed_dim * 2 ** (len(self.depths) - 1):
            raise ConfigError(
                f"'hidden_size' {self.hidden_size} must be 'patch_embeds_hidden_size' {self.embed_dim}, doubled behind "
                f"each of {len(self.depths)} stages but the last"
            )


@dataclass(frozen=True, kw_only=True)
class Spec(Base):
    text: TextSpec = hf("text_config", default={}, spec=TextSpec, inert=_INERT)
    audio: AudioSpec = hf("audio_config", default={}, spec=AudioSpec, inert=_INERT)
    projection_dim: int = hf(default=512)
    projection_hidden_act: Activation = hf(default=activation("relu"), read=activation)


class _Square(nn.Module):
    """Features [A, C, T, F] -> the picture that a Swin reads, [A, C, R * F, R * F]: normalised for each bin, stretched
    to R * R * F frames, and its R parts in time on top of each other."""

    def __init__(self, bins: int, ratio: int) -> None:
        super().__init__()
        self.ratio, self.frames = ratio, bins * ratio * ratio
        self.norm, self.cubic = BatchNorm(bins, _NORM), Bicubic(1)
        last = max(self.frames - 1, 1)
        self.shares = Table((self.frames,), lambda: torch.arange(self.frames, dtype=torch.float64) / last)

    def bounds(self) -> dict[str, Dim]:
        return {"frames": Dim(most=self.frames)}

    def forward(self, features: Tensor) -> Tensor:
        x = self.norm(features.transpose(1, 3)).transpose(1, 3)
        last = torch.arange(x.shape[2], device=x.device)[-1:]
        place = self.shares() * last.to(x.dtype)
        first = place.floor()
        away, near = place - first, first.to(torch.int64)
        x = sum(
            x.index_select(2, torch.minimum((near + step).clamp(min=0), last))
            * self.cubic.kernel(away - step).unsqueeze(1)
            for step in (-1, 0, 1, 2)
        )
        audios, channels, frames, bins = x.shape[0], x.shape[1], self.frames, features.shape[3]
        parts = x.view(audios, channels, self.ratio, frames // self.ratio, bins).transpose(3, 4)
        parts = parts.clone(memory_format=torch.contiguous_format)
        return parts.view(audios, channels, self.ratio * bins, frames // self.ratio)


def _weighed(channels: int, inner: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, inner, 1), BatchNorm(inner), nn.ReLU(), nn.Conv2d(inner, channels, 1), BatchNorm(channels)
    )


class _Fusion(nn.Module):
    """Two maps [A, H, R, C] as one, of which places and channels say how much is of which.
    https://arxiv.org/abs/2009.14082"""

    def __init__(self, channels: int, shrunk: int) -> None:
        super().__init__()
        self.each, self.all = (_weighed(channels, channels // shrunk) for _ in range(2))

    def forward(self, x: Tensor, other: Tensor) -> Tensor:
        both = x + other
        share = torch.sigmoid(self.each(both) + self.all(both.mean(dim=(2, 3), keepdim=True)))
        return 2 * x * share + 2 * other * (1 - share)


class _Patches(nn.Module):
    """Features [A, C, T, F] -> normalised patches [A, P, H]. Of models of four channels the first is the whole
    recording, and those of longer ones see three parts of it, too."""

    def __init__(self, spec: AudioSpec) -> None:
        super().__init__()
        size, self.patch, self.fused = spec.embed_dim, spec.patch_size, spec.enable_fusion
        self.square = _Square(spec.num_mel_bins, spec.ratio)
        self.projection = nn.Conv2d(1, size, self.patch, self.patch)
        self.norm = LayerNorm(size, _NORM) if spec.enable_patch_layer_norm else nn.Identity()
        if self.fused:
            wide = (self.patch, 3 * self.patch)
            self.parts, self.fusion = nn.Conv2d(1, size, wide, wide), _Fusion(size, spec.aff_block_r)

    def forward(self, features: Tensor, is_longer: Tensor | None = None) -> Tensor:
        x = self.square(features)
        grid = self.projection(x[:, :1])
        if self.fused:
            assert is_longer is not None
            parts = [self.parts(x[:, number : number + 1]) for number in (1, 2, 3)]
            beyond = grid.shape[3] - 3 * parts[0].shape[3]
            other = torch.constant_pad_nd(torch.cat(parts, dim=3), (0, beyond))
            grid = torch.where(is_longer[:, :, None, None] == 1, self.fusion(grid, other), grid)
        return self.norm(rows_of(grid))


class _Body(nn.Module):
    """What the tower hears -> states [A, S, H]."""

    def __init__(self, spec: AudioSpec) -> None:
        super().__init__()
        self.channels, self.bins = 4 if spec.enable_fusion else 1, spec.num_mel_bins
        self.embeddings = _Patches(spec)
        self.stack = swin.Stages(spec, swin.layer, swin.merge)
        self.stack.norm = LayerNorm(spec.hidden_size, _NORM)

    def ports(self) -> tuple[Port, ...]:
        features = Port("input_features", "float32", ("batch", self.channels, "frames", self.bins), "features")
        # Upstream's extractor says so of every recording that is alone, be it long or not.
        longer = Port("is_longer", "int64", ("batch", 1), "labels", default=1, below=2)
        return (features, longer) if self.channels > 1 else (features,)

    def forward(self, features: Tensor, is_longer: Tensor | None = None) -> Tensor:
        return self.stack(self.embeddings(features, is_longer))


class _AudioEmbeds(Embeds):
    """Features [A, C, T, F], which are of longer recordings [A, 1] -> {"audio_embeds": [A, P]} of length 1."""

    name, rows = "audio", "audios"

    def forward(self, input_features: Tensor, is_longer: Tensor | None = None) -> dict[str, Tensor]:
        return self.embedded(self.pooler(self.model(input_features, is_longer)))


class _Projection(nn.Module):
    """down(act(up(x))), [N, H] -> [N, P]."""

    def __init__(self, size: int, width: int, act: Activation) -> None:
        super().__init__()
        self.act = act
        self.up, self.down = nn.Linear(size, width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.act(self.up(x)))


class _Similarity(Component):
    """[A, P], [T, P] -> {"logits_per_audio": [A, T], "logits_per_text": [T, A]}, each with a scale of its own."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width
        self.audio_scale, self.text_scale = (nn.Parameter(torch.empty(())) for _ in range(2))

    def ports(self) -> tuple[Port, ...]:
        return tuple(
            Port(f"{kind}_embeds", "float32", (f"{kind}s", self.width), "features", source=kind)
            for kind in ("audio", "text")
        )

    def outs(self) -> tuple[Out, ...]:
        return CATALOGUE["zero-shot-audio-classification"].outs

    def forward(self, audio_embeds: Tensor, text_embeds: Tensor) -> dict[str, Tensor]:
        likeness = audio_embeds @ text_embeds.t()
        return {
            "logits_per_audio": likeness * self.audio_scale.exp(),
            "logits_per_text": likeness.t() * self.text_scale.exp(),
        }


def _compose(spec: Spec, absent: frozenset[str]) -> nn.Module:
    text, width = spec.text, spec.projection_dim

    assert text.pad_token_id is not None
    positions = CountedPositions(text.max_position_embeddings, text.hidden_size, text.pad_token_id)
    words = post_norm.encoder(text, post_norm.embeddings(text, positions))
    act = spec.projection_hidden_act
    of_text, of_sound = (_Projection(part.hidden_size, width, act) for part in (text, spec.audio))
    return Composite(
        {
            "text": TextEmbeds(words, heads.TanhPooler(text.hidden_size), of_text, width, features=False),
            "audio": _AudioEmbeds(_Body(spec.audio), MeanState(), of_sound, width, features=False),
            "similarity": _Similarity(width),
        }
    )


def _sound_names() -> tuple[Rule, ...]:
    return (
        Rename("audio_encoder.*", "*"),
        COUNTERS,
        Rename("layers.*", "encoder.layers.*"),
        Rename("norm.*", "layernorm.*"),
        Rename("patch_embed.proj.*", "embeddings.patch_embeddings.projection.*"),
        Rename("patch_embed.norm.*", "embeddings.norm.*"),
        *swin.weights("swin"),
        Rename("batch_norm.*", "model.embeddings.square.norm.*"),
        Rename("patch_embed.mel_conv2d.*", "model.embeddings.parts.*"),
        Rename("patch_embed.fusion_model.local_att.*", "model.embeddings.fusion.each.*"),
        *(  # behind a pooling that has no weights
            Rename(f"patch_embed.fusion_model.global_att.{number + 1}.*", f"model.embeddings.fusion.all.{number}.*")
            for number in range(5)
        ),
    )


def _weights(spec: Spec) -> tuple[Rule, ...]:
    return (
        Within("text_model.", post_norm.names("roberta"), to="text."),
        Within("audio_model.", _sound_names(), to="audio."),
        *(
            Rename(f"{kind}_projection.{old}.*", f"{kind}.projection.{new}.*")
            for kind in ("text", "audio")
            for old, new in (("linear1", "up"), ("linear2", "down"))
        ),
        Rename("logit_scale_a", "similarity.audio_scale"),
        Rename("logit_scale_t", "similarity.text_scale"),
    )


# A grid of 8 in windows that shift, and one of 4, which is a window.
_TINY = {"patch_embeds_hidden_size": 16, "depths": [2, 1], "num_attention_heads": [2, 4], "window_size": 4}
_TINY |= {"mlp_ratio": 2.0, "spec_size": 32, "num_mel_bins": 16, "hidden_size": 32}

FAMILY = Family(
    spec=Spec,
    heads={heads.ZERO_SHOT_AUDIO: _compose},
    weights=_weights,
    inert=frozenset({"initializer_factor", "logit_scale_init_value", "hidden_size", "num_hidden_layers"}),
    tiny={
        "text_config": {**post_norm.TINY, "max_position_embeddings": 62, "type_vocab_size": 1},
        "audio_config": _TINY,
        "projection_dim": 24,
    },
    variations=(
        {
            "text_config": {**post_norm.ODD, "max_position_embeddings": 35, "type_vocab_size": 1, "pad_token_id": 0},
            "audio_config": _TINY
            | {"patch_embeds_hidden_size": 21, "depths": [1, 1], "num_attention_heads": [3, 2], "hidden_size": 42}
            | {"qkv_bias": False, "hidden_act": "relu", "enable_fusion": True, "aff_block_r": 3, "mlp_ratio": 1.5}
            | {"enable_patch_layer_norm": False, "layer_norm_eps": 1e-3},
            "projection_dim": 9,
            "projection_hidden_act": "gelu",
        },
    ),
)
