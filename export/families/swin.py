"""Swin: attention within windows that shift from layer to layer, over ever fewer and wider patches.
https://arxiv.org/abs/2103.14030"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from precast.export import heads
from precast.export.blocks.activations import Activation, activation
from precast.export.blocks.attention import head_size
from precast.export.blocks.mlp import MLP
from precast.export.blocks.norms import LayerNorm, normed_sum
from precast.export.blocks.patches import hidden, rows_of
from precast.export.blocks.relative import TableBias, grid_offsets
from precast.export.blocks.tables import Table
from precast.export.blocks.windows import FreeWindowAttention, FreeWindows, WindowAttention, Windows
from precast.export.families import Family, LabelSpec, vit
from precast.export.image_heads import ImageClassification, ImageFeatures, ImageModel, MaskedImage, MeanState
from precast.export.skeletons.encoder import PreNormLayer
from precast.export.skeletons.window_stages import FreeMerge, FreePatches, WindowBackbone, WindowStage
from precast.export.spec import hf
from precast.export.weights import Ignore, Rename, Rule, Within
from precast.runtime.errors import ConfigError
from precast.runtime.ports import Port

__all__ = ["FAMILY", "Merge", "Place", "Spec", "names", "numbers", "swin_heads"]

_NORM = 1e-5  # epsilon of the norms outside of layers, whatever that of layers is
_INERT = """_out_features _out_indices drop_path_rate hidden_size num_layers out_features out_indices
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

    @property
    def embedding_size(self) -> int:
        """Channels of what the stem makes."""
        return self.embed_dim

    @property
    def hidden_sizes(self) -> tuple[int, ...]:
        """Channels of each stage."""
        return tuple(self.embed_dim * 2**stage for stage in range(len(self.depths)))

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


@dataclass(frozen=True)
class Place:
    """Where a layer stands: in which stage, of how many patches a side and how many channels; is it a shifted one."""

    stage: int
    side: int
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
            pixels = F.pad(pixels, (0, self.beyond, 0, self.beyond))
        x = hidden(self.norm(rows_of(self.projection(pixels))), mask, self.mask_token)
        return x if self.positions is None else x + self.positions


class Merge(nn.Module):
    """A square grid [B, S * S, H] -> half of it, each row of four neighbours, [B, ceil(S / 2)^2, 2 * H].

    Args:
        before, after: norms around the projection, or None.
    """

    def __init__(self, side: int, width: int, before: nn.Module | None, after: nn.Module | None) -> None:
        super().__init__()
        self.side, self.before, self.after = side, before, after
        self.reduction = nn.Linear(4 * width, 2 * width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        batch, _, width = x.shape
        x, half = x.view(batch, self.side, self.side, width), -(-self.side // 2)
        if self.side % 2:
            x = F.pad(x, (0, 0, 0, 1, 0, 1))
        # Of the four the left ones come first.
        x = x.view(batch, half, 2, half, 2, width).permute(0, 1, 3, 4, 2, 5)
        x = x.clone(memory_format=torch.contiguous_format).view(batch, half * half, 4 * width)
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


class _Stages(nn.Module):
    def __init__(
        self,
        spec: Spec,
        layer: Callable[[Any, Place], nn.Module],
        merge: Callable[[int, int], nn.Module],
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
    layer: Callable[[Any, Place], nn.Module], merge: Callable[[int, int], nn.Module]
) -> dict[heads.Head, Callable[[Any, frozenset[str]], nn.Module]]:
    """States and their mean, pictures drawn of them, and classes of the mean.

    Args:
        layer: a layer at its place. merge: what stands between stages, of a side and of channels.
    """

    def body(spec: Spec, masked: bool = False) -> ImageModel:
        return ImageModel(_Embeddings(spec, masked), _Stages(spec, layer, merge))

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


def _layer(spec: Spec, place: Place) -> nn.Module:
    size, width = spec.window_size, place.width
    if place.side < size:
        raise ConfigError(
            f"'window_size' {size} must be {place.side} at most: so many patches a side stage {place.stage + 1} has of "
            f"'image_size' {spec.image_size}"
        )
    shift = size // 2 if place.odd and place.side > size else 0
    attention = WindowAttention(
        width,
        heads=place.heads,
        windows=Windows(place.side, place.side, size=size, shift=shift),
        relative=_relative(size, place.heads),
        bias=spec.qkv_bias,
    )
    return _around(spec, width, attention)


def _around(spec: Spec, width: int, attention: nn.Module) -> PreNormLayer:
    """A layer of an attention."""
    return PreNormLayer(
        attention=attention,
        attention_norm=LayerNorm(width, spec.layer_norm_eps),
        mlp=MLP(width, int(spec.mlp_ratio * width), spec.hidden_act),
        mlp_norm=LayerNorm(width, spec.layer_norm_eps),
    )


def _merge(side: int, width: int) -> nn.Module:
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


def _weights(spec: Spec) -> tuple[Rule, ...]:
    parts = {"query": "q", "key": "k", "value": "v"}
    table = "relative_position_bias.relative_position_bias_table"
    older = (
        *(Rename(f"attention.self.{part}.*", f"attention.{key}_proj.*") for part, key in parts.items()),
        Rename("attention.self.relative_position_bias_table", f"attention.{table}"),
    )
    return (
        Rename("swin.*", "*"),
        Within("encoder.layers.{}.blocks.{}.", older),
        *names("swin"),
        Rename("encoder.layers.{}.downsample.norm.*", "model.stack.stages.{}.merge.before.*"),
        Within("model.stack.stages.{}.layers.{}.", (Rename(f"self_attn.{table}", "self_attn.relative.table.weight"),)),
    )


def _relative(size: int, heads: int) -> TableBias:
    index = Table((size**2, size**2), lambda: grid_offsets(size, size), torch.int64)
    return TableBias(index, (2 * size - 1) ** 2, heads)


def _body(spec: Spec) -> WindowBackbone:
    """Of pictures of any size, whose windows are those of the config wherever they stand."""
    if spec.use_absolute_embeddings:
        raise ConfigError("a Swin whose 'use_absolute_embeddings' is true cannot stand inside another model here")

    size = spec.window_size
    windows = FreeWindows(size, 0), FreeWindows(size, size // 2)

    def layer(width: int, count: int, number: int) -> PreNormLayer:
        relative = _relative(size, count)
        attention = FreeWindowAttention(
            width, heads=count, windows=windows[number % 2], relative=relative, bias=spec.qkv_bias
        )
        return _around(spec, width, attention)

    def stages() -> Iterator[WindowStage]:
        for stage, (width, depth, count) in enumerate(zip(spec.hidden_sizes, spec.depths, spec.num_heads, strict=True)):
            merge = FreeMerge(width // 2, LayerNorm(2 * width, _NORM)) if stage else None
            yield WindowStage((layer(width, count, number) for number in range(depth)), merge, *windows)

    stem = FreePatches(spec.num_channels, spec.embed_dim, spec.patch_size, LayerNorm(spec.embed_dim, _NORM))
    widths = (spec.embed_dim, *spec.hidden_sizes)
    return WindowBackbone(stem, stages(), channels=spec.num_channels, widths=widths, epsilon=_NORM)


def _body_weights(spec: Spec) -> tuple[Rule, ...]:
    """As MaskFormer's own Swin writes them, and as others do."""
    numbered = range(len(spec.depths))[::-1]
    return (
        Rename("model.*", "*"),
        *_weights(spec),
        Ignore("model.stack.norm.*"),
        Rename("model.embeddings.*", "model.stem.*"),
        Rename("model.stack.stages.*", "model.stages.*"),
        *(
            Rename(f"model.stages.{stage}.merge.before.*", f"model.stages.{stage + 1}.merge.norm.*")
            for stage in numbered
        ),
        *(
            Rename(f"model.stages.{stage}.merge.reduction.*", f"model.stages.{stage + 1}.merge.reduction.*")
            for stage in numbered
        ),
        *(
            Rename(f"hidden_states_norms.{name}.*", f"norms.{stage + 1}.*")
            for stage in numbered
            for name in (f"stage{stage + 1}", stage)
        ),
    )


FAMILY = Family(
    spec=Spec,
    body=_body,
    body_weights=_body_weights,
    heads=swin_heads(_layer, _merge),
    weights=_weights,
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
