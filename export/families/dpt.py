"""DPT: ViT, and a decoder that fuses what some of its layers make; depth, or labels of every place.
https://arxiv.org/abs/2103.13413"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch.nn.functional as F
from torch import Tensor, nn

from precast.export import heads
from precast.export.blocks.activations import Activation
from precast.export.blocks.convolution import COUNTERS, BatchNorm
from precast.export.families import vit
from precast.export.head_sets.dense import DepthEstimation, SemanticSegmentation
from precast.export.head_sets.fusion import FusionNeck, PatchMaps, neck_names
from precast.export.operators import resized
from precast.export.spec import hf
from precast.export.weights import Ignore, Rename, Rule, Split
from precast.runtime.errors import ConfigError

__all__ = ["FAMILY"]

_NARROW = 32  # channels of the depth's last map but one


@dataclass(frozen=True, kw_only=True)
class Spec(vit.Spec):
    image_size: int = hf(default=384)
    is_hybrid: bool = hf(default=False, only=(False,))
    backbone_config: dict[str, object] | None = hf(default=None, only=(None,))
    backbone_out_indices: tuple[int, ...] = hf(default=(2, 5, 8, 11), read=tuple)
    readout_type: str = hf(default="project", only=("project", "add", "ignore"))
    reassemble_factors: tuple[float, ...] = hf(default=(4, 2, 1, 0.5), read=tuple)
    neck_hidden_sizes: tuple[int, ...] = hf(default=(96, 192, 384, 768), read=tuple)
    fusion_hidden_size: int = hf(default=256)
    head_in_index: int = hf(default=-1, only=(-1,))
    use_batch_norm_in_fusion_residual: bool | None = hf(default=False)
    use_bias_in_fusion_residual: bool | None = hf(default=None)
    add_projection: bool = hf(default=False)

    @property
    def norm(self) -> bool:
        """Batch norms follow convolutions of residual units."""
        return bool(self.use_batch_norm_in_fusion_residual)

    @property
    def taps(self) -> tuple[int, ...]:
        """Layers whose states are fused, counted from 1."""
        found = sorted({index + 1 for index in self.backbone_out_indices if 0 <= index < self.num_hidden_layers})
        if len(found) != len(self.neck_hidden_sizes):
            raise ConfigError(
                f"'backbone_out_indices' {self.backbone_out_indices} name {len(found)} layers, and 'neck_hidden_sizes' "
                f"are {len(self.neck_hidden_sizes)}: each has one of either"
            )
        return tuple(found)


class _Added(nn.Module):
    """States [B, S, H] -> those behind the first, which is added to each, [B, S - 1, H]."""

    def forward(self, states: Tensor) -> Tensor:
        return states[:, 1:] + states[:, :1]


class _Projected(nn.Module):
    """States [B, S, H] -> act(a projection of each behind the first beside that), [B, S - 1, H]."""

    def __init__(self, size: int, act: Activation) -> None:
        super().__init__()
        self.act, self.patch, self.token = act, nn.Linear(size, size), nn.Linear(size, size, bias=False)

    def forward(self, states: Tensor) -> Tensor:
        return self.act(self.patch(states[:, 1:]) + self.token(states[:, :1]))


def _readout(spec: Spec) -> nn.Module:
    return _Added() if spec.readout_type == "add" else _Projected(spec.hidden_size, spec.hidden_act)


def _body(spec: Spec) -> PatchMaps:
    readouts = None if spec.readout_type == "ignore" else [_readout(spec) for _ in spec.taps]
    made = vit.body(spec, normed=False)
    return PatchMaps(made, patch=spec.patch_size, layers=spec.taps, readouts=readouts)


class _Decoder(nn.Module):
    def __init__(self, spec: Spec, parts: dict[str, nn.Module]) -> None:
        super().__init__()
        bias = spec.use_bias_in_fusion_residual
        self.neck = FusionNeck(
            spec.hidden_size,
            spec.neck_hidden_sizes,
            spec.reassemble_factors,
            spec.fusion_hidden_size,
            norm=spec.norm,
            bias=not spec.norm if bias is None else bias,
        )
        self.head = nn.ModuleDict(parts)  # under upstream's numbers


class _Labels(_Decoder):
    """Maps -> logits [B, L, H, W]."""

    def __init__(self, spec: Spec) -> None:
        size = spec.fusion_hidden_size
        first = nn.Conv2d(size, size, 3, padding=1, bias=False)
        super().__init__(spec, {"0": first, "1": BatchNorm(size), "4": nn.Conv2d(size, spec.labels, 1)})

    def forward(self, maps: list[Tensor]) -> Tensor:
        x = F.relu(self.head["1"](self.head["0"](self.neck(maps))))
        return resized(self.head["4"](x), factor=2, aligned=True)


class _Depth(_Decoder):
    """Maps -> depth [B, H, W]."""

    def __init__(self, spec: Spec) -> None:
        size = spec.fusion_hidden_size
        first, second = nn.Conv2d(size, size // 2, 3, padding=1), nn.Conv2d(size // 2, _NARROW, 3, padding=1)
        super().__init__(spec, {"0": first, "2": second, "4": nn.Conv2d(_NARROW, 1, 1)})
        self.projection = nn.Conv2d(size, size, 3, padding=1) if spec.add_projection else None

    def forward(self, maps: list[Tensor]) -> Tensor:
        x = self.neck(maps)
        x = x if self.projection is None else F.relu(self.projection(x))
        x = F.relu(self.head["2"](resized(self.head["0"](x), factor=2, aligned=True)))
        return F.relu(self.head["4"](x))[:, 0]


def _segmentation(spec: Spec, absent: frozenset[str]) -> nn.Module:
    return SemanticSegmentation(_body(spec), _Labels(spec))


def _depth(spec: Spec, absent: frozenset[str]) -> nn.Module:
    return DepthEstimation(_body(spec), _Depth(spec))


def _weights(spec: Spec) -> tuple[Rule, ...]:
    readouts = "neck.reassemble_stage.readout_projects.{}.0"
    return (
        COUNTERS,
        *vit.model_names("dpt"),
        Ignore("auxiliary_head.*"),
        Split(f"{readouts}.weight", ("model.readouts.{}.patch.weight", "model.readouts.{}.token.weight"), axis=1),
        Rename(f"{readouts}.bias", "model.readouts.{}.patch.bias"),
        *neck_names(spec.neck_hidden_sizes, spec.reassemble_factors, spec.norm),
        # What no step of this decoder reads: the smallest map has none beside it.
        Ignore("decoder.neck.layers.0.beside.*"),
        Rename("head.head.*", "decoder.head.*"),
        Rename("head.projection.*", "decoder.projection.*"),
    )


FAMILY = replace(
    vit.FAMILY,
    spec=Spec,
    heads={
        heads.BASE: vit.FAMILY.heads[heads.BASE],
        heads.SEMANTIC_SEGMENTATION: _segmentation,
        heads.DEPTH_ESTIMATION: _depth,
    },
    weights=_weights,
    inert=frozenset(
        """auxiliary_loss_weight backbone_featmap_shape neck_ignore_stages semantic_classifier_dropout
        semantic_loss_ignore_index use_auxiliary_head""".split()
    ),
    tiny={key: value for key, value in vit.FAMILY.tiny.items() if key != "pooler_output_size"}
    | {"backbone_out_indices": [0, 1], "neck_hidden_sizes": [6, 8], "reassemble_factors": [2, 0.5], "num_labels": 5}
    | {"fusion_hidden_size": 10, "pooler_output_size": 32},
    variations=(
        {"image_size": 24, "backbone_out_indices": [0, 1, 2], "num_hidden_layers": 3, "readout_type": "add"}
        | {"neck_hidden_sizes": [5, 6, 7], "reassemble_factors": [4, 1, 0.5], "use_batch_norm_in_fusion_residual": True}
        | {"qkv_bias": False, "num_channels": 1, "num_labels": 1, "fusion_hidden_size": 7},
    ),
)
