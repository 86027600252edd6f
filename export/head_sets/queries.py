"""Heads of models that ask for one segment a query: for each of them labels, and where in the picture it is.
https://arxiv.org/abs/2107.06278"""

from __future__ import annotations

from torch import Tensor, nn

from precast.export.signatures import Component
from precast.runtime.catalogue import CATALOGUE
from precast.runtime.ports import Out, Port

__all__ = ["MaskedSegmentation", "QuerySegmentation", "masks_of"]


def masks_of(embeddings: Tensor, places: Tensor) -> Tensor:
    """How much each place [B, M, R, C] is like what each segment looks for [B, Q, M]: [B, Q, R, C]."""
    batch, width, rows, columns = places.shape
    made = embeddings @ places.view(batch, width, rows * columns)
    return made.view(batch, embeddings.shape[1], rows, columns)


class MaskedSegmentation(Component):
    """{"class_queries_logits": [B, Q, L + 1], "masks_queries_logits": [B, Q, R, C]}; the last label stands for none.

    Args:
        model: pixels -> the states of the segments [B, Q, H], and their masks [B, Q, R, C].
        classifier: of a segment's state, its labels.
    """

    task = "universal-segmentation"

    def __init__(self, model: nn.Module, classifier: nn.Module) -> None:
        super().__init__()
        self.model, self.classifier = model, classifier

    def ports(self) -> tuple[Port, ...]:
        """What its body takes."""
        made: tuple[Port, ...] = self.model.ports()  # type: ignore[operator]
        return made

    def outs(self) -> tuple[Out, ...]:
        return CATALOGUE[self.task].outs

    def masked(self, pixel_values: Tensor) -> tuple[Tensor, Tensor]:
        """States and masks."""
        states, masks = self.model(pixel_values)
        return states, masks

    def forward(self, pixel_values: Tensor) -> dict[str, Tensor]:
        states, masks = self.masked(pixel_values)
        return {"class_queries_logits": self.classifier(states), "masks_queries_logits": masks}


class QuerySegmentation(MaskedSegmentation):
    """The same where masks are made of the last states.

    Args:
        model: pixels -> what each place is like [B, M, R, C], and the states of the segments [B, Q, H].
        embedder: of a segment's state, what its places are like.
    """

    def __init__(self, model: nn.Module, classifier: nn.Module, embedder: nn.Module) -> None:
        super().__init__(model, classifier)
        self.embedder = embedder

    def masked(self, pixel_values: Tensor) -> tuple[Tensor, Tensor]:
        places, states = self.model(pixel_values)
        return states, masks_of(self.embedder(states), places)
