"""BEiT: ViT with scaled layers and scores that know how far apart two patches are. https://arxiv.org/abs/2106.08254"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from precast.export import heads
from precast.export.blocks.attention import SelfAttention
from precast.export.blocks.convolution import COUNTERS, Enlarge, enlarging
from precast.export.blocks.norms import LayerNorm
from precast.export.blocks.patches import Patches
from precast.export.blocks.relative import TableBias, grid_offsets
from precast.export.blocks.resample import Bicubic, Bilinear
from precast.export.blocks.tables import Table
from precast.export.families import vit
from precast.export.head_sets.dense import SemanticSegmentation
from precast.export.head_sets.fusion import PatchMaps
from precast.export.head_sets.pyramid import PyramidDecoder, pyramid_names
from precast.export.image_heads import FirstState, ImageClassification, ImageFeatures, ImageModel, MeanState
from precast.export.operators import attention
from precast.export.skeletons.stack import stack
from precast.export.spec import hf
from precast.export.weight_table import Lazy
from precast.export.weights import FoldScale, Ignore, Rename, Rule, Within
from precast.runtime.errors import ConfigError
from precast.runtime.ports import Port

__all__ = ["FAMILY", "Spec", "free_body"]

_TAPS = 4  # layers that a decoder reads


@dataclass(frozen=True, kw_only=True)
class Spec(vit.Sizes):
    use_absolute_position_embeddings: bool = hf(default=False)
    use_relative_position_bias: bool = hf(default=False)
    use_shared_relative_position_bias: bool = hf(default=False)
    use_mean_pooling: bool = hf(default=True)
    layer_scale_init_value: float = hf(default=0.1)
    out_indices: tuple[int, ...] | None = hf(("out_indices", "_out_indices", "segmentation_indices"), default=None)
    pool_scales: tuple[int, ...] = hf(default=(1, 2, 3, 6), read=tuple)

    @property
    def side(self) -> int:
        """Patches a side of a picture in training."""
        return self.image_size // max(self.patch_size, 1)

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of what goes into the layers and each of them."""
        return (self.hidden_size,) * (self.num_hidden_layers + 1)


class _NormedMean(nn.Module):
    """States [B, S, H] -> norm(mean of the patches), [B, H]."""

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        self.mean = MeanState(start=1)
        self.norm = LayerNorm(spec.hidden_size, spec.layer_norm_eps)

    def forward(self, states: Tensor) -> Tensor:
        return self.norm(self.mean(states))


def _offsets(side: int) -> Tensor:
    """Numbers of the offsets of patches, and three behind them: from the class token, to it, and its own."""
    patches = grid_offsets(side, side)
    count = (2 * side - 1) ** 2
    index = F.pad(patches, (1, 0), value=count + 1)
    index = F.pad(index, (0, 0, 1, 0), value=count)
    index[0, 0] = count + 2
    return index


class _Shared(TableBias):
    """What all layers add to their scores, whatever the picture."""

    def forward(self, pixel_values: Tensor | None = None) -> Tensor:
        return super().forward()


def _patches(spec: Spec, resize: nn.Module | None = None) -> Patches:
    return Patches(
        spec.hidden_size,
        image=spec.image_size,
        patch=spec.patch_size,
        channels=spec.num_channels,
        placed=spec.use_absolute_position_embeddings,
        resize=resize,
    )


def _body(spec: Spec, normed: bool = True) -> ImageModel:
    side, heads = spec.side, spec.num_attention_heads
    index = Table((side**2 + 1, side**2 + 1), lambda: _offsets(side), torch.int64)
    count = (2 * side - 1) ** 2 + 3
    layers = stack(
        spec,
        key_bias=False,
        normed=normed and not spec.use_mean_pooling,
        relative=(lambda: TableBias(index, count, heads)) if spec.use_relative_position_bias else None,
    )
    shared = _Shared(index, count, heads) if spec.use_shared_relative_position_bias else None
    return ImageModel(_patches(spec), layers, relative=shared)


class _Grid(NamedTuple):
    """Of a call's R rows of C patches.

    Args:
        numbers: of the offsets of two patches, [R * C, R * C]. weights: how much its offsets have of those in
            training, down [2 * R - 1, D] and across [D, 2 * C - 1]. shared: what all layers add to their scores, or
            None.
    """

    numbers: Tensor
    weights: tuple[Tensor, Tensor]
    shared: Tensor | None = None


class _FreeBias(nn.Module):
    """`TableBias` over patches of any number: the table is read at their size. https://arxiv.org/abs/2307.14460"""

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        self.known = 2 * spec.side - 1
        self.table, self.resize = nn.Embedding(self.known**2 + 3, spec.num_attention_heads), Bilinear(self.known)

    def forward(self, grid: _Grid) -> Tensor:
        """[1, N, S, S]."""
        table, known = self.table.weight, self.known**2
        down, across = grid.weights[0].shape[0], grid.weights[1].shape[1]
        heads, count = table.shape[1], grid.numbers.shape[0]
        offsets = self.resize(table[None, :known], down, across, grid.weights)
        offsets = offsets.clone(memory_format=torch.contiguous_format).view(heads, down * across)
        patches = offsets.index_select(1, grid.numbers.view(count * count)).view(heads, count, count)
        first, to, own = (table[known + number].view(heads, 1, 1) for number in range(3))
        left = torch.cat((own, to.expand(-1, count, -1)), dim=1)
        return torch.cat((left, torch.cat((first.expand(-1, -1, count), patches), dim=1)), dim=2)[None]


class _Grids(nn.Module):
    """What all layers share of a call's picture."""

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        self.patch, self.resize = spec.patch_size, Bilinear(2 * spec.side - 1)
        self.shared = _FreeBias(spec) if spec.use_shared_relative_position_bias else None

    def forward(self, pixel_values: Tensor) -> _Grid:
        rows, columns = (side // self.patch for side in pixel_values.shape[2:])
        place, other = torch.arange(rows, device=pixel_values.device), torch.arange(columns, device=pixel_values.device)
        last = other[-1:]
        down = (place[:, None] - place[None] + place[-1:]) * (2 * last + 1)
        right = other[:, None] - other[None] + last
        index = (down.view(rows, 1, rows, 1) + right.view(1, columns, 1, columns)).view(rows * columns, rows * columns)
        grid = _Grid(index, self.resize.weights(pixel_values, 2 * rows - 1, 2 * columns - 1))
        return grid if self.shared is None else grid._replace(shared=self.shared(grid))


class _FreeAttention(SelfAttention):
    """Self-attention over patches whose grid the call says."""

    def forward(self, x: Tensor, mask: Tensor | None, bias: Any = None) -> Tensor:
        """``bias``: the call's `_Grid`."""
        own = None if self.relative is None else self.relative(bias)
        shared: Tensor | None = bias.shared
        added = shared if own is None else own if shared is None else own + shared
        query, key, value = self.q_proj(x), self.k_proj(x), self.v_proj(x)
        return self.o_proj(attention(query, key, value, bias=added, heads=self.heads, scale=self.scale))


def free_body(spec: Spec, normed: bool = True) -> ImageModel:
    """Layers over pictures of any size."""
    relative = (lambda: _FreeBias(spec)) if spec.use_relative_position_bias else None
    normed = normed and not spec.use_mean_pooling
    layers = stack(spec, key_bias=False, normed=normed, relative=relative, attention=_FreeAttention)
    return ImageModel(_patches(spec, Bicubic(spec.side)), layers, relative=_Grids(spec))


def _pooler(spec: Spec) -> nn.Module:
    return _NormedMean(spec) if spec.use_mean_pooling else FirstState()


def _base(spec: Spec, absent: frozenset[str]) -> nn.Module:
    untrained = spec.use_mean_pooling and "pooler" in absent
    return ImageFeatures(_body(spec), None if untrained else _pooler(spec))


def _classifier(spec: Spec, absent: frozenset[str]) -> nn.Module:
    return ImageClassification(_body(spec), nn.Linear(spec.hidden_size, spec.labels), _pooler(spec))


class _Decoder(nn.Module):
    """Maps of one size, made four times and twice as large, left, and halved -> logits [B, L, H, W]."""

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        size = spec.hidden_size
        self.first, self.again, self.second = (Enlarge(size, 2) for _ in range(3))
        self.pyramid = PyramidDecoder([size] * _TAPS, size, spec.labels, spec.pool_scales)

    def forward(self, maps: list[Tensor]) -> Tensor:
        one, two, three, four = maps
        one = self.again(F.gelu(self.first(one)))
        return self.pyramid([one, self.second(two), three, F.max_pool2d(four, 2, 2)])


class _Segmentation(SemanticSegmentation):
    """{"logits": [B, L, 4 * H, 4 * W]} of four layers, which ``out_indices`` name."""

    def __init__(self, spec: Spec) -> None:
        taps = [index - 1 for index in spec.out_indices or ()]
        self.named = len(taps) == _TAPS and taps == sorted({*taps}) and taps[0] >= 0
        taps = taps if self.named else [0] * _TAPS
        maps = PatchMaps(_body(spec, normed=False), patch=spec.patch_size, layers=taps)
        super().__init__(maps, _Decoder(spec))
        self.said = spec.out_indices

    def ports(self) -> tuple[Port, ...]:
        if not self.named:  # no other head needs them
            raise ConfigError(f"'out_indices' are {self.said}, and must be {_TAPS} rising numbers from 1 on")
        return super().ports()


def _segmentation(spec: Spec, absent: frozenset[str]) -> nn.Module:
    return _Segmentation(spec)


class _WithoutMaskedHead(Rule):
    """What predicts masked patches, whose norm has the name that the model's has where its checkpoint has no prefix."""

    def apply(self, table: dict[str, Lazy]) -> dict[str, Lazy]:
        if "lm_head.weight" not in table:
            return table
        return {key: lazy for key, lazy in table.items() if not key.startswith(("lm_head.", "layernorm."))}


def _weights(spec: Spec) -> tuple[Rule, ...]:
    bias = "relative_position_bias.relative_position_bias_table"
    layer = (
        Rename(bias, "self_attn.relative.table.weight"),
        Rename(f"self_attn.attention.{bias}", "self_attn.relative.table.weight"),  # as transformers 4 names it
        *(
            FoldScale(f"lambda_{number}", into=projection)
            for number, projection in ((1, "self_attn.o_proj"), (2, "mlp.down_proj"))
            if spec.layer_scale_init_value > 0
        ),
    )
    older = {"fpn1.0": "fpn1.conv_transpose1", "fpn1.1": "fpn1.normalization", "fpn1.3": "fpn1.conv_transpose2"}
    return (
        COUNTERS,
        Ignore("auxiliary_head.*"),
        _WithoutMaskedHead(),
        Ignore("*.relative_position_index"),
        *vit.model_names("beit"),
        *(Rename(f"{old}.*", f"fpn.{new}.*") for old, new in older.items()),  # as transformers 4 names them
        Rename("fpn2.0.*", "fpn.fpn2.*"),
        Rename("fpn.fpn1.conv_transpose1.*", "decoder.first.*"),
        Rename("fpn.fpn1.conv_transpose2.*", "decoder.again.*"),
        Rename("fpn.fpn2.*", "decoder.second.*"),
        *enlarging("decoder.first", spec.hidden_size, 2, norm="fpn.fpn1.normalization"),
        *enlarging("decoder.again", spec.hidden_size, 2),
        *enlarging("decoder.second", spec.hidden_size, 2),
        *pyramid_names("decoder.pyramid"),
        Rename(f"encoder.{bias}", "model.relative.table.weight"),
        Rename("shared_position_bias.relative_position_bias_table", "model.relative.table.weight"),
        Rename("pooler.layernorm.*", "pooler.norm.*"),
        Within("model.stack.layers.{}.", layer),
    )


def _body_names(spec: Spec) -> tuple[Rule, ...]:
    return (
        Rename("model.relative.table.weight", "model.relative.shared.table.weight"),
        Ignore("pooler.*"),
    )


FAMILY = replace(
    vit.FAMILY,
    spec=Spec,
    body=free_body,
    body_names=_body_names,
    heads={
        heads.BASE: _base,
        heads.IMAGE_CLASSIFICATION: _classifier,
        heads.SEMANTIC_SEGMENTATION: _segmentation,
    },
    weights=_weights,
    final_norm=False,
    inert=frozenset(
        """_out_features add_fpn auxiliary_channels auxiliary_concat_input auxiliary_loss_weight
        auxiliary_num_convs drop_path_rate out_features reshape_hidden_states
        semantic_loss_ignore_index stage_names use_auxiliary_head use_mask_token vocab_size""".split()
    ),
    tiny={key: value for key, value in vit.FAMILY.tiny.items() if key != "pooler_output_size"}
    | {"use_relative_position_bias": True, "num_hidden_layers": 4, "out_indices": [1, 2, 3, 4]}
    | {"use_auxiliary_head": False},
    variations=(
        # Odd sizes: 3 heads of 7 channels, a picture that is no multiple of its patches, one channel.
        {
            "hidden_size": 21,
            "pool_scales": [1, 3],
            "use_auxiliary_head": True,
            "num_attention_heads": 3,
            "intermediate_size": 37,
        }
        | {"image_size": 23, "patch_size": 5, "num_channels": 1, "num_labels": 5, "use_mean_pooling": False}
        | {"hidden_act": "gelu_new", "layer_norm_eps": 1e-5, "use_shared_relative_position_bias": True},
        {"use_absolute_position_embeddings": True, "use_relative_position_bias": False, "use_mask_token": True}
        | {"layer_scale_init_value": 0.0, "pool_scales": [2]},
    ),
)
