"""LeViT: attention over ever fewer places of a map that convolutions made, queries of a half of them between stages.
https://arxiv.org/abs/2104.01136

Batch norms stand behind and in front of every projection: they are folded into it where a checkpoint is read.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from precast.export import heads
from precast.export.blocks.convolution import COUNTERS, ConvNorm
from precast.export.blocks.mlp import MLP
from precast.export.blocks.patches import rows_of
from precast.export.blocks.relative import TableBias
from precast.export.blocks.tables import Table
from precast.export.families import Family, LabelSpec
from precast.export.head_sets.maps import MapClassification, RowMean, map_heads
from precast.export.image_heads import both, both_outs
from precast.export.skeletons.backbone import BACKBONE_KEYS, Backbone
from precast.export.spec import hf
from precast.export.weights import FoldNorm, Ignore, Rename, Rule, Split, Transpose, Within
from precast.runtime.errors import ConfigError
from precast.runtime.ports import Out

__all__ = ["FAMILY", "Spec"]

_TEACHER = "classifier_distill"
_OF_STAGES = ("hidden_sizes", "num_attention_heads", "depths", "key_dim", "mlp_ratio", "attention_ratio")


class _Down(NamedTuple):
    """What follows a stage: attention of every ``stride``-th row and column, and an MLP where its ratio is not 0."""

    key: int
    heads: int
    ratio: int
    mlp_ratio: int
    stride: int


def _downs(value: Any) -> tuple[_Down | None, ...]:
    """Of each stage; [""] stands for nothing."""
    for entry in value:
        numbers = entry[1:]
        known = entry == [""] or (
            entry[0] == "Subsample" and len(numbers) == 5 and all(type(n) is int for n in numbers)
        )
        if not known or any(number < (0 if place == 3 else 1) for place, number in enumerate(numbers)):
            raise ValueError(
                "each is ['Subsample', key size, heads, ratio of values, ratio of the MLP, stride] or ['']"
            )
    return tuple(None if entry == [""] else _Down(*entry[1:]) for entry in value)


@dataclass(frozen=True, kw_only=True)
class Spec(LabelSpec):
    """Defaults are LeViT-128S's."""

    image_size: int = hf(default=224)
    num_channels: int = hf(default=3)
    kernel_size: int = hf(default=3)
    stride: int = hf(default=2)
    padding: int = hf(default=1)
    patch_size: int = hf(default=16)
    hidden_sizes: tuple[int, ...] = hf(default=(128, 256, 384), read=tuple)
    num_attention_heads: tuple[int, ...] = hf(default=(4, 8, 12), read=tuple)
    depths: tuple[int, ...] = hf(default=(4, 4, 4), read=tuple)
    key_dim: tuple[int, ...] = hf(default=(16, 16, 16), read=tuple)
    mlp_ratio: tuple[int, ...] = hf(default=(2, 2, 2), read=tuple)
    attention_ratio: tuple[int, ...] = hf(default=(2, 2, 2), read=tuple)
    down_ops: tuple[Any, ...] | None = hf(default=None, read=_downs)

    def __post_init__(self) -> None:
        counts = [len(getattr(self, name)) for name in _OF_STAGES]
        if min(counts) != max(counts) or not counts[0]:
            raise ConfigError(f"{', '.join(map(repr, _OF_STAGES))} have {counts} numbers: each stage has one of either")
        if min(self.patch_size, self.stride, self.image_size, *self.key_dim, *self.num_attention_heads) < 1:
            raise ConfigError("'image_size', 'patch_size', 'stride', 'key_dim' and 'num_attention_heads' are 1 or more")
        side, patches = self.image_size, self.image_size // self.patch_size
        for _ in range(4):
            side = (side + 2 * self.padding - self.kernel_size) // self.stride + 1
        if side != patches:
            raise ConfigError(
                f"'image_size' {self.image_size} and 'patch_size' {self.patch_size} say {patches} patches a side, and "
                f"convolutions of 'kernel_size', 'stride' and 'padding' leave {side}"
            )
        if len(self.downs) < counts[0] - 1 or any(self.downs[counts[0] - 1 : counts[0]]):
            raise ConfigError(f"'down_ops' are {len(self.downs)}: one for each of {counts[0]} stages but the last")
        for number, (size, out) in enumerate(pairwise(self.hidden_sizes)):
            if size != out and self.downs[number] is None:
                raise ConfigError(f"'down_ops' have nothing for stage {number + 1}: 'hidden_sizes' change behind it")

    def down(self, number: int) -> _Down | None:
        """What stands behind the stage of this number."""
        return self.downs[number] if number < len(self.downs) else None

    @property
    def downs(self) -> tuple[_Down | None, ...]:
        """What stands behind each stage."""
        if self.down_ops is not None:
            return self.down_ops
        key = self.key_dim[0]
        return tuple(_Down(key, size // key, 4, 2, 2) for size in self.hidden_sizes[:2])


class _Attention(nn.Module):
    """Rows of a square map [B, S * S, C] -> of every ``stride``-th row and column of it, [B, T * T, D]; values are
    ``ratio`` times as wide as keys.

    Args:
        side: S. out: D.
    """

    def __init__(self, size: int, out: int, side: int, *, key: int, heads: int, ratio: int, stride: int = 1) -> None:
        super().__init__()
        self.side, self.key, self.heads, self.ratio, self.stride = side, key, heads, ratio, stride
        self.asked = -(-side // stride)
        self.q_proj = nn.Linear(size, heads * key)
        self.k_proj = nn.Linear(size, heads * key)
        self.v_proj = nn.Linear(size, heads * key * ratio)
        self.o_proj = nn.Linear(heads * key * ratio, out)
        self.places = Table((self.asked**2,), self._places, torch.int64) if stride > 1 else None
        index = Table((self.asked**2, side**2), self._offsets, torch.int64)
        self.relative = TableBias(index, side**2, heads)

    def _places(self) -> Tensor:
        """Which rows ask."""
        return torch.arange(self.side**2).view(self.side, self.side)[:: self.stride, :: self.stride].flatten()

    def _offsets(self) -> Tensor:
        """A number for how far apart each two places are, whichever comes first."""
        places = torch.cartesian_prod(torch.arange(self.side), torch.arange(self.side))
        asked = places if self.places is None else places[self._places()]
        down, right = (asked[:, None] - places[None]).abs().unbind(-1)
        return down * self.side + right

    def forward(self, x: Tensor) -> Tensor:
        batch, rows, _ = x.shape
        asking = x if self.places is None else x.index_select(1, self.places())
        query = self.q_proj(asking).view(batch, self.asked**2, self.heads, self.key).transpose(1, 2)
        key = self.k_proj(x).view(batch, rows, self.heads, self.key).permute(0, 2, 3, 1)
        value = self.v_proj(x).view(batch, rows, self.heads, self.key * self.ratio).transpose(1, 2)
        scores = torch.matmul(query * self.key**-0.5, key) + self.relative()
        context = torch.matmul(F.softmax(scores, dim=-1), value).transpose(1, 2)
        context = context.clone(memory_format=torch.contiguous_format).view(batch, self.asked**2, -1)
        return self.o_proj(F.hardswish(context))


class _Residual(nn.Module):
    """x + module(x)."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Tensor) -> Tensor:
        return x + self.module(x)


class _Stem(nn.Sequential):
    """Four convolutions, and places as rows."""

    def __init__(self, spec: Spec) -> None:
        size, channels = spec.hidden_sizes[0], spec.num_channels
        steps = []
        for share in (8, 4, 2, 1):
            act = F.hardswish if share > 1 else None
            padding = spec.padding
            steps.append(
                ConvNorm(channels, size // share, spec.kernel_size, stride=spec.stride, padding=padding, act=act)
            )
            channels = size // share
        super().__init__(*steps)

    def forward(self, pixels: Tensor) -> Tensor:
        return rows_of(super().forward(pixels))


def _stages(spec: Spec) -> Iterator[nn.Module]:
    side = spec.image_size // spec.patch_size
    for number, (size, key, count) in enumerate(
        zip(spec.hidden_sizes, spec.key_dim, spec.num_attention_heads, strict=True)
    ):
        layers: list[nn.Module] = []
        for _ in range(spec.depths[number]):
            ratio = spec.attention_ratio[number]
            layers.append(_Residual(_Attention(size, size, side, key=key, heads=count, ratio=ratio)))
            if spec.mlp_ratio[number] > 0:
                layers.append(_Residual(MLP(size, size * spec.mlp_ratio[number], F.hardswish)))
        down = spec.down(number)
        if down is not None:
            out = spec.hidden_sizes[number + 1]
            sizes = {"key": down.key, "heads": down.heads, "ratio": down.ratio, "stride": down.stride}
            layers.append(_Attention(size, out, side, **sizes))
            if down.mlp_ratio > 0:
                layers.append(_Residual(MLP(out, out * down.mlp_ratio, F.hardswish)))
            side = -(-side // down.stride)
        yield nn.Sequential(*layers)


def _body(spec: Spec) -> Backbone:
    return Backbone(_Stem(spec), _stages(spec), channels=spec.num_channels, image=spec.image_size)


class _WithTeacher(MapClassification):
    """The mean of two classifiers."""

    def __init__(self, spec: Spec) -> None:
        first, second = (nn.Linear(spec.hidden_sizes[-1], spec.labels) for _ in range(2))
        super().__init__(_body(spec), RowMean(), first)
        self.classifier_distill = second

    def outs(self) -> tuple[Out, ...]:
        [logits] = super().outs()
        return both_outs(logits)

    def forward(self, pixel_values: Tensor) -> dict[str, Tensor]:
        assert self.pooler is not None
        mean = self.pooler(self.model(pixel_values))
        return both(self.classifier(mean), self.classifier_distill(mean))


_PLAIN = map_heads(_body, lambda spec: spec.hidden_sizes[-1], lambda spec: RowMean(), rows=True)


def _classifier(spec: Spec, absent: frozenset[str]) -> nn.Module:
    return _PLAIN[heads.IMAGE_CLASSIFICATION](spec, absent) if _TEACHER in absent else _WithTeacher(spec)


def _stage_names(spec: Spec, number: int) -> Within:
    down = spec.down(number)
    parts = ("q_proj.*", "k_proj.*", "v_proj.*")
    shares, groups = (1, 1, spec.attention_ratio[number]), spec.num_attention_heads[number]
    fewer = () if down is None else (Split("keys_values.*", parts[1:], shares=(1, down.ratio), groups=down.heads),)
    attention: tuple[Rule, ...] = (
        Ignore("attention_bias_idxs"),
        FoldNorm("*.batch_norm", into="*.linear"),
        Rename("*.linear.*", "*.*"),
        Split("queries_keys_values.*", parts, shares=shares, groups=groups),
        *fewer,
        Rename("queries.*", "q_proj.*"),
        Rename("projection.*", "o_proj.*"),
        Transpose("attention_biases"),
        Rename("attention_biases", "relative.table.weight"),
        Rename("linear_up.*", "up_proj.*"),
        Rename("linear_down.*", "down_proj.*"),
    )
    layer = (Within("module.", attention), Within("", attention))
    return Within(f"encoder.stages.{number}.layers.{{}}.", layer, to=f"model.stages.{number}.{{}}.")


def _weights(spec: Spec) -> tuple[Rule, ...]:
    classifiers = ("classifier", _TEACHER)
    return (
        COUNTERS,
        Rename("levit.*", "*"),
        *(
            Rename(f"patch_embeddings.embedding_layer_{number + 1}.{old}.*", f"model.stem.{number}.{new}.*")
            for number in range(4)
            for old, new in (("convolution", "convolution"), ("batch_norm", "norm"))
        ),
        *(_stage_names(spec, number) for number in range(len(spec.depths))),
        *(FoldNorm(f"{name}.batch_norm", into=f"{name}.linear", front=True) for name in classifiers),
        *(Rename(f"{name}.linear.*", f"{name}.*") for name in classifiers),
    )


FAMILY = Family(
    spec=Spec,
    heads={heads.BASE: _PLAIN[heads.BASE], heads.IMAGE_CLASSIFICATION: _classifier},
    weights=_weights,
    optional=(_TEACHER,),
    inert=BACKBONE_KEYS,
    tiny={"image_size": 48, "hidden_sizes": [16, 24, 32], "num_attention_heads": [2, 3, 2], "depths": [1, 1, 1]}
    | {"key_dim": [4, 6, 8], "down_ops": [["Subsample", 4, 3, 4, 2, 2], ["Subsample", 4, 2, 4, 2, 2]]}
    | {"architectures": ["LevitForImageClassification"]},
    variations=(
        # An odd grid in steps of three, two stages of one size, values as wide as keys, MLPs left out.
        {"image_size": 21, "patch_size": 4, "stride": 1, "kernel_size": 5, "padding": 0, "num_channels": 1}
        | {"hidden_sizes": [17, 17, 9], "key_dim": [3, 5, 4], "mlp_ratio": [0, 3, 1], "attention_ratio": [1, 3, 2]}
        | {"down_ops": [[""], ["Subsample", 3, 3, 1, 0, 3]], "depths": [2, 0, 1], "num_labels": 5},
        {"architectures": ["LevitForImageClassificationWithTeacher"], "num_labels": 3},
    ),
)
