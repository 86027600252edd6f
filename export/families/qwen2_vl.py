"""Qwen2-VL: a decoder that knows of each feature of a picture where in its height and width it stands, and a ViT of
pictures of any size. https://arxiv.org/abs/2409.12191"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from precast.export import heads
from precast.export.blocks.activations import Activation, activation
from precast.export.blocks.attention import SelfAttention, head_size
from precast.export.blocks.mlp import MLP
from precast.export.blocks.norms import LayerNorm
from precast.export.blocks.patches import rows_of
from precast.export.blocks.rope import Rope
from precast.export.blocks.rotary import SteppedRotary, plain
from precast.export.blocks.tables import Table
from precast.export.components import Composite
from precast.export.families import Family, llama, qwen2
from precast.export.generative import DECODER, Joined
from precast.export.head_sets.decoders import causal_heads, layer
from precast.export.operators import attention, rotary, rotary_angles
from precast.export.skeletons.encoder import PreNormLayer
from precast.export.skeletons.joined import VISION, InnerDecoder, Seen
from precast.export.skeletons.stack import Stack
from precast.export.spec import Spec as Base
from precast.export.spec import hf
from precast.export.weights import Compute, Rename, Rule, Split, Within
from precast.runtime.errors import ConfigError
from precast.runtime.generation.among import FEATURES
from precast.runtime.generation.grids import AXES, Grids
from precast.runtime.ports import Dim, Port

__all__ = ["FAMILY", "Spec"]


@dataclass(frozen=True, kw_only=True)
class TextSpec(qwen2.Qwen2Spec):
    """What ``text_config`` says, or older files beside ``vision_config``."""

    vocab_size: int = hf(default=152064)
    hidden_size: int = hf(default=8192)
    intermediate_size: int = hf(default=29568)
    num_hidden_layers: int = hf(default=80)
    num_attention_heads: int = hf(default=64)
    num_key_value_heads: int | None = hf(default=8)
    rms_norm_eps: float = hf(default=1e-5)
    max_window_layers: int = hf(default=80)

    def __post_init__(self) -> None:
        super().__post_init__()
        if min(self.sections) < 0 or sum(self.sections) != self.size // 2:
            raise ConfigError(
                f"'mrope_section' {list(self.sections)} must be parts of the {self.size // 2} pairs of channels of a "
                "head, for time, height and width"
            )

    @property
    def sections(self) -> tuple[int, ...]:
        """Pairs of channels that turn by time, by height and by width, again and again."""
        said = self.rope_scaling or self.rope_parameters or {}
        return tuple(said.get("mrope_section", (16, 24, 24)))

    @property
    def rope(self) -> Rope:
        return self._rope(parameters=_turned(self.rope_parameters), scaling=_turned(self.rope_scaling), base=1e6)


def _turned(said: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Rotary parameters without what says which positions turn which channels."""
    kept = {key: value for key, value in (said or {}).items() if key not in ("mrope_section", "type")}
    kind = kept.get("rope_type", (said or {}).get("type", "default"))
    return None if said is None else {**kept, "rope_type": "default" if kind == "mrope" else kind}


class _Sectioned(SteppedRotary):
    """Positions [B, S, 3] turn sections of channels each."""

    sections: tuple[int, ...] = ()

    def _angles(self, positions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        made = [rotary_angles(positions[..., axis], self.frequencies(), self.scale) for axis in range(AXES)]
        cos, sin = (torch.cat(self._sections(kind), dim=1) for kind in zip(*made, strict=True))
        batch, length, _ = positions.shape
        return cos, sin, torch.arange(batch * length, device=positions.device).view(batch, length)

    def _sections(self, axes: Sequence[Tensor]) -> list[Tensor]:
        """Of cosines or sines by time, height and width [B * S, R / 2], the sections of channels that turn by each."""
        split = [axis.split(self.sections, dim=1) for axis in axes]
        return [split[place % AXES][place] for place in range(len(self.sections))]


def _layers(spec: TextSpec) -> list[nn.Module]:
    rope = spec.rope.module()
    positions = _Sectioned(spec.size, rope.frequencies.compute, rope.scale, longest=rope.longest)
    positions.sections = spec.sections
    return [layer(spec, bias=True, out_bias=False, positions=positions, window=window) for window in spec.windows]


_TEXT = Family(spec=TextSpec, heads=causal_heads(_layers), weights=llama.weights, tiny={})


@dataclass(frozen=True, kw_only=True)
class VisionSpec(Base):
    """What ``vision_config`` says; its ``hidden_size`` is the decoder's."""

    depth: int = hf(default=32)
    embed_dim: int = hf(default=1280)
    hidden_size: int = hf(default=3584)
    hidden_act: Activation = hf(default=activation("quick_gelu"), read=activation)
    mlp_ratio: int = hf(default=4)
    num_heads: int = hf(default=16)
    in_channels: int = hf(("in_channels", "in_chans"), default=3)
    patch_size: int = hf(("patch_size", "spatial_patch_size"), default=14)
    spatial_merge_size: int = hf(default=2)
    temporal_patch_size: int = hf(default=2)
    rope_parameters: dict[str, Any] | None = hf(default=None)

    def __post_init__(self) -> None:
        if head_size(self.embed_dim, self.num_heads) % 4:
            raise ConfigError(
                f"'vision_config.embed_dim' {self.embed_dim} must be a multiple of 4 times 'num_heads' "
                f"{self.num_heads}: pairs of channels turn by height, and as many by width"
            )
        said = self.rope_parameters or {}
        if said.get("rope_type", "axial") != "axial":
            raise ConfigError(f"'vision_config.rope_parameters' must be of rope_type 'axial'; received {said}")

    @property
    def theta(self) -> float:
        """Base of its rotary frequencies."""
        return float((self.rope_parameters or {}).get("rope_theta", 10000.0))

    @property
    def grids(self) -> Grids:
        """How pictures are patches."""
        return Grids(self.patch_size, self.spatial_merge_size, self.in_channels, self.temporal_patch_size)


class _Attention(SelfAttention):
    """Where patches stand, which turns queries and keys, comes in place of a bias: cosines, sines and which of them."""

    def forward(self, x: Tensor, mask: Tensor | None, bias: Any = None) -> Tensor:
        cos, sin, rows = bias
        query, key = (rotary(each(x), rows, cos, sin, heads=self.heads) for each in (self.q_proj, self.k_proj))
        return self.o_proj(attention(query, key, self.v_proj(x), heads=self.heads, scale=self.scale))


class _Vision(nn.Module):
    """Pixels [I, C, H, W] -> states of squares of M x M patches, [I, P / M^2, M^2 * E], line by line."""

    def __init__(self, spec: VisionSpec) -> None:
        super().__init__()
        size, patch = spec.embed_dim, spec.patch_size
        self.channels, self.unit, self.merge = spec.in_channels, spec.grids.unit, spec.spatial_merge_size
        self.projection = nn.Conv2d(spec.in_channels, size, kernel_size=patch, stride=patch, bias=False)
        axis = head_size(size, spec.num_heads) // 2
        self.frequencies = Table((axis // 2,), plain(axis, spec.theta))
        layers = [
            PreNormLayer(
                attention=_Attention(size, heads=spec.num_heads),
                attention_norm=LayerNorm(size, 1e-6),
                mlp=MLP(size, size * spec.mlp_ratio, spec.hidden_act),
                mlp_norm=LayerNorm(size, 1e-6),
            )
            for _ in range(spec.depth)
        ]
        self.stack = Stack(layers, LayerNorm(size, 1e-6))

    def ports(self) -> tuple[Port, ...]:
        """Pictures."""
        return (Port("pixel_values", "float32", ("images", self.channels, "height", "width"), "pixels"),)

    def bounds(self) -> dict[str, Dim]:
        """Whole squares of patches."""
        return dict.fromkeys(("height", "width"), Dim(least=self.unit, multiple=self.unit))

    def forward(self, pixels: Tensor) -> Tensor:
        grid = self.projection(pixels)
        count, _, rows, columns = grid.shape
        places = torch.arange(rows * columns, device=pixels.device)[None]
        down, across = (torch.arange(size, device=pixels.device) for size in (rows, columns))
        # Sums, which no size of a call makes a copy of.
        stand = (down[:, None] + torch.zeros_like(across)), (torch.zeros_like(down)[:, None] + across)
        turned = [rotary_angles(each.view(1, rows * columns), self.frequencies()) for each in stand]
        cos, sin = (torch.cat(kind, dim=1) for kind in zip(*turned, strict=True))
        states: Tensor = self.stack(rows_of(grid), bias=(cos, sin, places.expand(count, -1)))
        by = self.merge
        lines = states.view(count, rows // by, by, columns // by, by * states.shape[-1])
        squares = lines.transpose(2, 3).clone(memory_format=torch.contiguous_format)
        return squares.view(count, (rows // by) * (columns // by), by * by * states.shape[-1])


class _Seen(Seen):
    """Of each picture as many features as it has squares of patches."""

    def forward(self, pixel_values: Tensor) -> dict[str, Tensor]:
        return {FEATURES: self.project(self.model(pixel_values)).flatten(0, 1)}


@dataclass(frozen=True, kw_only=True)
class Spec(Base):
    text_config: TextSpec = hf(default={}, spec=TextSpec)
    vision_config: VisionSpec = hf(default={}, spec=VisionSpec)
    image_token_id: int = hf(default=151655)
    tie_word_embeddings: bool = hf(default=False)

    def __post_init__(self) -> None:
        if self.vision_config.hidden_size != self.text_config.hidden_size:
            raise ConfigError(
                f"'vision_config.hidden_size' {self.vision_config.hidden_size} must be that of the decoder, "
                f"{self.text_config.hidden_size}"
            )

    @cached_property
    def text(self) -> InnerDecoder:
        """What writes."""
        tied = self.tie_word_embeddings or self.text_config.tie_word_embeddings
        return InnerDecoder(_TEXT, dataclasses.replace(self.text_config, tie_word_embeddings=tied))


def _compose(spec: Spec, absent: frozenset[str]) -> nn.Module:
    own = spec.vision_config
    width = own.embed_dim * own.spatial_merge_size**2
    project = MLP(width, width, activation("gelu"))
    project.down_proj = nn.Linear(width, own.hidden_size)
    decoder = spec.text.build()
    decoder.joined = Joined(VISION, spec.image_token_id, own.hidden_size, 1, grids=own.grids)
    return Composite({VISION: _Seen(_Vision(own), project, own.hidden_size), DECODER: decoder})


def _weights(spec: Spec) -> tuple[Rule, ...]:
    own = spec.vision_config
    layer = (
        Split("attn.qkv.*", tuple(f"self_attn.{part}_proj.*" for part in "qkv")),
        Rename("attn.proj.*", "self_attn.o_proj.*"),
        Rename("norm1.*", "attention_norm.*"),
        Rename("norm2.*", "mlp_norm.*"),
        Rename("mlp.fc1.*", "mlp.up_proj.*"),
        Rename("mlp.fc2.*", "mlp.down_proj.*"),
    )
    kernel = (own.embed_dim, own.in_channels, own.patch_size, own.patch_size)
    tower = (
        # A picture is frames that are alike.
        Compute(("patch_embed.proj.weight",), "model.projection.weight", kernel, lambda each: each.sum(dim=2)),
        Within("blocks.{}.", layer, to="model.stack.layers.{}."),
        Rename("merger.ln_q.*", "model.stack.norm.*"),
        Rename("merger.mlp.0.*", "project.up_proj.*"),
        Rename("merger.mlp.2.*", "project.down_proj.*"),
    )
    return (
        Rename("model.visual.*", "visual.*"),
        Within("visual.", tower, to=f"{VISION}."),
        Rename("model.language_model.*", "language_model.*"),
        Rename("language_model.*", "model.*"),
        Rename("model.*", "written.model.*"),
        Rename("lm_head.*", "written.lm_head.*"),
        spec.text.names("written."),
    )


@dataclass(frozen=True, kw_only=True)
class _Family(Family):
    """Older files say of the decoder beside ``vision_config`` what newer ones say in ``text_config``."""

    def read(self, config: Mapping[str, Any]) -> Base:
        return super().read(_nested(config))

    def ignored(self, config: Mapping[str, Any], spec: Base) -> tuple[str, ...]:
        return super().ignored(_nested(config), spec)


def _nested(config: Mapping[str, Any]) -> dict[str, Any]:
    if config.get("text_config") is not None:
        return dict(config)
    keys = {key for entry in dataclasses.fields(TextSpec) for key in (entry.metadata.get("keys") or (entry.name,))}
    keys -= {entry.name for entry in dataclasses.fields(Base)}
    text = {key: value for key, value in config.items() if key in keys}
    return {**{key: value for key, value in config.items() if key not in text}, "text_config": text}


_ROPE = {"rope_type": "default", "rope_theta": 300.0, "mrope_section": [1, 1, 2]}
_TINY_TEXT = {key: value for key, value in llama.FAMILY.tiny.items() if key != "pad_token_id"}

FAMILY = _Family(
    spec=Spec,
    heads={heads.IMAGE_TEXT: _compose},
    weights=_weights,
    inert=frozenset({"video_token_id", "vision_start_token_id", "vision_end_token_id", "vision_token_id"}),
    final_norm=True,
    tiny={
        "text_config": {**_TINY_TEXT, "rope_parameters": _ROPE},
        "vision_config": {"depth": 2, "embed_dim": 32, "hidden_size": 32, "num_heads": 4, "patch_size": 4}
        | {"mlp_ratio": 2},
        "image_token_id": 98,
    },
    variations=(
        {
            "text_config": {**_TINY_TEXT, "hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 3}
            | {"num_key_value_heads": 3, "rope_parameters": {**_ROPE, "mrope_section": [2, 0, 2]}}
            | {"use_sliding_window": True, "sliding_window": 7, "max_window_layers": 0},
            "vision_config": {"depth": 1, "embed_dim": 36, "hidden_size": 24, "num_heads": 3, "patch_size": 3}
            | {"mlp_ratio": 3, "in_channels": 1, "spatial_merge_size": 3, "temporal_patch_size": 1}
            | {"hidden_act": "gelu"},
            "image_token_id": 3,
            "tie_word_embeddings": True,
        },
    ),
)
