"""Two towers whose projections meet in one space: any body of texts, and any of pictures, beside each other.
https://arxiv.org/abs/2103.00020

Three components: ``text`` and ``vision`` make embeddings, ``similarity`` compares those it is given."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from precast.export import heads
from precast.export.components import Composite
from precast.export.image_heads import FirstState, ImageClassification, ImageModel
from precast.export.signatures import Component
from precast.runtime.catalogue import CATALOGUE
from precast.runtime.ports import Out, Port

__all__ = [
    "Embeds",
    "EndOfText",
    "ImageEmbeds",
    "LastToken",
    "Similarity",
    "TextEmbeds",
    "TextFeatures",
    "classified",
    "composed",
]

_LEGACY_END = 2  # configs that say so mean the largest id of a text


class EndOfText(nn.Module):
    """States [T, S, H], ids [T, S] -> those of the first token that ends the text, [T, H]."""

    def __init__(self, end: int) -> None:
        super().__init__()
        self.end = end

    def forward(self, states: Tensor, ids: Tensor) -> Tensor:
        ends = ids if self.end == _LEGACY_END else (ids == self.end).to(torch.int64)
        end = ends.argmax(dim=-1)[:, None, None].expand(-1, 1, states.shape[-1])
        return states.gather(1, end)[:, 0]

    def ends(self) -> Mapping[str, int]:
        """What rows end with, as `Component.ends` says it."""
        return {} if self.end == _LEGACY_END else {"input_ids": self.end}


def _pooled(pooler: nn.Module, states: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
    """States [T, S, H] -> [T, H], by where the texts end or by their mask."""
    pooled: Tensor = pooler(states, ids if isinstance(pooler, EndOfText) else mask)
    return pooled


def _ends(pooler: nn.Module) -> Mapping[str, int]:
    return pooler.ends() if isinstance(pooler, EndOfText) else {}


class TextFeatures(heads.FeatureExtraction):
    """A tower of texts by itself: its states, and what is read of them at the end."""

    pooler: nn.Module

    def ends(self) -> Mapping[str, int]:
        return _ends(self.pooler)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        token_type_ids: Tensor | None = None,
        bbox: Tensor | None = None,
        pixel_values: Tensor | None = None,
    ) -> dict[str, Tensor]:
        states = self.model(input_ids, attention_mask, token_type_ids)
        return {"last_hidden_state": states, "pooler_output": _pooled(self.pooler, states, input_ids, attention_mask)}


class LastToken(nn.Module):
    """States [T, S, H] -> those of the last token, be it padding, [T, H]."""

    def forward(self, states: Tensor, mask: Tensor) -> Tensor:
        return states[:, -1]


class Embeds(Component):
    """A tower: what its body makes, pooled, projected ("features"), and made 1 long ("embeds").

    Args:
        model: makes states [N, S, H]. pooler: makes [N, H] of them. projection: makes [N, P] of those.
        width: P.
        features: they are an output beside the embeddings.
    """

    name: str
    rows: str

    def __init__(
        self, model: nn.Module, pooler: nn.Module, projection: nn.Module, width: int, *, features: bool = True
    ) -> None:
        super().__init__()
        self.model, self.pooler, self.projection, self.width = model, pooler, projection, width
        self.given = ("embeds", "features") if features else ("embeds",)

    def ports(self) -> tuple[Port, ...]:
        ports: tuple[Port, ...] = self.model.ports()  # type: ignore[operator]
        return tuple(port._replace(shape=(self.rows, *port.shape[1:])) for port in ports)

    def outs(self) -> tuple[Out, ...]:
        return tuple(Out(f"{self.name}_{kind}", (self.rows, self.width), "embedding") for kind in self.given)

    def embedded(self, pooled: Tensor) -> dict[str, Tensor]:
        """[N, H] -> the outputs."""
        features = self.projection(pooled)
        made = {"embeds": features / features.norm(dim=-1, keepdim=True), "features": features}
        return {f"{self.name}_{kind}": made[kind] for kind in self.given}


class TextEmbeds(Embeds):
    """ids, mask, token types [T, S] -> {"text_embeds": [T, P]} of length 1, {"text_features": [T, P]} of any."""

    name, rows = "text", "texts"

    def ends(self) -> Mapping[str, int]:
        return _ends(self.pooler)

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None
    ) -> dict[str, Tensor]:
        states = self.model(input_ids, attention_mask, token_type_ids)
        return self.embedded(_pooled(self.pooler, states, input_ids, attention_mask))


class ImageEmbeds(Embeds):
    """Pixels [I, C, H, W] -> {"image_embeds": [I, P]} of length 1, {"image_features": [I, P]} of any; without a
    ``pooler``, of the first state."""

    name, rows = "image", "images"

    def __init__(self, model: nn.Module, pooler: nn.Module | None, projection: nn.Module, width: int) -> None:
        super().__init__(model, FirstState() if pooler is None else pooler, projection, width)

    def forward(self, pixel_values: Tensor) -> dict[str, Tensor]:
        return self.embedded(self.pooler(self.model(pixel_values)))


class Similarity(Component):
    """[I, P], [T, P] -> {"logits_per_image": [I, T], "logits_per_text": [T, I]}.

    Args:
        shape: of the scale, and of what is added where they are ``shifted``.
        candidates: how the runtime reads texts and scores for labels, where it is not as usual.
    """

    def __init__(
        self,
        width: int,
        *,
        shape: tuple[int, ...] = (),
        shifted: bool = False,
        candidates: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.width, self.candidates = width, candidates
        self.scale = nn.Parameter(torch.empty(shape))
        self.shift = nn.Parameter(torch.empty(shape)) if shifted else None

    def ports(self) -> tuple[Port, ...]:
        return tuple(
            Port(f"{kind}_embeds", "float32", (rows, self.width), "features", source=source)
            for kind, rows, source in (("image", "images", "vision"), ("text", "texts", "text"))
        )

    def outs(self) -> tuple[Out, ...]:
        return CATALOGUE["zero-shot-image-classification"].outs

    def processing(self) -> Mapping[str, Any]:
        return {} if self.candidates is None else {"candidates": dict(self.candidates)}

    def forward(self, image_embeds: Tensor, text_embeds: Tensor) -> dict[str, Tensor]:
        logits = self.scale.exp() * image_embeds @ text_embeds.t()
        if self.shift is not None:
            logits = logits + self.shift
        return {"logits_per_image": logits, "logits_per_text": logits.t()}


def composed(text: TextEmbeds, vision: ImageEmbeds, similarity: Similarity | None = None) -> Composite:
    """The whole model; ``similarity``: in place of the cosine times a scale."""
    compared = Similarity(text.width) if similarity is None else similarity
    return Composite({"text": text, "vision": vision, "similarity": compared})


def classified(model: ImageModel, size: int, labels: int, pooler: nn.Module | None = None) -> Composite:
    """The tower of pictures alone, under a classifier of its states of ``size`` channels."""
    return Composite({"vision": ImageClassification(model, nn.Linear(size, labels), pooler)})
