"""Heads of models that ask for one segment a query: for each of them labels, and where in the picture it is.
https://arxiv.org/abs/2107.06278"""

from __future__ import annotations

from torch import Tensor, nn

from precast.export.signatures import Component
from precast.runtime.catalogue import CATALOGUE
from precast.runtime.ports import Out, Port

__all__ = ["QuerySegmentation", "masks_of"]


def masks_of(embeddings: Tensor, places: Tensor) -> Tensor:
    """How much each place [B, M, R, C] is like what each segment looks for [B, Q, M]: [B, Q, R, C]."""
    batch, width, rows, columns = places.shape
    made = embeddings @ places.view(batch, width, rows * columns)
    return made.view(batch, embeddings.shape[1], rows, columns)


class QuerySegmentation(Component):
    """{"class_queries_logits": [B, Q, L + 1], "masks_queries_logits": [B, Q, R, C]}; the last label stands for none.

    Args:
        model: pixels -> what each place is like [B, M, R, C], and the states of the segments [B, Q, H].
        classifier, embedder: of a segment's state, its labels, and what its places are like.
    """

    task = "universal-segmentation"

    def __init__(self, model: nn.Module, classifier: nn.Module, embedder: nn.Module) -> None:
        super().__init__()
        self.model, self.classifier, self.embedder = model, classifier, embedder

    def ports(self) -> tuple[Port, ...]:
        """What its body takes."""
        made: tuple[Port, ...] = self.model.ports()  # type: ignore[operator]
        return made

    def outs(self) -> tuple[Out, ...]:
        return CATALOGUE[self.task].outs

    def forward(self, pixel_values: Tensor) -> dict[str, Tensor]:
        places, states = self.model(pixel_values)
        masks = masks_of(self.embedder(states), places)
        return {"class_queries_logits": self.classifier(states), "masks_queries_logits": masks}
