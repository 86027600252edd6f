"""Swin: attention within windows that shift from layer to layer, over ever fewer and wider patches.
https://arxiv.org/abs/2103.14030"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from precast.export import heads
from precast.export.blocks.activations import Activation, activation
from precast.export.blocks.attention import head_size
from precast.export.blocks.convolution import Convolution, MapNorm
from precast.export.blocks.mlp import MLP
from precast.export.blocks.norms import LayerNorm, normed_sum
from precast.export.blocks.patches import hidden, rows_of
from precast.export.blocks.relative import TableBias, grid_offsets
from precast.export.blocks.tables import Table
from precast.export.blocks.windows import FreeWindows, WindowAttention, Windows
from precast.export.families import Family, LabelSpec, vit
from precast.export.image_heads import ImageClassification, ImageFeatures, ImageModel, MaskedImage, MeanState
from precast.export.skeletons.backbone import Backbone
from precast.export.skeletons.encoder import PreNormLayer
from precast.export.spec import hf
from precast.export.weights import Ignore, Rename, Rule, Within
from precast.runtime.errors import ConfigError
from precast.runtime.ports import Port

__all__ = [
    "FAMILY",
    "Merge",
    "Place",
    "Spec",
    "Stages",
    "layer",
    "map_body",
    "map_names",
    "merge",
    "names",
    "numbers",
    "swin_heads",
    "weights",
]

_NORM = 1e-5  # epsilon of the norms outside of layers, whatever that of layers is
# Released checkpoints that stand on a Swin have ``in_channels``, too, which nothing reads.
_INERT = """_out_features _out_indices drop_path_rate hidden_size in_channels num_layers out_features out_indices
    stage_names"""


def numbers(value: Any) -> tuple[int, ...]:
    if not value or not all(type(one) is int and one > 0 for one in value):
        raise ValueError("it is a list of numbers from 1 on, one for each stage")
    return tuple(value)


@dataclass(frozen=True, kw_only=True)
class Spec(LabelSpec):
    """Defaults are Swin-tiny's."""

    embed_dim: int = hf(default=96)
    depths: tuple[int, ...] = hf(default=(2, 2, 6, 2), read=numbers)
    num_heads: tuple[int, ...] = hf(default=(3, 6, 12, 24), read=numbers)
    window_size: int = hf(default=7)
    mlp_ratio: float = hf(default=4.0)
    qkv_bias: bool = hf(default=True)
    hidden_act: Activation = hf(default=activation("gelu"), read=activation)
    layer_norm_eps: float = hf(default=1e-5)
    use_absolute_embeddings: bool = hf(default=False)
    image_size: int = hf(default=224)
    patch_size: int = hf(default=4)
    num_channels: int = hf(default=3)
    encoder_stride: int = hf(default=32)

    def __post_init__(self) -> None:
        if len(self.depths) != len(self.num_heads):
            raise ConfigError(f"'num_heads' {self.num_heads} must be as many as 'depths' {self.depths}")
        if min(self.patch_size, self.window_size, self.image_size) < 1:
            raise ConfigError("'patch_size', 'window_size' and 'image_size' must be 1 or more")
        if self.use_absolute_embeddings and self.image_size % self.patch_size:
            raise ConfigError(
                f"'image_size' {self.image_size} must be a multiple of 'patch_size' {self.patch_size} where "
                "'use_absolute_embeddings' is true: a patch that is filled up has no position"
            )

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of what the patches are and of what each stage makes."""
        return (self.embed_dim, *(self.embed_dim * 2**stage for stage in range(len(self.depths))))


@dataclass(frozen=True)
class Place:
    """Where a layer stands: in which stage, of how many patches a side and how many channels; is it a shifted one.
    ``side`` None: the call says it."""

    stage: int
    side: int | None
    width: int
    heads: int
    odd: bool


class _Embeddings(nn.Module):
    """Pixels [B, C, I, I] -> normalised patches [B, P, H]; the last ones are filled up with zeros."""

    def __init__(self, spec: Spec, masked: bool) -> None:
        super().__init__()
        self.mask_token = nn.Parameter(torch.empty(1, 1, spec.embed_dim)) if masked else None
        self.image, self.channels, self.beyond = spec.image_size, spec.num_channels, -spec.image_size % spec.patch_size
        self.projection = nn.Conv2d(
            spec.num_channels, spec.embed_dim, kernel_size=spec.patch_size, stride=spec.patch_size
        )
        self.norm = LayerNorm(spec.embed_dim, _NORM)
        places = (spec.image_size // spec.patch_size) ** 2
        self.positions = nn.Parameter(torch.empty(1, places, spec.embed_dim)) if spec.use_absolute_embeddings else None

    def ports(self) -> tuple[Port, ...]:
        return (Port("pixel_values", "float32", ("batch", self.channels, self.image, self.image), "pixels"),)

    def forward(self, pixels: Tensor, mask: Tensor | None = None) -> Tensor:
        if self.beyond:
            pixels = torch.constant_pad_nd(pixels, (0, self.beyond, 0, self.beyond))
        x = hidden(self.norm(rows_of(self.projection(pixels))), mask, self.mask_token)
        return x if self.positions is None else x + self.positions


class Merge(nn.Module):
    """A square grid [B, S * S, H] -> half of it, each row of four neighbours, [B, ceil(S / 2)^2, 2 * H].

    Args:
        side: S; None: it is called with maps alone.
        before, after: norms around the projection, or None.
    """

    def __init__(self, side: int | None, width: int, before: nn.Module | None, after: nn.Module | None) -> None:
        super().__init__()
        self.side, self.before, self.after = side, before, after
        self.reduction = nn.Linear(4 * width, 2 * width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        assert self.side is not None
        batch, _, width = x.shape
        return self._merged(x.view(batch, self.side, self.side, width))

    def maps(self, x: Tensor) -> Tensor:
        """The same of maps, [B, H, R, C] -> [B, 2 * H, ceil(R / 2), ceil(C / 2)]."""
        batch, width, rows, columns = x.shape
        merged = self._merged(x.permute(0, 2, 3, 1)).transpose(1, 2)
        return merged.view(batch, 2 * width, (rows + 1) // 2, (columns + 1) // 2)

    def _merged(self, x: Tensor) -> Tensor:
        """[B, R, C, H] -> [B, ceil(R / 2) * ceil(C / 2), 2 * H]."""
        batch, rows, columns, width = x.shape
        down, across = (rows + 1) // 2, (columns + 1) // 2
        if not (isinstance(rows, int) and isinstance(columns, int)) or rows % 2 or columns % 2:
            x = torch.constant_pad_nd(x, (0, 0, 0, 2 * across - columns, 0, 2 * down - rows))
        # Of the four the left ones come first.
        x = x.view(batch, down, 2, across, 2, width).permute(0, 1, 3, 4, 2, 5)
        x = x.clone(memory_format=torch.contiguous_format).view(batch, down * across, 4 * width)
        x = self.reduction(x if self.before is None else self.before(x))
        return x if self.after is None else self.after(x)


class _Stage(nn.Module):
    def __init__(self, layers: Iterator[nn.Module], merge: nn.Module | None) -> None:
        super().__init__()
        self.layers, self.merge = nn.ModuleList(layers), merge

    def forward(self, x: Tensor, update: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """A state in two parts, as `PreNormLayer` has it."""
        for layer in self.layers:
            x, update = layer(x, update, None)
        return (x, update) if self.merge is None else (self.merge(x if update is None else x + update), None)


class Stages(nn.Module):
    """Patches [B, P, H] -> normalised states, through stages of layers made by ``layer``, ``merge`` between them."""

    def __init__(
        self,
        spec: Any,
        layer: Callable[[Any, Place], nn.Module],
        merge: Callable[[int | None, int], nn.Module],
    ) -> None:
        super().__init__()
        side, width, stages = -(-spec.image_size // spec.patch_size), spec.embed_dim, []
        for number, (depth, count) in enumerate(zip(spec.depths, spec.num_heads, strict=True)):
            head_size(width, count)
            places = [Place(number, side, width, count, bool(index % 2)) for index in range(depth)]
            last = number == len(spec.depths) - 1
            stages.append(_Stage((layer(spec, place) for place in places), None if last else merge(side, width)))
            side, width = (side, width) if last else (-(-side // 2), 2 * width)
        self.stages, self.norm = nn.ModuleList(stages), LayerNorm(width, spec.layer_norm_eps)

    def forward(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        update = None
        for stage in self.stages:
            x, update = stage(x, update)
        return normed_sum(self.norm, x, update)[0]


def swin_heads(
    layer: Callable[[Any, Place], nn.Module], merge: Callable[[int | None, int], nn.Module]
) -> dict[heads.Head, Callable[[Any, frozenset[str]], nn.Module]]:
    """States and their mean, pictures drawn of them, and classes of the mean.

    Args:
        layer: a layer at its place. merge: what stands between stages, of a side and of channels.
    """

    def body(spec: Spec, masked: bool = False) -> ImageModel:
        return ImageModel(_Embeddings(spec, masked), Stages(spec, layer, merge))

    def base(spec: Spec, absent: frozenset[str]) -> nn.Module:
        return ImageFeatures(body(spec), MeanState())

    def width(spec: Spec) -> int:
        return spec.embed_dim * 2 ** (len(spec.depths) - 1)

    def classifier(spec: Spec, absent: frozenset[str]) -> nn.Module:
        return ImageClassification(body(spec), nn.Linear(width(spec), spec.labels), MeanState())

    def masked(spec: Spec, absent: frozenset[str]) -> nn.Module:
        patches = (-(-spec.image_size // spec.patch_size)) ** 2
        stride, channels = spec.encoder_stride, spec.num_channels
        return MaskedImage(body(spec, masked=True), width(spec), stride=stride, channels=channels, patches=patches)

    return {heads.BASE: base, heads.MASKED_IMAGE: masked, heads.IMAGE_CLASSIFICATION: classifier}


class _MapStage(nn.Module):
    """A map [B, H, R, C] -> what layers over its windows make of it, or of half of it.

    Args:
        merge: what halves it, or None. window, shift: sizes of a window, and of the shift of every other layer.
    """

    def __init__(
        self, merge: nn.Module | None, layers: Iterator[nn.Module], window: int, shift: int, hidden: float
    ) -> None:
        super().__init__()
        self.merge, self.layers = merge, nn.ModuleList(layers)
        self.window, self.shifts, self.hidden = window, (0, shift)[: len(self.layers)], hidden

    def forward(self, x: Tensor) -> Tensor:
        if self.merge is not None:
            x = self.merge.maps(x)  # type: ignore[operator]
        batch, width, rows, columns = x.shape
        windows = [
            FreeWindows.of(x, rows, columns, size=self.window, shift=shift, hidden=self.hidden) for shift in self.shifts
        ]
        x, update = rows_of(x), None
        for number, layer in enumerate(self.layers):
            x, update = layer(x, update, windows[number % 2])
        x = x if update is None else x + update
        return x.transpose(1, 2).view(batch, width, rows, columns)


def map_body(
    layer: Callable[[Any, Place], nn.Module],
    merge: Callable[[int | None, int], nn.Module],
    window: Callable[[Any, int], tuple[int, int]],
    hidden: float = -100.0,
    norm: float | None = None,
) -> Callable[[Any], Backbone]:
    """What makes stages over a picture of any size: windows are as large as in training, whatever it has of them.

    Args:
        window: of a spec and a stage: sizes of a window and of the shift of every other layer.
        norm: epsilon of norms behind the maps that a model around them reads; None: there are none.
    """

    def stages(spec: Spec) -> Iterator[nn.Module]:
        for number, (depth, count) in enumerate(zip(spec.depths, spec.num_heads, strict=True)):
            width = spec.embed_dim * 2**number
            head_size(width, count)
            places = [Place(number, None, width, count, bool(index % 2)) for index in range(depth)]
            halved = merge(None, width // 2) if number else None
            yield _MapStage(halved, (layer(spec, place) for place in places), *window(spec, number), hidden)

    def body(spec: Spec) -> Backbone:
        if spec.use_absolute_embeddings:
            raise ConfigError("'use_absolute_embeddings' is true, which is not honoured inside another model here")
        size, patch = spec.embed_dim, spec.patch_size
        filled = Convolution(spec.num_channels, size, patch, stride=patch, padding=(0, 0, patch - 1, patch - 1))
        # Two places a side of the last map: of one, torch would trace another product than of several.
        least = patch * 2 ** (len(spec.depths) - 1) + 1
        stem = nn.Sequential(filled, MapNorm(size, _NORM))
        return Backbone(stem, stages(spec), channels=spec.num_channels, least=least, norm=norm)

    return body


def map_names(spec: Spec) -> tuple[Rule, ...]:
    """Names of such stages, once their parts have those of `swin_heads`."""
    return (
        Rename("model.embeddings.projection.*", "model.stem.0.*"),
        Rename("model.embeddings.norm.*", "model.stem.1.*"),
        *(
            Rename(f"model.stack.stages.{stage}.merge.*", f"model.stages.{stage + 1}.merge.*")
            for stage in range(len(spec.depths) - 1)
        ),
        Rename("model.stack.stages.{}.layers.*", "model.stages.{}.layers.*"),
        Ignore("model.stack.norm.*"),
    )


def layer(spec: Any, place: Place) -> nn.Module:
    size, width = spec.window_size, place.width
    if place.side is not None and place.side < size:
        raise ConfigError(
            f"'window_size' {size} must be {place.side} at most: so many patches a side stage {place.stage + 1} has of "
            f"'image_size' {spec.image_size}"
        )
    shift = size // 2 if place.odd and place.side is not None and place.side > size else 0
    index = Table((size**2, size**2), lambda: grid_offsets(size, size), torch.int64)
    attention = WindowAttention(
        width,
        heads=place.heads,
        windows=None if place.side is None else Windows(place.side, place.side, size=size, shift=shift),
        relative=TableBias(index, (2 * size - 1) ** 2, place.heads),
        bias=spec.qkv_bias,
    )
    return PreNormLayer(
        attention=attention,
        attention_norm=LayerNorm(width, spec.layer_norm_eps),
        mlp=MLP(width, int(spec.mlp_ratio * width), spec.hidden_act),
        mlp_norm=LayerNorm(width, spec.layer_norm_eps),
    )


def merge(side: int | None, width: int) -> nn.Module:
    return Merge(side, width, LayerNorm(4 * width, _NORM), None)


def names(prefix: str) -> tuple[Rule, ...]:
    """Names outside of the layers, of a model that upstream's heads hold as ``prefix``."""
    return (
        Rename(f"{prefix}.*", "*"),
        *vit.mask_names(masked=True),
        Ignore("*.relative_position_index"),
        Rename("embeddings.patch_embeddings.projection.*", "model.embeddings.projection.*"),
        Rename("embeddings.position_embeddings", "model.embeddings.positions"),
        Rename("embeddings.norm.*", "model.embeddings.norm.*"),
        Rename("layernorm.*", "model.stack.norm.*"),
        Rename("encoder.layers.{}.downsample.reduction.*", "model.stack.stages.{}.merge.reduction.*"),
        vit.layer_names("encoder.layers.{}.blocks.{}.", "model.stack.stages.{}.layers.{}."),
    )


def weights(prefix: str) -> tuple[Rule, ...]:
    """From a checkpoint whose heads hold the model as ``prefix``."""
    parts = {"query": "q", "key": "k", "value": "v"}
    table = "relative_position_bias.relative_position_bias_table"
    older = (
        *(Rename(f"attention.self.{part}.*", f"attention.{key}_proj.*") for part, key in parts.items()),
        Rename("attention.self.relative_position_bias_table", f"attention.{table}"),
    )
    return (
        Rename(f"{prefix}.*", "*"),
        Within("encoder.layers.{}.blocks.{}.", older),
        *names(prefix),
        Rename("encoder.layers.{}.downsample.norm.*", "model.stack.stages.{}.merge.before.*"),
        Within("model.stack.stages.{}.layers.{}.", (Rename(f"self_attn.{table}", "self_attn.relative.table.weight"),)),
    )


FAMILY = Family(
    spec=Spec,
    heads=swin_heads(layer, merge),
    weights=lambda spec: weights("swin"),
    body=map_body(layer, merge, lambda spec, stage: (spec.window_size, spec.window_size // 2), norm=_NORM),
    body_names=map_names,
    final_norm=True,
    inert=frozenset(_INERT.split()),
    # A grid of 8 in windows that shift, and one of 4, which is a window.
    tiny={"embed_dim": 16, "depths": [2, 1], "num_heads": [2, 4], "window_size": 4, "mlp_ratio": 2.0}
    | {"image_size": 32, "patch_size": 4, "use_absolute_embeddings": True},
    variations=(
        # 9 patches of which the last are filled up, 5 behind them: none is a multiple of the window.
        {"embed_dim": 21, "num_heads": [3, 2], "window_size": 4, "mlp_ratio": 1.5, "qkv_bias": False, "num_labels": 5}
        | {"image_size": 33, "num_channels": 1, "hidden_act": "gelu_new", "layer_norm_eps": 1e-3}
        | {"use_absolute_embeddings": False},
    ),
)
