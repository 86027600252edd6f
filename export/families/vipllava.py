"""ViP-LLaVA: LLaVA that reads several of its ViT's layers, normalised together. https://arxiv.org/abs/2312.00784"""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace

from torch import Tensor

from precast.export import heads
from precast.export.blocks.norms import LayerNorm
from precast.export.families import llava
from precast.export.spec import hf
from precast.export.weights import Rename, Rule

__all__ = ["FAMILY", "Spec"]


@dataclass(frozen=True, kw_only=True)
class Spec(llava.Spec):
    projector_layernorm_eps: float = hf(default=1e-5)
    vision_feature_layer: tuple[int, ...] = hf(
        ("vision_feature_layer", "vision_feature_layers"),
        default=(-2, -5, -8, -11, 6),
        read=lambda said: (said,) if isinstance(said, int) else tuple(said),
    )
    # Upstream's class has one of each.
    vision_feature_select_strategy: str = hf(default="default", only=("default",))
    multimodal_projector_bias: bool = hf(default=True, only=(True,))


class _Projector(llava.Projector):
    """The same behind a norm."""

    def __init__(self, spec: Spec) -> None:
        super().__init__(spec)
        self.norm = LayerNorm(self.linear_1.in_features, spec.projector_layernorm_eps)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(self.norm(x))


def _weights(spec: Spec) -> tuple[Rule, ...]:
    return (*llava.weights(spec), Rename("vision.project.projector_layernorm.*", "vision.project.norm.*"))


_REFUSED = ("vision_feature_select_strategy", "multimodal_projector_bias")
_ODD = {key: value for key, value in llava.FAMILY.variations[0].items() if key not in _REFUSED}

FAMILY = replace(
    llava.FAMILY,
    spec=Spec,
    heads={heads.IMAGE_TEXT: functools.partial(llava.compose, projector=_Projector)},
    weights=_weights,
    tiny={**llava.FAMILY.tiny, "vision_feature_layer": [-2, -1, 0]},
    variations=({**_ODD, "vision_feature_layer": 1, "projector_layernorm_eps": 1e-3},),
)
