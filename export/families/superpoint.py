"""SuperPoint: a map of how likely each pixel is a keypoint, and one of what pictures are like there.
https://arxiv.org/abs/1712.07629"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from precast.export import heads
from precast.export.blocks.convolution import Convolution
from precast.export.components import Composite
from precast.export.families import Family
from precast.export.head_sets.keypoints import Descriptors, Detector, softmax
from precast.export.spec import Spec as Base
from precast.export.spec import hf
from precast.export.weights import Rename, Rule
from precast.runtime.errors import ConfigError
from precast.runtime.ports import Dim

__all__ = ["FAMILY", "INERT", "Spec", "body", "names"]

# It has no attention that could be implemented in several ways, and what is around it may say so.
INERT = frozenset({"attn_implementation", "tie_word_embeddings"})

_SCALE = 8  # pixels a side that a place of the last map stands for


@dataclass(frozen=True, kw_only=True)
class Spec(Base):
    """Defaults are the released checkpoint's."""

    kind: str = hf("model_type", default="superpoint", only=("superpoint",))
    encoder_hidden_sizes: tuple[int, ...] = hf(default=(64, 64, 128, 128), read=tuple)
    decoder_hidden_size: int = hf(default=256)
    keypoint_decoder_dim: int = hf(default=65, only=(_SCALE**2 + 1,))
    descriptor_decoder_dim: int = hf(default=256)
    keypoint_threshold: float = hf(default=0.005)
    max_keypoints: int = hf(default=-1)
    nms_radius: int = hf(default=4)
    border_removal_distance: int = hf(default=4)

    def __post_init__(self) -> None:
        if len(self.encoder_hidden_sizes) != 4:
            raise ConfigError(
                "'encoder_hidden_sizes' are those of four blocks, three of which halve a picture; received "
                f"{len(self.encoder_hidden_sizes)}"
            )
        if self.nms_radius < 0:
            raise ConfigError(f"'nms_radius' is a number of pixels, 0 or more; received {self.nms_radius}")

    @property
    def said(self) -> dict[str, Any]:
        """How keypoints are chosen of scores: what `precast.runtime.keypoints.Selection` reads."""
        most = {} if self.max_keypoints < 0 else {"most": self.max_keypoints}
        radius, border = self.nms_radius, max(0, self.border_removal_distance)
        return {"above": float(self.keypoint_threshold), "radius": radius, "border": border, **most}


class _Block(nn.Module):
    """Two convolutions, [N, C, H, W] -> [N, D, H, W]."""

    def __init__(self, channels: int, out: int, last: int | None = None) -> None:
        super().__init__()
        self.a = Convolution(channels, out, 3)
        self.b = Convolution(out, out, 3) if last is None else Convolution(out, last)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(F.relu(self.a(x)))


class _Body(nn.Module):
    """Pixels [N, C, H, W], of which the first channel is looked at -> scores [N, H', W'] of pixels, H' and W' being
    multiples of 8, and descriptors [N, D, H' / 8, W' / 8] of length 1."""

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        sizes, inner = spec.encoder_hidden_sizes, spec.decoder_hidden_size
        self.blocks = nn.ModuleList(_Block(*pair) for pair in zip((1, *sizes), sizes, strict=False))
        self.scores = _Block(sizes[-1], inner, _SCALE**2 + 1)
        self.descriptors = _Block(sizes[-1], inner, spec.descriptor_decoder_dim)

    def bounds(self) -> dict[str, Dim]:
        """Of a picture: the last map has two places a side."""
        return {"height": Dim(2 * _SCALE), "width": Dim(2 * _SCALE)}

    def forward(self, pixel_values: Tensor) -> tuple[Tensor, Tensor]:
        x = pixel_values[:, :1]
        for number, block in enumerate(self.blocks):
            x = F.max_pool2d(x, 2) if number else x
            x = F.relu(block(x))
        scores = softmax(self.scores(x), dim=1)[:, : _SCALE**2]
        made = self.descriptors(x)
        length = torch.sqrt((made * made).sum(dim=1, keepdim=True))
        return F.pixel_shuffle(scores, _SCALE)[:, 0], made / length.clamp_min(1e-12)


def body(spec: Spec) -> nn.Module:
    """The network, to stand inside a model that matches what it finds."""
    return _Body(spec)


def names() -> tuple[Rule, ...]:
    """Its weights."""
    return (
        Rename("encoder.conv_blocks.{}.conv_*", "blocks.{}.*"),
        Rename("keypoint_decoder.conv_score_*", "scores.*"),
        Rename("descriptor_decoder.conv_descriptor_*", "descriptors.*"),
    )


def _detection(spec: Spec, absent: frozenset[str]) -> nn.Module:
    width = spec.descriptor_decoder_dim
    return Composite({"detector": Detector(_Body(spec), width, spec.said), "descriptors": Descriptors(width)})


def _weights(spec: Spec) -> tuple[Rule, ...]:
    return (*names(), Rename("*", "detector.body.*"))


FAMILY = Family(
    spec=Spec,
    heads={heads.KEYPOINT_DETECTION: _detection},
    weights=_weights,
    body=body,
    inert=INERT,
    tiny={"encoder_hidden_sizes": [4, 6, 8, 10], "decoder_hidden_size": 12, "descriptor_decoder_dim": 16},
    variations=(
        {"encoder_hidden_sizes": [3, 4, 5, 6], "decoder_hidden_size": 7, "descriptor_decoder_dim": 9}
        | {"keypoint_threshold": 0.02, "max_keypoints": 20, "nms_radius": 1, "border_removal_distance": 0},
    ),
)
