"""The heads of backbones of convolutions: their maps of features, and classes of what these are on average."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from precast.export.heads import BASE, IMAGE_CLASSIFICATION, Head
from precast.export.signatures import Component
from precast.export.skeletons.backbone import Backbone
from precast.runtime.catalogue import CATALOGUE
from precast.runtime.ports import Out, Port

__all__ = ["MapClassification", "MapFeatures", "MeanPool", "RowMean", "map_heads"]


class MeanPool(nn.Module):
    """The mean over the picture, [B, C, H, W] -> [B, C, 1, 1], or [B, C]: ``keep`` says whether sides of 1 are left."""

    def __init__(self, keep: bool = True) -> None:
        super().__init__()
        self.keep = keep
        self.outs = ("batch", "size", 1, 1) if keep else ("batch", "size")

    def forward(self, states: Tensor) -> Tensor:
        return states.mean((2, 3), keepdim=self.keep)


class RowMean(nn.Module):
    """The mean of rows, [B, S, C] -> [B, C]."""

    outs = ("batch", "size")

    def forward(self, rows: Tensor) -> Tensor:
        return rows.mean(1)


class _Maps(Component):
    def __init__(self, model: Backbone, pooler: nn.Module | None, rows: bool = False) -> None:
        super().__init__()
        self.model, self.pooler, self.rows = model, pooler, rows

    def ports(self) -> tuple[Port, ...]:
        return self.model.ports()


class MapFeatures(_Maps):
    """{"last_hidden_state": [B, C, H, W], "pooler_output": [B, C, 1, 1] or [B, C]}; the latter where there is a pooler,
    which says its shape as ``outs``. ``rows``: a backbone's last part makes rows of the map, [B, H * W, C]."""

    task = "feature-extraction"

    def outs(self) -> tuple[Out, ...]:
        states, embedding = CATALOGUE[self.task].outs
        maps = states if self.rows else states._replace(shape=("batch", "size", "rows", "columns"), axis=-3)
        if self.pooler is None:
            return (maps,)
        shape: Any = self.pooler.outs
        return (maps, embedding._replace(shape=shape, axis=1 - len(shape)))

    def forward(self, pixel_values: Tensor) -> dict[str, Tensor]:
        states = self.model(pixel_values)
        outputs = {"last_hidden_state": states}
        if self.pooler is not None:
            outputs["pooler_output"] = self.pooler(states)
        return outputs


class MapClassification(_Maps):
    """{"logits": [B, L]} of what the pooler makes of the maps."""

    task = "image-classification"

    def __init__(self, model: Backbone, pooler: nn.Module, classifier: nn.Module) -> None:
        super().__init__(model, pooler)
        self.classifier = classifier

    def outs(self) -> tuple[Out, ...]:
        return CATALOGUE[self.task].outs

    def forward(self, pixel_values: Tensor) -> dict[str, Tensor]:
        assert self.pooler is not None
        return {"logits": self.classifier(self.pooler(self.model(pixel_values)))}


def map_heads(
    body: Callable[[Any], Backbone],
    width: Callable[[Any], int],
    pooler: Callable[[Any], nn.Module] | None = None,
    *,
    bare: bool = False,
    rows: bool = False,
) -> Mapping[Head, Callable[[Any, frozenset[str]], nn.Module]]:
    """The maps themselves and a linear classifier.

    Args:
        width: channels of the last map. pooler: what makes one vector [B, C] of it; None: its mean, whose sides of 1
            the maps' head leaves. bare: the maps' head gives the maps alone. rows: they are rows.
    """

    def base(spec: Any, absent: frozenset[str]) -> nn.Module:
        made = None if bare else MeanPool() if pooler is None else pooler(spec)
        return MapFeatures(body(spec), made, rows)

    def classification(spec: Any, absent: frozenset[str]) -> nn.Module:
        made = MeanPool(keep=False) if pooler is None else pooler(spec)
        return MapClassification(body(spec), made, nn.Linear(width(spec), spec.labels))

    return {BASE: base, IMAGE_CLASSIFICATION: classification}
