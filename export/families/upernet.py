"""UPerNet over stages of ConvNeXt: labels of every place. https://arxiv.org/abs/1807.10221"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from precast.export import heads
from precast.export.blocks.convolution import COUNTERS, MapNorm
from precast.export.families import Family, LabelSpec, convnext
from precast.export.head_sets.dense import SemanticSegmentation
from precast.export.head_sets.pyramid import PyramidDecoder, StageMaps, pyramid_names
from precast.export.operators import resized
from precast.export.spec import hf
from precast.export.weights import Ignore, Rename, Rule, Within
from precast.runtime.errors import ConfigError

__all__ = ["FAMILY"]

_EPSILON = 1e-6  # of the norms behind stages


@dataclass(frozen=True, kw_only=True)
class Backbone(convnext.Spec):
    """A ConvNeXt of which some stages are read."""

    kind: str = hf("model_type", only=("convnext",))
    out_indices: tuple[int, ...] = hf(("out_indices", "_out_indices"), read=tuple)

    @property
    def taps(self) -> tuple[int, ...]:
        """Hidden states that are read: 0 is what the stem makes."""
        found = tuple(sorted({index % (self.num_stages + 1) for index in self.out_indices}))
        if not found:
            raise ConfigError("'out_indices' of 'backbone_config' are empty: some stage is read")
        return found

    @property
    def widths(self) -> list[int]:
        """Channels of what is read."""
        sizes = (self.hidden_sizes[0], *self.hidden_sizes)
        return [sizes[index] for index in self.taps]


@dataclass(frozen=True, kw_only=True)
class Spec(LabelSpec):
    backbone: Backbone = hf(
        "backbone_config", spec=Backbone, inert=convnext.FAMILY.inert - {"out_indices", "_out_indices"}
    )
    hidden_size: int = hf(default=512)
    pool_scales: tuple[int, ...] = hf(default=(1, 2, 3, 6), read=tuple)


class _Segmentation(SemanticSegmentation):
    """{"logits": [B, L, I, J]}, at the size of the picture."""

    def forward(self, pixel_values: Tensor) -> dict[str, Tensor]:
        return {name: resized(made, pixel_values) for name, made in super().forward(pixel_values).items()}


def _segmentation(spec: Spec, absent: frozenset[str]) -> nn.Module:
    backbone = spec.backbone
    maps = StageMaps(convnext.body(backbone), backbone.taps, [MapNorm(width, _EPSILON) for width in backbone.widths])
    return _Segmentation(maps, PyramidDecoder(backbone.widths, spec.hidden_size, spec.labels, spec.pool_scales))


def _weights(spec: Spec) -> tuple[Rule, ...]:
    names = ["stem", *(f"stage{number + 1}" for number in range(spec.backbone.num_stages))]
    return (
        COUNTERS,
        Ignore("auxiliary_head.*"),
        *(
            Rename(f"backbone.hidden_states_norms.{names[index]}.*", f"model.norms.{number}.*")
            for number, index in enumerate(spec.backbone.taps)
        ),
        Within("backbone.", convnext.FAMILY.weights(spec.backbone), to=""),
        *pyramid_names("decoder"),
    )


_BACKBONE = {**convnext.FAMILY.tiny, "model_type": "convnext", "out_indices": [1, 2]}

FAMILY = Family(
    spec=Spec,
    heads={heads.SEMANTIC_SEGMENTATION: _segmentation},
    weights=_weights,
    inert=frozenset(
        """auxiliary_channels auxiliary_concat_input auxiliary_in_channels auxiliary_loss_weight auxiliary_num_convs
        loss_ignore_index use_auxiliary_head""".split()
    ),
    tiny={"backbone_config": _BACKBONE, "hidden_size": 9, "pool_scales": [1, 2, 3], "num_labels": 5}
    | {"auxiliary_in_channels": 8, "use_auxiliary_head": False},
    variations=(
        {
            "backbone_config": {**_BACKBONE, "num_stages": 3, "hidden_sizes": [7, 9, 10], "depths": [1, 1, 1]}
            | {"out_indices": [0, 1, 3], "patch_size": 3, "num_channels": 1, "layer_scale_init_value": 0.0},
            "pool_scales": [2, 6],
            "num_labels": 1,
            "use_auxiliary_head": True,
            "auxiliary_in_channels": 10,
            "auxiliary_channels": 4,
        },
    ),
)
