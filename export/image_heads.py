"""Heads over states of a picture."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from precast.export.signatures import Component
from precast.runtime.catalogue import CATALOGUE
from precast.runtime.ports import Out, Port

__all__ = [
    "FirstState",
    "ImageClassification",
    "ImageFeatures",
    "ImageModel",
    "MaskedImage",
    "MeanState",
    "VideoClassification",
    "both",
    "both_outs",
]


class ImageModel(nn.Module):
    """Pixels [B, C, I, I] -> states [B, S, H], those of tokens that are no patches first.

    Args:
        before: a norm in front of the layers, or None.
        relative: makes of the pixels what all layers add to their scores, [1, N, S, S], or None.
    """

    def __init__(
        self,
        embeddings: nn.Module,
        stack: nn.Module,
        before: nn.Module | None = None,
        relative: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.embeddings, self.before, self.stack, self.relative = embeddings, before, stack, relative

    def ports(self) -> tuple[Port, ...]:
        """What its embeddings take."""
        made: tuple[Port, ...] = self.embeddings.ports()  # type: ignore[operator]
        return made

    def forward(self, pixel_values: Tensor, mask: Tensor | None = None) -> Tensor:
        """Of patches that a mask [B, P] hides, embeddings have a token for each instead."""
        x, bias = self._given(pixel_values, mask)
        return self.stack(x, bias=bias)

    def states(self, pixel_values: Tensor, layers: Sequence[int], *, normed: bool = False) -> list[Tensor]:
        """Those of some layers; see `Stack.states`."""
        x, bias = self._given(pixel_values)
        made: list[Tensor] = self.stack.states(x, bias=bias, layers=layers, normed=normed)  # type: ignore[operator]
        return made

    def _given(self, pixel_values: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """What goes into the layers: states, and what is added to scores."""
        x = self.embeddings(pixel_values) if mask is None else self.embeddings(pixel_values, mask)
        bias = None if self.relative is None else self.relative(pixel_values)
        return x if self.before is None else self.before(x), bias


class FirstState(nn.Module):
    """States [B, S, H] -> the first of them, [B, H]."""

    def forward(self, states: Tensor) -> Tensor:
        return states[:, 0]


class MeanState(nn.Module):
    """States [B, S, H] -> their mean from the one numbered ``start`` on, [B, H]."""

    def __init__(self, start: int = 0) -> None:
        super().__init__()
        self.start = start

    def forward(self, states: Tensor) -> Tensor:
        return states[:, self.start :].mean(dim=1)


def both_outs(logits: Out) -> tuple[Out, ...]:
    """What a head of two classifiers says of its outputs, given what one of one says."""
    return logits, logits._replace(name="cls_logits"), logits._replace(name="distillation_logits")


def both(first: Tensor, second: Tensor) -> dict[str, Tensor]:
    """{"logits": the mean of the other two, "cls_logits", "distillation_logits": of the classifier that learned from
    labels and of the one that learned from a teacher}, each [B, L]. https://arxiv.org/abs/2012.12877"""
    return {"logits": (first + second) / 2, "cls_logits": first, "distillation_logits": second}


class ImageClassification(Component):
    """{"logits": [B, L]} of the first token, or of what ``pooler`` makes of all states."""

    task = "image-classification"

    def __init__(self, model: ImageModel, classifier: nn.Module, pooler: nn.Module | None = None) -> None:
        super().__init__()
        self.model, self.classifier = model, classifier
        self.pooler = FirstState() if pooler is None else pooler

    def ports(self) -> tuple[Port, ...]:
        return self.model.ports()

    def outs(self) -> tuple[Out, ...]:
        return CATALOGUE[self.task].outs

    def forward(self, pixel_values: Tensor) -> dict[str, Tensor]:
        return {"logits": self.classifier(self.pooler(self.model(pixel_values)))}


class VideoClassification(ImageClassification):
    """The same of the frames of a video, [B, F, C, H, W]."""

    task = "video-classification"


class MaskedImage(Component):
    """Pixels and which patches are hidden, [B, P] -> {"reconstruction": [B, C, I, I]}, as its decoder draws each of the
    last states: ``stride`` pixels a side. https://arxiv.org/abs/2111.09886

    Args:
        width: channels of the states. skip: how many of them are no patches. patches: how many may be hidden.
    """

    task = "masked-image-modeling"

    def __init__(
        self, model: ImageModel, width: int, *, stride: int, channels: int, patches: int, skip: int = 0
    ) -> None:
        super().__init__()
        self.model, self.stride, self.patches, self.skip = model, stride, patches, skip
        self.decoder = nn.Conv2d(width, stride**2 * channels, 1)

    def ports(self) -> tuple[Port, ...]:
        shape = ("batch", self.patches)
        return (*self.model.ports(), Port("bool_masked_pos", "int64", shape, "labels", default=0, below=2))

    def outs(self) -> tuple[Out, ...]:
        return CATALOGUE[self.task].outs

    def forward(self, pixel_values: Tensor, bool_masked_pos: Tensor) -> dict[str, Tensor]:
        states = self.model(pixel_values, bool_masked_pos)[:, self.skip :].transpose(1, 2)
        side = int(states.shape[2] ** 0.5)
        drawn = self.decoder(states.view(states.shape[0], states.shape[1], side, side))
        return {"reconstruction": F.pixel_shuffle(drawn, self.stride)}


class ImageFeatures(Component):
    """{"last_hidden_state": [B, S, H], "pooler_output": [B, H]}; the latter where the model has a pooler of its
    states."""

    task = "feature-extraction"

    def __init__(self, model: ImageModel, pooler: nn.Module | None) -> None:
        super().__init__()
        self.model, self.pooler = model, pooler

    def ports(self) -> tuple[Port, ...]:
        return self.model.ports()

    def outs(self) -> tuple[Out, ...]:
        return CATALOGUE[self.task].outs[: 1 if self.pooler is None else 2]

    def forward(self, pixel_values: Tensor) -> dict[str, Tensor]:
        states = self.model(pixel_values)
        outputs = {"last_hidden_state": states}
        if self.pooler is not None:
            outputs["pooler_output"] = self.pooler(states)
        return outputs
