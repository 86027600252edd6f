"""Keypoints: a detector's maps, what is read of them at the places that the runtime chooses
(`precast.runtime.keypoints`), and the matching of two pictures' keypoints.

How many there are depends on the picture, so that no graph holds them: one component makes dense maps, another reads
these at keypoints that it is given."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from precast.export.blocks.attention import head_size
from precast.export.operators import attention, rotary
from precast.export.signatures import Component
from precast.runtime.catalogue import CATALOGUE
from precast.runtime.ports import Out, Port

__all__ = [
    "NEVER",
    "Descriptors",
    "Detector",
    "Matcher",
    "PairAttention",
    "log_softmax",
    "read_at",
    "softmax",
    "swapped",
]

_SIZE = Port("image_size", "float32", ("batch", 2), "features", source="detector")


class Detector(Component):
    """Pixels [B, 3, H, W] -> {"score_map": [B, H', W'], "descriptor_map": [B, D, h, w], "image_size": [B, 2], W and H};
    of ``pairs`` of pictures [B, 2, 3, H, W] the first two [B, 2, ...].

    Args:
        body: makes both maps, of any number of pictures. width: D. said: how keypoints are chosen of scores.
    """

    def __init__(self, body: nn.Module, width: int, said: Mapping[str, Any], *, pairs: bool = False) -> None:
        super().__init__()
        self.body, self.width, self.said, self.pairs = body, width, said, (2,) if pairs else ()

    def ports(self) -> tuple[Port, ...]:
        return (Port("pixel_values", "float32", ("batch", *self.pairs, 3, "height", "width"), "pixels"),)

    def outs(self) -> tuple[Out, ...]:
        rows = ("batch", *self.pairs)
        return (
            Out("score_map", (*rows, "rows", "columns"), "scores"),
            Out("descriptor_map", (*rows, self.width, "lines", "places"), "features"),
            Out("image_size", ("batch", 2), "features"),
        )

    def processing(self) -> dict[str, Any]:
        return {"keypoints": dict(self.said)}

    def forward(self, pixel_values: Tensor) -> dict[str, Tensor]:
        batch = pixel_values.shape[0]
        pictures = pixel_values
        if self.pairs:
            pictures = pixel_values.view(2 * batch, *pixel_values.shape[2:])
        scores, descriptors = self.body(pictures)
        if self.pairs:
            scores = scores.view(batch, 2, *scores.shape[1:])
            descriptors = descriptors.view(batch, 2, *descriptors.shape[1:])
        ones = torch.ones_like(pictures[:batch, 0])
        size = torch.stack((ones[:, 0].sum(dim=1), ones[:, :, 0].sum(dim=1)), dim=1)
        return {"score_map": scores, "descriptor_map": descriptors, "image_size": size}


NEVER = -110.0
"""A logarithm of a probability that float32 has no other number for than 0."""


# Composites of torch: for one of them tracing takes everything apart once more.
def softmax(x: Tensor, dim: int) -> Tensor:
    """Of one axis."""
    made: Tensor = torch.ops.aten._softmax.default(x, dim, False)
    return made


def log_softmax(x: Tensor, dim: int) -> Tensor:
    """Of one axis."""
    made: Tensor = torch.ops.aten._log_softmax.default(x, dim, False)
    return made


def read_at(maps: Tensor, places: Tensor, size: Tensor, *, scale: int = 8) -> Tensor:
    """Of maps [N, D, h, w] what is at places [N, K, 2] (x, y, in pixels), bilinearly, each of length 1: [N, K, D].

    Args:
        size: of the pictures, W and H, as what goes with places. scale: pixels a place of the map stands for.
    """
    last = torch.floor(size / scale) * scale - (scale / 2 + 0.5)
    grid = (places - (scale / 2 - 0.5)) / last * 2 - 1
    found = F.grid_sample(maps, grid[:, None], mode="bilinear", align_corners=True)[:, :, 0].transpose(1, 2)
    length = torch.sqrt((found * found).sum(dim=2, keepdim=True))
    return found / length.clamp_min(1e-12)


def swapped(x: Tensor) -> Tensor:
    """Rows of pairs [2 * B, ...], each in the place of the other."""
    pairs = x.view(x.shape[0] // 2, 2, *x.shape[1:])
    return torch.cat((pairs[:, 1:], pairs[:, :1]), dim=1).view(x.shape)


class PairAttention(nn.Module):
    """States [N, K, H], of which each looks at those of ``source`` [N, K, H] that ``seen`` [N, K] says, -> [N, K, H].

    Args:
        kv_heads: of keys and values, each shared by a group of query heads.
    """

    def __init__(self, hidden: int, heads: int, *, kv_heads: int | None = None, bias: bool = True) -> None:
        super().__init__()
        size = head_size(hidden, heads)
        self.heads, self.kv_heads, self.scale = heads, kv_heads or heads, size**-0.5
        self.q_proj, self.o_proj = nn.Linear(hidden, hidden, bias=bias), nn.Linear(hidden, hidden, bias=bias)
        self.k_proj, self.v_proj = (nn.Linear(hidden, self.kv_heads * size, bias=bias) for _ in range(2))

    def forward(self, x: Tensor, source: Tensor, seen: Tensor, turn: tuple[Tensor, ...] | None = None) -> Tensor:
        """``turn``: where [N, K] in tables of cosines and sines [P, R / 2] the angles of each place are."""
        query, key, value = self.q_proj(x), self.k_proj(source), self.v_proj(source)
        if turn is not None:
            query = rotary(query, *turn, heads=self.heads, interleaved=True)
            key = rotary(key, *turn, heads=self.kv_heads, interleaved=True)
        heads, groups = self.heads, self.kv_heads
        return self.o_proj(attention(query, key, value, mask=seen, heads=heads, kv_heads=groups, scale=self.scale))


class Descriptors(Component):
    """What a picture is like at its keypoints [B, K, 2], of 0 to 1 of its width and height ->
    {"descriptors": [B, K, D]}."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width

    def ports(self) -> tuple[Port, ...]:
        maps = ("batch", self.width, "lines", "places")
        return (
            Port("descriptor_map", "float32", maps, "features", source="detector"),
            _SIZE,
            Port("keypoints", "float32", ("batch", "keypoints", 2), "boxes"),
        )

    def outs(self) -> tuple[Out, ...]:
        return CATALOGUE["keypoint-detection"].outs

    def largest(self) -> int:
        return 128

    def forward(self, descriptor_map: Tensor, image_size: Tensor, keypoints: Tensor) -> dict[str, Tensor]:
        size = image_size[:, None]
        return {"descriptors": read_at(descriptor_map, keypoints * size, size)}


class Matcher(Component):
    """Keypoints of pairs of pictures [B, 2, K, 2], of 0 to 1 of their width and height, and which of them are there
    [B, 2, K] -> {"assignment": [B, K, K]}, how likely each one of the first picture is that of the second: logarithms,
    which are as exact where that is little as where it is much. What is not there is `NEVER`.

    Args:
        width: of the detector's descriptors. longest: keypoints that parity tries at most.
    """

    width: int

    def ports(self) -> tuple[Port, ...]:
        pair = ("batch", 2)
        maps = (*pair, self.width, "lines", "places")
        return (
            Port("descriptor_map", "float32", maps, "features", source="detector"),
            _SIZE,
            Port("keypoints", "float32", (*pair, "keypoints", 2), "boxes"),
            Port("mask", "int64", (*pair, "keypoints"), "mask"),
        )

    def outs(self) -> tuple[Out, ...]:
        return CATALOGUE["keypoint-matching"].outs

    def largest(self) -> int:
        # Every choice at a threshold is one more chance that float32 and float64 choose differently.
        return 64

    @staticmethod
    def read(descriptor_map: Tensor, image_size: Tensor, keypoints: Tensor, spread: float) -> tuple[Tensor, Tensor]:
        """Descriptors [2 * B, K, D], and places around the middle of a picture [2 * B, K, 2], whose longer side is
        1 / ``spread``."""
        batch, _, count, _ = keypoints.shape
        size = image_size[:, None, None]
        places = keypoints * size
        rows = places.view(2 * batch, count, 2)
        maps = descriptor_map.view(2 * batch, *descriptor_map.shape[2:])
        whole = torch.cat((size, size), dim=1).view(2 * batch, 1, 2)
        around = (places - size / 2) / (torch.amax(size, dim=-1, keepdim=True) * spread)
        return read_at(maps, rows, whole), around.view(2 * batch, count, 2)
