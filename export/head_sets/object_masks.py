"""Masks of a detector's objects: where each looks in the last map, drawn finer with the maps before it.
https://arxiv.org/abs/2005.12872"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from precast.export.blocks.activations import Activation
from precast.export.blocks.convolution import GroupNorm
from precast.export.blocks.places import nearest
from precast.export.head_sets.boxes import ObjectDetection
from precast.export.skeletons.detector import Detector
from precast.export.weights import Rename, Rule, Split
from precast.runtime.catalogue import CATALOGUE
from precast.runtime.ports import Dim, Out

__all__ = ["Attended", "MaskHead", "ObjectSegmentation", "mask_names"]

_HIDDEN = -3e38  # a score that leaves nothing


class Attended(nn.Module):
    """How much each object [B, Q, H] looks at each place [B, S, H] that is shown [B, S], [B, Q, N, S]: of all heads
    together 1."""

    def __init__(self, hidden: int, heads: int) -> None:
        super().__init__()
        self.heads, self.scale = heads, (hidden // heads) ** -0.5
        self.q_proj, self.k_proj = (nn.Linear(hidden, hidden) for _ in range(2))

    def forward(self, objects: Tensor, places: Tensor, shown: Tensor) -> Tensor:
        batch, count, width = objects.shape
        size = width // self.heads
        query = (self.q_proj(objects) * self.scale).view(batch, count, self.heads, size).transpose(1, 2)
        key = self.k_proj(places).view(batch, places.shape[1], self.heads, size).permute(0, 2, 3, 1)
        scores = torch.where(shown[:, None, None] != 0, query @ key, _HIDDEN).transpose(1, 2)
        flat = scores.reshape(batch, count, self.heads * places.shape[1])
        return torch.softmax(flat, dim=-1).view(batch, count, self.heads, places.shape[1])


class _Step(nn.Module):
    """act(norm(convolution(x))), [B, C, H, W] -> [B, D, H, W].

    Args:
        more: channels beside x's, whose share of the convolution is added to that of x.
    """

    def __init__(self, channels: int, out: int, act: Activation, more: int = 0) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, out, 3, padding=1)
        self.more = nn.Conv2d(more, out, 3, padding=1, bias=False) if more else None
        self.norm = GroupNorm(out, min(8, out), act=act)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x))


class _Finer(nn.Module):
    """A map of each object [B, Q, C, H, W] at the size of one of the picture, [B, D, R, S], with that in it."""

    def __init__(self, channels: int, size: int, out: int, act: Activation) -> None:
        super().__init__()
        self.fpn_adapter, self.refine = nn.Conv2d(channels, size, 1), _Step(size, out, act)

    def forward(self, x: Tensor, finer: Tensor) -> Tensor:
        beside = self.fpn_adapter(finer)
        return _each(self.refine, nearest(x, beside.shape[2], beside.shape[3], 3) + beside[:, None])


class MaskHead(nn.Module):
    """A map [B, H, R, C], how much each object looks at its places [B, Q, N, R, C], and maps of the picture, the
    smallest first -> a mask of each object, as large as the last of these, [B, Q, R', C'].

    Args:
        channels: of those maps.
    """

    def __init__(self, channels: Sequence[int], hidden: int, heads: int, act: Activation) -> None:
        super().__init__()
        sizes = [max(1, hidden >> number) for number in range(1, len(channels) + 2)]
        self.conv1 = _Step(hidden, hidden + heads, act, more=heads)
        self.conv2 = _Step(hidden + heads, sizes[0], act)
        self.fpn_stages = nn.ModuleList(
            _Finer(width, size, out, act) for width, size, out in zip(channels, sizes, sizes[1:], strict=False)
        )
        self.output_conv = nn.Conv2d(sizes[len(channels)], 1, 3, padding=1)

    def forward(self, features: Tensor, looks: Tensor, maps: Sequence[Tensor]) -> Tensor:
        # What all objects have in common is computed once.
        assert self.conv1.more is not None
        x = self.conv1.conv(features)[:, None] + _each(self.conv1.more, looks)
        x = _each(self.conv2, _each(self.conv1.norm, x))
        for stage, finer in zip(self.fpn_stages, maps, strict=True):
            x = stage(x, finer)
        return _each(self.output_conv, x)[:, :, 0]


def _each(layer: nn.Module, x: Tensor) -> Tensor:
    """A layer over pictures, over those of each object, [B, Q, C, H, W] -> [B, Q, D, H', W']."""
    batch, count, *shape = x.shape
    made = layer(x.reshape(batch * count, *shape))
    return made.view(batch, count, *made.shape[1:])


class ObjectSegmentation(ObjectDetection):
    """{"logits": [B, Q, L], "pred_boxes": [B, Q, 4], "pred_masks": [B, Q, R, C]}: and of each object where it is.

    Args:
        least: a picture's side, in pixels.
    """

    model: Detector

    def __init__(
        self,
        model: Detector,
        classifier: nn.Module,
        boxes: nn.Module,
        attended: Attended,
        mask_head: MaskHead,
        least: int,
    ) -> None:
        super().__init__(model, classifier, boxes)
        self.bbox_attention, self.mask_head, self.least = attended, mask_head, least

    def outs(self) -> tuple[Out, ...]:
        _, masks = CATALOGUE["universal-segmentation"].outs
        return *super().outs(), masks._replace(name="pred_masks")

    def bounds(self) -> dict[str, Dim]:
        return dict.fromkeys(("height", "width"), Dim(least=self.least))

    def forward(self, pixel_values: Tensor, pixel_mask: Tensor | None = None) -> dict[str, Tensor]:
        assert pixel_mask is not None
        maps = self.model.backbone(pixel_values)
        found, states, grid, shown = self.model.looked(maps, pixel_mask)
        looks = self.bbox_attention(found, states, shown)
        looks = looks.view(*looks.shape[:3], *grid.shape[2:])
        masks = self.mask_head(grid, looks, maps[len(self.mask_head.fpn_stages) - 1 :: -1])
        return {**self.answers(found), "pred_masks": masks}


def mask_names(hidden: int, heads: int) -> tuple[Rule, ...]:
    """Names of masks, as transformers 5 and 4 write them."""
    stages = [f"fpn_stages.{number}" for number in range(3)]
    steps = ("conv1", "conv2", *(f"{stage}.refine" for stage in stages))
    shared = "mask_head.conv1.conv.weight", "mask_head.conv1.more.weight"
    return (
        *(Rename(f"mask_head.lay{number}.*", f"mask_head.{step}.conv.*") for number, step in enumerate(steps, 1)),
        *(Rename(f"mask_head.gn{number}.*", f"mask_head.{step}.norm.*") for number, step in enumerate(steps, 1)),
        *(
            Rename(f"mask_head.adapter{number}.*", f"mask_head.{stage}.fpn_adapter.*")
            for number, stage in enumerate(stages, 1)
        ),
        Rename("mask_head.out_lay.*", "mask_head.output_conv.*"),
        *(Rename(f"bbox_attention.{part}_linear.*", f"bbox_attention.{part}_proj.*") for part in "qk"),
        Split(shared[0], shared, axis=1, shares=(hidden, heads)),
    )
