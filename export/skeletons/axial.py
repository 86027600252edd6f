"""A ViT of pictures of any size, whose channels turn by the height and by the width of a patch, and of whose states
squares are features of a decoder. https://arxiv.org/abs/2409.12191, https://arxiv.org/abs/2502.13923"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from precast.export.blocks.activations import activation
from precast.export.blocks.attention import SelfAttention, head_size
from precast.export.blocks.mlp import MLP
from precast.export.blocks.norms import Norm
from precast.export.blocks.patches import rows_of
from precast.export.blocks.rotary import plain
from precast.export.blocks.tables import Table
from precast.export.blocks.windows import FreeWindows
from precast.export.components import Composite
from precast.export.generative import DECODER, Joined
from precast.export.operators import attention, rotary, rotary_angles
from precast.export.skeletons.encoder import PreNormLayer
from precast.export.skeletons.joined import VISION, InnerDecoder, Seen
from precast.export.skeletons.stack import Stack
from precast.export.skeletons.three_axes import TEXT, TextSpec
from precast.export.spec import Spec as Base
from precast.export.spec import hf
from precast.export.weights import Compute, Rename, Rule, Split, Within
from precast.runtime.errors import ConfigError
from precast.runtime.generation.among import FEATURES
from precast.runtime.generation.grids import Grids
from precast.runtime.ports import Dim, Port

__all__ = ["INERT", "AxialSpec", "GridSpec", "compose", "layer", "weights"]

# Tokens that stand for what this does not read, or around what it does.
INERT = frozenset({"video_token_id", "vision_start_token_id", "vision_end_token_id"})


@dataclass(frozen=True, kw_only=True)
class GridSpec(Base):
    """What ``vision_config`` says in all of them."""

    depth: int = hf(default=32)
    num_heads: int = hf(default=16)
    in_channels: int = hf(("in_channels", "in_chans"), default=3)
    patch_size: int = hf(("patch_size", "spatial_patch_size"), default=14)
    spatial_merge_size: int = hf(default=2)
    temporal_patch_size: int = hf(default=2)
    rope_parameters: dict[str, Any] | None = hf(default=None)

    window: ClassVar[int] = 0

    def __post_init__(self) -> None:
        if head_size(self.size, self.num_heads) % 4:
            raise ConfigError(
                f"channels of vision_config's layers, {self.size}, must be a multiple of 4 times 'num_heads' "
                f"{self.num_heads}: pairs of them turn by height, and as many by width"
            )
        said = self.rope_parameters or {}
        if said.get("rope_type", "axial") != "axial":
            raise ConfigError(f"'vision_config.rope_parameters' must be of rope_type 'axial'; received {said}")

    @property
    def size(self) -> int:
        """Channels of its layers."""
        raise NotImplementedError

    @property
    def width(self) -> int:
        """Channels of the features."""
        raise NotImplementedError

    @property
    def theta(self) -> float:
        """Base of its rotary frequencies."""
        return float((self.rope_parameters or {}).get("rope_theta", 10000.0))

    @property
    def grids(self) -> Grids:
        """How pictures are patches."""
        return Grids(self.patch_size, self.spatial_merge_size, self.in_channels, self.temporal_patch_size)


class _Attention(SelfAttention):
    """Where patches stand, which turns queries and keys, comes in place of a bias: cosines, sines and which of them;
    and windows, where a layer sees what is in one alone, or None.

    Args:
        windowed: it does.
    """

    def __init__(self, hidden: int, *, heads: int, windowed: bool) -> None:
        super().__init__(hidden, heads=heads)
        self.windowed = windowed

    def forward(self, x: Tensor, mask: Tensor | None, bias: Any = None) -> Tensor:
        cos, sin, rows, windows = bias
        query, key = (rotary(each(x), rows, cos, sin, heads=self.heads) for each in (self.q_proj, self.k_proj))
        value = self.v_proj(x)
        if not self.windowed:
            return self.o_proj(attention(query, key, value, heads=self.heads, scale=self.scale))
        batch, _, width = x.shape
        shape = (batch * windows.count, windows.area, width)
        query, key, value = (windows.split(each).view(shape) for each in (query, key, value))
        # What is beyond the picture is no patch.
        real = windows.split(torch.ones_like(x[:, :, :1])).view(shape[:2]).to(torch.int64)
        seen = attention(query, key, value, mask=real, heads=self.heads, scale=self.scale)
        return self.o_proj(windows.join(seen.view(batch, -1, width)))


def layer(spec: GridSpec, norm: Norm, mlp: nn.Module, mlp_norm: Norm, *, windowed: bool = False) -> PreNormLayer:
    """One of what sees."""
    own = _Attention(spec.size, heads=spec.num_heads, windowed=windowed)
    return PreNormLayer(attention=own, attention_norm=norm, mlp=mlp, mlp_norm=mlp_norm)


class _Vision(nn.Module):
    """Pixels [I, C, H, W] -> states of squares of M x M patches, [I, P / M^2, M^2 * E], line by line."""

    def __init__(self, spec: GridSpec, layers: Iterable[nn.Module], norm: Norm) -> None:
        super().__init__()
        size, patch = spec.size, spec.patch_size
        self.channels, self.unit, self.merge = spec.in_channels, spec.grids.unit, spec.spatial_merge_size
        self.projection = nn.Conv2d(spec.in_channels, size, kernel_size=patch, stride=patch, bias=False)
        axis = head_size(size, spec.num_heads) // 2
        self.frequencies = Table((axis // 2,), plain(axis, spec.theta))
        self.window, self.stack = spec.window, Stack(layers, norm)

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
        windows = FreeWindows.of(pixels, rows, columns, size=self.window, shift=0) if self.window else None
        states: Tensor = self.stack(rows_of(grid), bias=(cos, sin, places.expand(count, -1), windows))
        by = self.merge
        lines = states.view(count, rows // by, by, columns // by, by * states.shape[-1])
        squares = lines.transpose(2, 3).clone(memory_format=torch.contiguous_format)
        return squares.view(count, (rows // by) * (columns // by), by * by * states.shape[-1])


class _Seen(Seen):
    """Of each picture as many features as it has squares of patches."""

    def forward(self, pixel_values: Tensor) -> dict[str, Tensor]:
        return {FEATURES: self.project(self.model(pixel_values)).flatten(0, 1)}


@dataclass(frozen=True, kw_only=True)
class AxialSpec(Base):
    """What config.json says of both; the class of its ``vision_config`` is each family's."""

    text_config: TextSpec = hf(default={}, spec=TextSpec)
    image_token_id: int = hf(default=151655)
    tie_word_embeddings: bool = hf(default=False)

    def __post_init__(self) -> None:
        if self.seeing.width != self.text_config.hidden_size:
            raise ConfigError(
                f"vision_config's features have {self.seeing.width} channels, and must have the decoder's "
                f"{self.text_config.hidden_size}"
            )

    @property
    def seeing(self) -> GridSpec:
        """What ``vision_config`` says."""
        made: GridSpec = self.vision_config  # type: ignore[attr-defined]
        return made

    @cached_property
    def text(self) -> InnerDecoder:
        """What writes."""
        tied = self.tie_word_embeddings or self.text_config.tie_word_embeddings
        return InnerDecoder(TEXT, dataclasses.replace(self.text_config, tie_word_embeddings=tied))


def compose(spec: AxialSpec, layers: Iterable[nn.Module], norm: Norm) -> nn.Module:
    """The model; ``norm``: in front of the features."""
    own = spec.seeing
    width = own.size * own.spatial_merge_size**2
    project = MLP(width, width, activation("gelu"))
    project.down_proj = nn.Linear(width, own.width)
    decoder = spec.text.build()
    decoder.joined = Joined(VISION, spec.image_token_id, own.width, 1, grids=own.grids)
    return Composite({VISION: _Seen(_Vision(own, layers, norm), project, own.width), DECODER: decoder})


def weights(spec: AxialSpec, *parts: Rule) -> tuple[Rule, ...]:
    """``parts``: of the feed-forward part of a layer."""
    own = spec.seeing
    layer = (
        Split("attn.qkv.*", tuple(f"self_attn.{part}_proj.*" for part in "qkv")),
        Rename("attn.proj.*", "self_attn.o_proj.*"),
        Rename("norm1.*", "attention_norm.*"),
        Rename("norm2.*", "mlp_norm.*"),
        *parts,
    )
    kernel = (own.size, own.in_channels, own.patch_size, own.patch_size)
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
