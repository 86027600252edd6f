"""UPerNet over stages of a backbone: labels of every place. https://arxiv.org/abs/1807.10221"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from precast.export import heads
from precast.export.backbones import BackboneSpec
from precast.export.blocks.convolution import COUNTERS
from precast.export.families import Family, convnext, swin
from precast.export.head_sets.dense import SemanticSegmentation
from precast.export.head_sets.pyramid import PyramidDecoder, pyramid_names
from precast.export.operators import resized
from precast.export.spec import hf
from precast.export.weights import Ignore, Rule

__all__ = ["FAMILY"]


@dataclass(frozen=True, kw_only=True)
class Spec(BackboneSpec):
    backbone: str | None = hf(default=None, only=(None,))
    hidden_size: int = hf(default=512)
    pool_scales: tuple[int, ...] = hf(default=(1, 2, 3, 6), read=tuple)

    @property
    def usual(self) -> Mapping[str, Any]:
        return {"model_type": "resnet", "out_features": [f"stage{number}" for number in range(1, 5)]}


class _Segmentation(SemanticSegmentation):
    """{"logits": [B, L, I, J]}, at the size of the picture."""

    def forward(self, pixel_values: Tensor) -> dict[str, Tensor]:
        return {name: resized(made, pixel_values) for name, made in super().forward(pixel_values).items()}


def _segmentation(spec: Spec, absent: frozenset[str]) -> nn.Module:
    # Two places a side of the last map: of one, torch would trace another product.
    maps, channels = spec.inner.build(least=2), spec.inner.channels
    return _Segmentation(maps, PyramidDecoder(channels, spec.hidden_size, spec.labels, spec.pool_scales))


def _weights(spec: Spec) -> tuple[Rule, ...]:
    return (
        COUNTERS,
        Ignore("auxiliary_head.*"),
        spec.inner.names("backbone.", "model."),
        *pyramid_names("decoder"),
    )


_CONVNEXT = {**convnext.FAMILY.tiny, "model_type": "convnext", "out_indices": [1, 2]}
_SWIN = {**swin.FAMILY.tiny, "model_type": "swin", "use_absolute_embeddings": False, "out_indices": [1, 2]}

FAMILY = Family(
    spec=Spec,
    heads={heads.SEMANTIC_SEGMENTATION: _segmentation},
    weights=_weights,
    inert=frozenset(
        """auxiliary_channels auxiliary_concat_input auxiliary_in_channels auxiliary_loss_weight auxiliary_num_convs
        loss_ignore_index use_auxiliary_head""".split()
    ),
    tiny={"backbone_config": _CONVNEXT, "hidden_size": 9, "pool_scales": [1, 2, 3], "num_labels": 5}
    | {"auxiliary_in_channels": 8, "use_auxiliary_head": False},
    variations=(
        {
            "backbone_config": {**_CONVNEXT, "num_stages": 3, "hidden_sizes": [7, 9, 10], "depths": [1, 1, 1]}
            | {"out_indices": [0, 1, 3], "patch_size": 3, "num_channels": 1, "layer_scale_init_value": 0.0},
            "pool_scales": [2, 6],
            "num_labels": 1,
            "use_auxiliary_head": True,
            "auxiliary_in_channels": 10,
            "auxiliary_channels": 4,
        },
        {"backbone_config": _SWIN, "pool_scales": [1, 2], "hidden_size": 7},
    ),
)
