"""Swin2SR: Swin V2's layers over every pixel of a picture of any size, and what enlarges it behind them.
https://arxiv.org/abs/2209.11345"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from precast.export import heads
from precast.export.blocks.activations import Activation, activation
from precast.export.blocks.attention import head_size
from precast.export.blocks.convolution import Convolution
from precast.export.blocks.mlp import MLP
from precast.export.blocks.norms import LayerNorm
from precast.export.blocks.patches import rows_of
from precast.export.blocks.relative import TableBias, grid_offsets
from precast.export.blocks.tables import Table
from precast.export.blocks.windows import FreeWindowAttention, FreeWindows, Grid
from precast.export.families import Family, swin, swinv2, vit
from precast.export.signatures import Component
from precast.export.spec import Spec as Base
from precast.export.spec import hf
from precast.export.weights import Ignore, Rename, Rule, Within
from precast.runtime.catalogue import CATALOGUE
from precast.runtime.errors import ConfigError
from precast.runtime.ports import Dim, Out, Port

__all__ = ["FAMILY", "Spec"]

_UPSAMPLERS = ("pixelshuffle", "pixelshuffle_aux", "pixelshuffledirect", "nearest+conv", "", None)
_FEATURES = 64  # channels in upsamplers
_SLOPE = 0.2
_MEAN = (0.4488, 0.4371, 0.4040)  # of the pictures of DIV2K


def _first(value: Any) -> int:
    """Of two sides the first, which is all that upstream asks of them."""
    number = value[0] if isinstance(value, (list, tuple)) else value
    if type(number) is not int or number < 1:
        raise ValueError("it is a number of pixels, or two")
    return number


@dataclass(frozen=True, kw_only=True)
class Spec(Base):
    """Defaults are those of the classical model that doubles a picture."""

    image_size: int = hf(default=64, read=_first)
    patch_size: int = hf(default=1, read=_first, only=(1, [1, 1]))
    num_channels: int = hf(default=3)
    num_channels_out: int | None = hf(default=None)
    embed_dim: int = hf(default=180)
    depths: tuple[int, ...] = hf(default=(6, 6, 6, 6, 6, 6), read=swin.numbers)
    num_heads: tuple[int, ...] = hf(default=(6, 6, 6, 6, 6, 6), read=swin.numbers)
    window_size: int = hf(default=8)
    mlp_ratio: float = hf(default=2.0)
    qkv_bias: bool = hf(default=True)
    hidden_act: Activation = hf(default=activation("gelu"), read=activation)
    layer_norm_eps: float = hf(default=1e-5)
    use_absolute_embeddings: bool = hf(default=False, only=(False,))  # upstream has one position too many for them
    upscale: int = hf(default=2)
    img_range: float = hf(default=1.0)
    resi_connection: str = hf(default="1conv", only=("1conv", "3conv"))
    upsampler: str | None = hf(default="pixelshuffle", only=_UPSAMPLERS)

    @property
    def out(self) -> int:
        return self.num_channels if self.num_channels_out is None else self.num_channels_out

    def __post_init__(self) -> None:
        if len(self.depths) != len(self.num_heads):
            raise ConfigError(f"'num_heads' {self.num_heads} must be as many as 'depths' {self.depths}")
        if not 1 <= self.window_size <= self.image_size:
            raise ConfigError(f"'window_size' {self.window_size} must be 1 to 'image_size' {self.image_size}")
        steps = self.upscale == 3 or (self.upscale > 0 and self.upscale & (self.upscale - 1) == 0)
        if self.upscale < 1 or (self.upsampler in _UPSAMPLERS[:2] and not steps):
            raise ConfigError(f"'upscale' {self.upscale} must be 3 or a power of 2 with 'upsampler' {self.upsampler!r}")
        if self.upsampler == "nearest+conv" and self.upscale != 4:
            raise ConfigError(f"'upscale' {self.upscale} must be 4 with 'upsampler' 'nearest+conv'")
        if self.upsampler == "pixelshuffle_aux" and self.num_channels != 3:
            raise ConfigError(f"'num_channels' {self.num_channels} must be 3 with 'upsampler' 'pixelshuffle_aux'")


def _attention(spec: Spec, count: int, windows: FreeWindows) -> FreeWindowAttention:
    size = windows.size
    index = Table((size**2, size**2), lambda: grid_offsets(size, size), torch.int64)
    relative = TableBias(index, (2 * size - 1) ** 2, count)
    return FreeWindowAttention(
        spec.embed_dim,
        heads=count,
        windows=windows,
        relative=relative,
        bias=spec.qkv_bias,
        key_bias=False,
        cosine=swinv2.Cosine(count),
    )


class _Stage(nn.Module):
    """Layers and convolutions behind them, and what went in once more; rows and maps of the same picture."""

    def __init__(self, spec: Spec, depth: int, count: int, plain: FreeWindows, shifted: FreeWindows) -> None:
        super().__init__()
        width = spec.embed_dim
        head_size(width, count)
        self.layers = nn.ModuleList(
            swinv2.Layer(
                _attention(spec, count, shifted if number % 2 else plain),
                LayerNorm(width, spec.layer_norm_eps),
                MLP(width, int(spec.mlp_ratio * width), spec.hidden_act),
                LayerNorm(width, spec.layer_norm_eps),
            )
            for number in range(depth)
        )
        few = width // 4
        self.conv = (
            Convolution(width, width, 3)
            if spec.resi_connection == "1conv"
            else nn.Sequential(
                Convolution(width, few, 3),
                nn.LeakyReLU(_SLOPE),
                Convolution(few, few),
                nn.LeakyReLU(_SLOPE),
                Convolution(few, width, 3),
            )
        )
        self.patch_embed = Convolution(width, width)

    def forward(self, rows: Tensor, like: Tensor, grids: tuple[Grid, Grid]) -> Tensor:
        x, update = rows, None
        for number, layer in enumerate(self.layers):
            x, update = layer(x, update, grids[number % 2])
        x = x if update is None else x + update
        return rows_of(self.patch_embed(self.conv(_map(x, like)))) + rows


def _map(rows: Tensor, like: Tensor) -> Tensor:
    """Rows [B, R * C, H] as a map of the sides that ``like`` [B, H, R, C] has."""
    return rows.transpose(1, 2).view(like.shape)


class _Model(nn.Module):
    """Pixels [B, C, R, C] -> a map [B, H, R, C]."""

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        self.channels, self.window, self.range, width = (
            spec.num_channels,
            spec.window_size,
            spec.img_range,
            spec.embed_dim,
        )
        mean = _MEAN if spec.num_channels == spec.out == 3 else (0.0,)
        self.mean = Table((1, len(mean), 1, 1), lambda: torch.tensor(mean, dtype=torch.float64).view(1, -1, 1, 1))
        self.first_convolution = Convolution(spec.num_channels, width, 3)
        self.projection, self.embedding_norm = Convolution(width, width), LayerNorm(width, 1e-5)
        shift = self.window // 2 if spec.image_size > self.window else 0
        self.plain, self.shifted = (FreeWindows(self.window, by, whole=True, hidden=swinv2.HIDDEN) for by in (0, shift))
        self.stages = nn.ModuleList(
            _Stage(spec, depth, count, self.plain, self.shifted)
            for depth, count in zip(spec.depths, spec.num_heads, strict=True)
        )
        self.norm = LayerNorm(width, spec.layer_norm_eps)
        self.conv_after_body = Convolution(width, width, 3)

    def ports(self) -> tuple[Port, ...]:
        return (Port("pixel_values", "float32", ("batch", self.channels, "height", "width"), "pixels"),)

    def bounds(self) -> Mapping[str, Dim]:
        return dict.fromkeys(("height", "width"), Dim(least=self.window, multiple=self.window))

    def forward(self, pixel_values: Tensor) -> Tensor:
        first = self.first_convolution((pixel_values - self.mean()) * self.range)
        grids = self.plain(first, *first.shape[2:]), self.shifted(first, *first.shape[2:])
        rows = self.embedding_norm(rows_of(self.projection(first)))
        for stage in self.stages:
            rows = stage(rows, first, grids)
        return self.conv_after_body(_map(self.norm(rows), first)) + first


class _Shuffles(nn.Module):
    """Convolutions that make more channels, each set out as a square of pixels behind it; names are upstream's."""

    def __init__(self, upscale: int, channels: int) -> None:
        super().__init__()
        self.by = 3 if upscale == 3 else 2
        self.names = ["convolution"] if upscale == 3 else [f"convolution_{n}" for n in range(upscale.bit_length() - 1)]
        for name in self.names:
            setattr(self, name, Convolution(channels, self.by**2 * channels, 3))

    def forward(self, x: Tensor) -> Tensor:
        for name in self.names:
            x = F.pixel_shuffle(getattr(self, name)(x), self.by)
        return x


class _PixelShuffle(nn.Module):
    def __init__(self, spec: Spec) -> None:
        super().__init__()
        self.conv_before_upsample = Convolution(spec.embed_dim, _FEATURES, 3)
        self.upsample = _Shuffles(spec.upscale, _FEATURES)
        self.final_convolution = Convolution(_FEATURES, spec.out, 3)

    def forward(self, x: Tensor, pixels: Tensor) -> Tensor:
        return self.final_convolution(self.upsample(F.leaky_relu(self.conv_before_upsample(x))))


class _PixelShuffleAux(_PixelShuffle):
    """And what bicubic resampling makes of the picture beside it."""

    def __init__(self, spec: Spec) -> None:
        super().__init__(spec)
        self.upscale = spec.upscale
        self.kernels = Table((spec.upscale**2, 1, 5, 5), lambda: _bicubic(spec.upscale))
        self.conv_bicubic = Convolution(spec.num_channels, _FEATURES, 3)
        self.conv_aux = Convolution(_FEATURES, spec.num_channels, 3)
        self.conv_after_aux = nn.Sequential(Convolution(3, _FEATURES, 3), nn.LeakyReLU())

    def forward(self, x: Tensor, pixels: Tensor) -> Tensor:
        aux = self.conv_aux(F.leaky_relu(self.conv_before_upsample(x)))
        beside = self.conv_bicubic(self._larger(pixels))
        return self.final_convolution(self.upsample(self.conv_after_aux(aux)) + beside)

    def _larger(self, pixels: Tensor) -> Tensor:
        batch, channels, height, width = pixels.shape
        for axis, side in ((2, height), (3, width)):  # what lies outside is the pixel at the edge
            at = torch.arange(side + 4, device=pixels.device) - 2
            pixels = pixels.index_select(axis, at.clamp(min=0).clamp(max=side - 1))
        alone = pixels.view(batch * channels, 1, height + 4, width + 4)
        made = F.pixel_shuffle(F.conv2d(alone, self.kernels()), self.upscale)
        return made.view(batch, channels, self.upscale * height, self.upscale * width)


def _bicubic(scale: int) -> Tensor:
    """Of each of the pixels that one becomes, how much it has of the five around: [scale^2, 1, 5, 5].
    https://doi.org/10.1109/TASSP.1981.1163711"""
    place = (torch.arange(scale, dtype=torch.float64) + 0.5) / scale - 0.5
    x = (place[:, None] - torch.arange(-2, 3, dtype=torch.float64)).abs()
    near, far = ((1.25 * x - 2.25) * x) * x + 1, ((-0.75 * x + 3.75) * x - 6) * x + 3
    weights = torch.where(x <= 1, near, torch.where(x < 2, far, torch.zeros_like(x)))
    return torch.einsum("ik,jl->ijkl", weights, weights).reshape(scale**2, 1, 5, 5)


class _Direct(nn.Module):
    def __init__(self, spec: Spec) -> None:
        super().__init__()
        self.upscale = spec.upscale
        self.conv = Convolution(spec.embed_dim, spec.upscale**2 * spec.out, 3)

    def forward(self, x: Tensor, pixels: Tensor) -> Tensor:
        return F.pixel_shuffle(self.conv(x), self.upscale)


class _Nearest(nn.Module):
    def __init__(self, spec: Spec) -> None:
        super().__init__()
        self.conv_before_upsample = Convolution(spec.embed_dim, _FEATURES, 3)
        self.conv_up1, self.conv_up2, self.conv_hr = (Convolution(_FEATURES, _FEATURES, 3) for _ in range(3))
        self.final_convolution = Convolution(_FEATURES, spec.out, 3)

    def forward(self, x: Tensor, pixels: Tensor) -> Tensor:
        x = F.leaky_relu(self.conv_before_upsample(x))
        for larger in (self.conv_up1, self.conv_up2):
            x = F.leaky_relu(larger(_doubled(x)), _SLOPE)
        return self.final_convolution(F.leaky_relu(self.conv_hr(x), _SLOPE))


def _doubled(x: Tensor) -> Tensor:
    """Every pixel as four, [B, C, H, W] -> [B, C, 2 * H, 2 * W]."""
    batch, channels, height, width = x.shape
    return x[:, :, :, None, :, None].expand(-1, -1, -1, 2, -1, 2).reshape(batch, channels, 2 * height, 2 * width)


class _Restored(nn.Module):
    """The picture itself, and what is missing in it."""

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        self.final_convolution = Convolution(spec.embed_dim, spec.out, 3)

    def forward(self, x: Tensor, pixels: Tensor) -> Tensor:
        return pixels + self.final_convolution(x)


_MADE: Mapping[str | None, type[nn.Module]] = dict(
    zip(_UPSAMPLERS, (_PixelShuffle, _PixelShuffleAux, _Direct, _Nearest, _Restored, _Restored), strict=True)
)


class _Features(Component):
    """{"last_hidden_state": [B, H, R, C]}."""

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        self.model, self.tried = _Model(spec), 64

    def ports(self) -> tuple[Port, ...]:
        return self.model.ports()

    def largest(self) -> int:
        return self.tried

    def outs(self) -> tuple[Out, ...]:
        states = CATALOGUE["feature-extraction"].outs[0]
        return (states._replace(shape=("batch", "size", "rows", "columns"), axis=-3),)

    def forward(self, pixel_values: Tensor) -> dict[str, Tensor]:
        return {"last_hidden_state": self.model(pixel_values)}


class _SuperResolution(_Features):
    """{"reconstruction": [B, C, R * upscale, C * upscale]}."""

    def __init__(self, spec: Spec) -> None:
        super().__init__(spec)
        self.upsample = _MADE[spec.upsampler](spec)
        self.tried = max(33, 128 // spec.upscale)

    def outs(self) -> tuple[Out, ...]:
        return CATALOGUE["image-to-image"].outs

    def forward(self, pixel_values: Tensor) -> dict[str, Tensor]:
        made = self.upsample(self.model(pixel_values), pixel_values)
        return {"reconstruction": made / self.model.range + self.model.mean()}


def _weights(spec: Spec) -> tuple[Rule, ...]:
    layers = [
        Within(f"model.stages.{number}.layers.{{}}.", swinv2.attention_names(spec.window_size, 0, count))
        for number, count in enumerate(spec.num_heads)
    ]
    return (
        Rename("swin2sr.*", "*"),
        Ignore("*.relative_coords_table"),
        Ignore("*.relative_position_index"),
        Rename("first_convolution.*", "model.first_convolution.*"),
        Rename("embeddings.patch_embeddings.projection.*", "model.projection.*"),
        Rename("embeddings.patch_embeddings.layernorm.*", "model.embedding_norm.*"),
        vit.layer_names("encoder.stages.{}.layers.{}.", "model.stages.{}.layers.{}."),
        Rename("encoder.stages.{}.patch_embed.projection.*", "model.stages.{}.patch_embed.*"),
        Rename("encoder.stages.{}.conv.*", "model.stages.{}.conv.*"),
        Rename("layernorm.*", "model.norm.*"),
        Rename("conv_after_body.*", "model.conv_after_body.*"),
        Rename("final_convolution.*", "upsample.final_convolution.*"),
        *layers,
    )


FAMILY = Family(
    spec=Spec,
    heads={
        heads.BASE: lambda spec, absent: _Features(spec),
        heads.IMAGE_TO_IMAGE: lambda spec, absent: _SuperResolution(spec),
    },
    weights=_weights,
    inert=frozenset({"drop_path_rate", "hidden_size", "num_attention_heads", "num_hidden_layers", "num_layers"}),
    tiny={"embed_dim": 12, "depths": [2, 1], "num_heads": [2, 3], "window_size": 4, "image_size": 16},
    variations=(
        # Of one colour, with as many pixels as a window has; tripled.
        {"num_channels": 1, "upsampler": "pixelshuffledirect", "upscale": 3, "image_size": 4, "qkv_bias": False}
        | {"img_range": 2.0, "mlp_ratio": 1.5, "layer_norm_eps": 1e-3, "hidden_act": "gelu_new", "depths": [1, 1]},
        {"upsampler": "pixelshuffle_aux", "upscale": 3, "depths": [2], "num_heads": [4], "window_size": 5}
        | {"resi_connection": "3conv"},
    ),
)
