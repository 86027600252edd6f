"""VideoMAE: ViT over tubes of a video, patches of a few frames at once. https://arxiv.org/abs/2203.12602

It was trained to draw those that are hidden of those that it sees; which ones these are, the runtime says by number
(`precast.runtime.masked_patches`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from precast.export import heads
from precast.export.blocks.norms import LayerNorm
from precast.export.blocks.patches import rows_of
from precast.export.blocks.tables import Table
from precast.export.families import vit
from precast.export.image_heads import ImageFeatures, ImageModel, MeanState, VideoClassification
from precast.export.signatures import Component
from precast.export.skeletons.stack import stack
from precast.export.spec import hf
from precast.export.weights import Compute, Rename, Rule, Within
from precast.runtime.catalogue import CATALOGUE
from precast.runtime.errors import ConfigError
from precast.runtime.ports import Dim, Out, Port

__all__ = ["FAMILY", "Spec"]


@dataclass(frozen=True, kw_only=True)
class Spec(vit.Sizes):
    num_frames: int = hf(default=16)
    tubelet_size: int = hf(default=2)
    qv_bias: bool = hf(("qkv_bias", "qv_bias"), default=True)
    use_mean_pooling: bool = hf(default=True)
    decoder_hidden_size: int = hf(default=384)
    decoder_num_hidden_layers: int = hf(default=4)
    decoder_num_attention_heads: int = hf(default=6)
    decoder_intermediate_size: int = hf(default=1536)

    def __post_init__(self) -> None:
        if not 1 <= self.tubelet_size <= self.num_frames:
            raise ConfigError(f"'tubelet_size' {self.tubelet_size} must be 1 to 'num_frames' {self.num_frames}")

    @property
    def tubes(self) -> int:
        """How many there are one after the other; frames that fill none are not seen."""
        return self.num_frames // self.tubelet_size

    @property
    def patches(self) -> int:
        """Of a video."""
        return self.tubes * (self.image_size // self.patch_size) ** 2


class _Tubes(nn.Module):
    """Pixels [B, F, C, I, I] -> a row for each tube, with fixed positions, [B, F / T * (I / P)^2, H].

    Frames of a tube are channels of one picture, so that patches are taken of pictures."""

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        self.spec, size = spec, spec.hidden_size
        channels = spec.tubelet_size * spec.num_channels
        self.projection = nn.Conv2d(channels, size, kernel_size=spec.patch_size, stride=spec.patch_size)
        self.positions = Table((1, spec.patches, size), lambda: _waves(spec.patches, size)[None])

    def ports(self) -> tuple[Port, ...]:
        spec = self.spec
        shape = ("batch", spec.num_frames, spec.num_channels, spec.image_size, spec.image_size)
        return (Port("pixel_values", "float32", shape, "pixels"),)

    def forward(self, pixels: Tensor) -> Tensor:
        spec, batch = self.spec, pixels.shape[0]
        if spec.num_frames % spec.tubelet_size:
            pixels = pixels[:, : spec.tubes * spec.tubelet_size]
            pixels = pixels.clone(memory_format=torch.contiguous_format)
        channels, side = spec.tubelet_size * spec.num_channels, spec.image_size
        rows = rows_of(self.projection(pixels.view(batch * spec.tubes, channels, side, side)))
        return rows.clone(memory_format=torch.contiguous_format).view(batch, -1, spec.hidden_size) + self.positions()


def _waves(places: int, size: int) -> Tensor:
    """Sines in even channels and cosines in odd ones, in float32 as models were trained with them, [S, H].
    https://arxiv.org/abs/1706.03762"""
    channel = torch.arange(size, dtype=torch.float64)
    angles = torch.arange(places, dtype=torch.float64)[:, None] / 10000 ** (2 * (channel // 2) / size)
    return torch.where(channel % 2 == 0, angles.sin(), angles.cos()).to(torch.float32).to(torch.float64)


class _NormedMean(MeanState):
    """States [B, S, H] -> norm(mean), [B, H]."""

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        self.norm = LayerNorm(spec.hidden_size, 1e-5)

    def forward(self, states: Tensor) -> Tensor:
        return self.norm(super().forward(states))


def _body(spec: Spec) -> ImageModel:
    return ImageModel(_Tubes(spec), stack(spec, bias=spec.qv_bias, key_bias=False, normed=not spec.use_mean_pooling))


class _Drawn(Component):
    """Pixels, numbers of patches that are seen [B, K], of those that are hidden [B, M] -> {"logits": the pixels of
    these, [B, M, T * side^2 * C]}."""

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        self.model, self.patches, size = _body(spec), spec.patches, spec.decoder_hidden_size
        self.embed = nn.Linear(spec.hidden_size, size, bias=False)
        self.mask_token = nn.Parameter(torch.empty(1, 1, size))
        self.positions = Table((spec.patches, size), lambda: _waves(spec.patches, size))
        own = replace(
            spec,
            hidden_size=size,
            num_hidden_layers=spec.decoder_num_hidden_layers,
            num_attention_heads=spec.decoder_num_attention_heads,
            intermediate_size=spec.decoder_intermediate_size,
        )
        self.stack, self.norm = stack(own, bias=spec.qv_bias, key_bias=False, normed=False), LayerNorm(size, 1e-5)
        self.pixels = nn.Linear(size, spec.tubelet_size * spec.patch_size**2 * spec.num_channels)

    def ports(self) -> tuple[Port, ...]:
        kinds = ("visible", "hidden")
        numbers = (Port(f"{kind}_patches", "int64", ("batch", kind), "positions", below=self.patches) for kind in kinds)
        return (*self.model.ports(), *numbers)

    def bounds(self) -> Mapping[str, Dim]:
        return dict.fromkeys(("visible", "hidden"), Dim(most=self.patches - 1))

    def outs(self) -> tuple[Out, ...]:
        drawn = CATALOGUE["pretraining"].outs[0]
        return (drawn._replace(shape=("batch", "hidden", *drawn.shape[2:])),)

    def processing(self) -> Mapping[str, Any]:
        return {"masked_patches": {"patches": self.patches}}

    def forward(self, pixel_values: Tensor, visible_patches: Tensor, hidden_patches: Tensor) -> dict[str, Tensor]:
        rows = self.model.embeddings(pixel_values)
        seen = rows.gather(1, visible_patches[:, :, None].expand(-1, -1, rows.shape[2]))
        x = self.embed(self.model.stack(seen)) + F.embedding(visible_patches, self.positions())
        hidden = self.mask_token + F.embedding(hidden_patches, self.positions())
        # Those that are hidden first: how many they are says where they end.
        drawn = self.stack(torch.cat((hidden, x), dim=1))[:, : hidden_patches.shape[1]]
        return {"logits": self.pixels(self.norm(drawn))}


def _base(spec: Spec, absent: frozenset[str]) -> nn.Module:
    return ImageFeatures(_body(spec), None)


def _classifier(spec: Spec, absent: frozenset[str]) -> nn.Module:
    pooler = _NormedMean(spec) if spec.use_mean_pooling else None
    return VideoClassification(_body(spec), nn.Linear(spec.hidden_size, spec.labels), pooler)


_DRAWING = "decoder.decoder_layers.{}."


def _weights(spec: Spec) -> tuple[Rule, ...]:
    projection = "model.embeddings.projection.weight"
    shape = (spec.hidden_size, spec.tubelet_size * spec.num_channels, spec.patch_size, spec.patch_size)
    biases = tuple(Rename(f"attention.attention.{key}_bias", f"attention.{key}_proj.bias") for key in "qv")
    return (
        Rename("videomae.*", "*"),
        *(Within(layers, biases) for layers in ("encoder.layer.{}.", _DRAWING)),  # as transformers 4 names them
        vit.layer_names(_DRAWING, "stack.layers.{}."),
        Rename("encoder_to_decoder.*", "embed.*"),
        Rename("decoder.norm.*", "norm.*"),
        Rename("decoder.head.*", "pixels.*"),
        *vit.model_names("videomae"),
        Compute((projection,), projection, shape, lambda kernels: kernels.transpose(1, 2).reshape(shape)),
        Rename("fc_norm.*", "pooler.norm.*"),
    )


FAMILY = replace(
    vit.FAMILY,
    spec=Spec,
    heads={
        heads.BASE: _base,
        heads.PRETRAINING: lambda spec, absent: _Drawn(spec),
        heads.VIDEO_CLASSIFICATION: _classifier,
    },
    weights=_weights,
    optional=(),
    inert=frozenset({"norm_pix_loss"}),
    tiny={key: value for key, value in vit.FAMILY.tiny.items() if key != "pooler_output_size"}
    | {"num_frames": 4, "image_size": 12, "decoder_hidden_size": 20, "decoder_num_hidden_layers": 1}
    | {"decoder_num_attention_heads": 2, "decoder_intermediate_size": 24},
    variations=(
        # Odd sizes: 3 heads of 7 channels, 7 frames in tubes of 3, no biases, one channel.
        {"hidden_size": 21, "num_hidden_layers": 1, "num_attention_heads": 3, "intermediate_size": 37}
        | {"image_size": 13, "patch_size": 5, "num_channels": 1, "qv_bias": False, "num_labels": 5, "num_frames": 7}
        | {"hidden_act": "gelu_new", "layer_norm_eps": 1e-5, "use_mean_pooling": False, "tubelet_size": 3},
    ),
)
