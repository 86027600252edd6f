"""TimeSformer: ViT over the patches of all frames of a video, whose layers look along time and across a frame one after
the other, or at both at once, or at each frame alone. https://arxiv.org/abs/2102.05095"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import Tensor, nn

from precast.export import heads
from precast.export.blocks.attention import SelfAttention
from precast.export.blocks.mlp import MLP
from precast.export.blocks.norms import LayerNorm
from precast.export.blocks.patches import rows_of
from precast.export.families import vit
from precast.export.image_heads import ImageFeatures, ImageModel, VideoClassification
from precast.export.skeletons.stack import Stack, stack
from precast.export.spec import hf
from precast.export.weights import Rename, Rule, Split, Within
from precast.runtime.ports import Out, Port

__all__ = ["FAMILY", "Spec"]


@dataclass(frozen=True, kw_only=True)
class Spec(vit.Sizes):
    layer_norm_eps: float = hf(default=1e-6)
    num_frames: int = hf(default=8)
    qkv_bias: bool = hf(default=True)
    attention_type: str = hf(
        default="divided_space_time", only=("divided_space_time", "space_only", "joint_space_time")
    )

    @property
    def alone(self) -> bool:
        """Each frame is a row of its own, in the outputs too."""
        return self.attention_type == "space_only"


class _Frames(nn.Module):
    """Pixels [B, F, C, I, I] -> a class token and the patches, each in all frames, [B, 1 + P * F, H]; of frames that
    are alone [B * F, 1 + P, H]."""

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        self.spec, size = spec, spec.hidden_size
        self.patches = (spec.image_size // spec.patch_size) ** 2
        self.projection = nn.Conv2d(spec.num_channels, size, kernel_size=spec.patch_size, stride=spec.patch_size)
        self.cls_token = nn.Parameter(torch.empty(1, 1, size))
        self.positions = nn.Parameter(torch.empty(1, self.patches + 1, size))
        self.times = None if spec.alone else nn.Parameter(torch.empty(1, spec.num_frames, size))

    def ports(self) -> tuple[Port, ...]:
        spec = self.spec
        shape = ("batch", spec.num_frames, spec.num_channels, spec.image_size, spec.image_size)
        return (Port("pixel_values", "float32", shape, "pixels"),)

    def forward(self, pixels: Tensor) -> Tensor:
        spec, batch = self.spec, pixels.shape[0]
        pictures = pixels.view(batch * spec.num_frames, *pixels.shape[2:])
        rows = rows_of(self.projection(pictures)) + self.positions[:, 1:]
        first = self.cls_token + self.positions[:, :1]
        if self.times is None:
            return torch.cat((first.expand(batch * spec.num_frames, -1, -1), rows), dim=1)
        rows = rows.view(batch, spec.num_frames, self.patches, -1).transpose(1, 2) + self.times[:, None]
        rows = rows.reshape(batch, self.patches * spec.num_frames, spec.hidden_size)
        return torch.cat((first.expand(batch, -1, -1), rows), dim=1)


class _DividedLayer(nn.Module):
    """x = x + dense(attention(norm(x))) along the frames of each patch; x = x + attention(norm(x)) across the patches
    of each frame and the class token, which takes the mean of what frames make of it; x = x + mlp(norm(x))."""

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        self.frames, size, epsilon = spec.num_frames, spec.hidden_size, spec.layer_norm_eps
        self.temporal_attn, self.self_attn = (
            SelfAttention(size, heads=spec.num_attention_heads, bias=spec.qkv_bias, out_bias=True) for _ in range(2)
        )
        self.temporal_norm, self.attention_norm, self.mlp_norm = (LayerNorm(size, epsilon) for _ in range(3))
        self.temporal_dense = nn.Linear(size, size)
        self.mlp = MLP(size, spec.intermediate_size, spec.hidden_act)

    def forward(
        self, x: Tensor, update: Tensor | None, mask: Tensor | None, bias: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        x = x if update is None else x + update
        batch, width, frames = x.shape[0], x.shape[2], self.frames
        patches = (x.shape[1] - 1) // frames
        first, rows = x[:, :1], x[:, 1:]
        along = rows.reshape(batch * patches, frames, width)
        along = self.temporal_attn(self.temporal_norm(along), mask).view(batch, patches * frames, width)
        rows = rows + self.temporal_dense(along)
        across = rows.view(batch, patches, frames, width).transpose(1, 2).reshape(batch * frames, patches, width)
        each = first.expand(-1, frames, -1).reshape(batch * frames, 1, width)
        made = self.self_attn(self.attention_norm(torch.cat((each, across), dim=1)), mask)
        token = made[:, 0].view(batch, frames, width).mean(dim=1, keepdim=True)
        made = (
            made[:, 1:].reshape(batch, frames, patches, width).transpose(1, 2).reshape(batch, patches * frames, width)
        )
        normed, x = self.mlp_norm.add(torch.cat((token, made), dim=1), torch.cat((first, rows), dim=1))
        return x, self.mlp(normed)


def _body(spec: Spec) -> ImageModel:
    if spec.attention_type == "divided_space_time":
        layers = (_DividedLayer(spec) for _ in range(spec.num_hidden_layers))
        return ImageModel(_Frames(spec), Stack(layers, LayerNorm(spec.hidden_size, spec.layer_norm_eps)))
    return ImageModel(_Frames(spec), stack(spec, bias=spec.qkv_bias))


class _Features(ImageFeatures):
    """Where frames are alone, a row is one of them, as upstream has it."""

    def outs(self) -> tuple[Out, ...]:
        return _rows(self.model, super().outs())


class _Classification(VideoClassification):
    def outs(self) -> tuple[Out, ...]:
        return _rows(self.model, super().outs())


def _rows(model: ImageModel, outs: tuple[Out, ...]) -> tuple[Out, ...]:
    alone = cast(_Frames, model.embeddings).spec.alone
    return tuple(out._replace(shape=("frames", *out.shape[1:])) for out in outs) if alone else outs


def _classifier(spec: Spec, absent: frozenset[str]) -> nn.Module:
    return _Classification(_body(spec), nn.Linear(spec.hidden_size, spec.labels))


def _weights(spec: Spec) -> tuple[Rule, ...]:
    layer = []
    for old, new in (("attention", "attention"), ("temporal_attention", "temporal_attn")):
        for part in ("weight", "bias"):
            names = tuple(f"{new}.{key}_proj.{part}" for key in "qkv")
            layer.append(Split(f"{old}.attention.qkv.{part}", names))
    return (
        Rename("timesformer.*", "*"),
        Within("encoder.layer.{}.", tuple(layer)),
        Rename("encoder.layer.{}.temporal_attention.output.dense.*", "encoder.layer.{}.temporal_attn.o_proj.*"),
        Rename("encoder.layer.{}.temporal_layernorm.*", "encoder.layer.{}.temporal_norm.*"),
        *vit.model_names("timesformer"),
        Rename("embeddings.time_embeddings", "model.embeddings.times"),
    )


FAMILY = replace(
    vit.FAMILY,
    spec=Spec,
    heads={
        heads.BASE: lambda spec, absent: _Features(_body(spec), None),
        heads.VIDEO_CLASSIFICATION: _classifier,
    },
    weights=_weights,
    optional=(),
    inert=frozenset({"drop_path_rate"}),
    tiny={key: value for key, value in vit.FAMILY.tiny.items() if key != "pooler_output_size"}
    | {"num_frames": 3, "image_size": 12},
    variations=(
        # Odd sizes: 3 heads of 7 channels, a picture that is no multiple of its patches, no biases, one channel.
        {"hidden_size": 21, "num_hidden_layers": 1, "num_attention_heads": 3, "intermediate_size": 37}
        | {"image_size": 13, "patch_size": 5, "num_channels": 1, "qkv_bias": False, "num_labels": 5}
        | {"hidden_act": "gelu_new", "layer_norm_eps": 1e-5, "attention_type": "joint_space_time"},
        {"attention_type": "space_only", "num_hidden_layers": 1},
    ),
)
