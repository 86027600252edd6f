"""BEiT: ViT with scaled layers and scores that know how far apart two patches are. https://arxiv.org/abs/2106.08254"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from precast.export import heads
from precast.export.blocks.convolution import COUNTERS, Enlarge, enlarging
from precast.export.blocks.norms import LayerNorm
from precast.export.blocks.patches import Patches
from precast.export.blocks.relative import TableBias, grid_offsets
from precast.export.blocks.tables import Table
from precast.export.families import vit
from precast.export.head_sets.dense import SemanticSegmentation
from precast.export.head_sets.fusion import PatchMaps
from precast.export.head_sets.pyramid import PyramidDecoder, pyramid_names
from precast.export.image_heads import FirstState, ImageClassification, ImageFeatures, ImageModel, MeanState
from precast.export.skeletons.stack import stack
from precast.export.spec import hf
from precast.export.weight_table import Lazy
from precast.export.weights import FoldScale, Ignore, Rename, Rule, Within
from precast.runtime.errors import ConfigError
from precast.runtime.ports import Port

__all__ = ["FAMILY", "Spec"]

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


def _body(spec: Spec, normed: bool = True) -> ImageModel:
    side = spec.image_size // max(spec.patch_size, 1)
    index = Table((side**2 + 1, side**2 + 1), lambda: _offsets(side), torch.int64)

    def relative() -> nn.Module:
        return TableBias(index, (2 * side - 1) ** 2 + 3, spec.num_attention_heads)

    patches = Patches(
        spec.hidden_size,
        image=spec.image_size,
        patch=spec.patch_size,
        channels=spec.num_channels,
        placed=spec.use_absolute_position_embeddings,
    )
    layers = stack(
        spec,
        key_bias=False,
        normed=normed and not spec.use_mean_pooling,
        relative=relative if spec.use_relative_position_bias else None,
    )
    return ImageModel(patches, layers, relative=relative() if spec.use_shared_relative_position_bias else None)


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


FAMILY = replace(
    vit.FAMILY,
    spec=Spec,
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
