"""RT-DETR's ResNet: a stem of three convolutions, and shortcuts that take means of places before they become others
("D"). It stands inside detectors alone. https://arxiv.org/abs/1812.01187, section 4.2"""

from __future__ import annotations

from torch import Tensor, nn

from precast.export.blocks.convolution import ConvNorm
from precast.export.families import Family, resnet
from precast.export.operators import means_of_four
from precast.export.skeletons.backbone import BACKBONE_KEYS, Backbone

__all__ = ["FAMILY"]


class _Halved(nn.Module):
    """Means of 2 x 2 places, of fewer at the bottom and right of odd sides."""

    def forward(self, x: Tensor) -> Tensor:
        return means_of_four(x)


def _first(spec: resnet.Spec, channels: int, out: int, stride: int) -> resnet.Shortcut:
    """The first layer of a stage; of a basic one the shortcut always is a convolution."""
    made, basic = resnet.layer(spec, channels, out, stride), spec.layer_type == "basic"
    if channels != out if basic else stride != 1:
        made.shortcut = nn.Sequential(_Halved(), ConvNorm(channels, out))  # type: ignore[assignment]
    elif basic:
        made.shortcut = ConvNorm(channels, out, stride=stride)
    return made


def _body(spec: resnet.Spec) -> Backbone:
    half, act = spec.embedding_size // 2, spec.hidden_act
    stem = (
        ConvNorm(spec.num_channels, half, 3, stride=2, act=act),
        ConvNorm(half, half, 3, act=act),
        ConvNorm(half, spec.embedding_size, 3, act=act),
        nn.MaxPool2d(3, 2, 1),
    )
    stages = resnet.residual_stages(spec, resnet.layer, _first)
    return Backbone(nn.Sequential(*stem), stages, channels=spec.num_channels)


FAMILY = Family(
    spec=resnet.Spec,
    heads={},
    weights=lambda spec: resnet.residual_names("resnet", "stem"),
    body=_body,
    inert=BACKBONE_KEYS,
    tiny={"embedding_size": 8, "hidden_sizes": [8, 12, 16], "depths": [1, 1, 1], "layer_type": "basic"},
)
