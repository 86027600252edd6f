"""Heads of encoders that read a text and see a picture: of all their states, of the first, of those of words."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from precast.export import heads
from precast.export.signatures import Component
from precast.runtime.catalogue import CATALOGUE
from precast.runtime.ports import Out, Port

__all__ = ["OfFirst", "OfStates", "OfWords", "Seen"]


class _Head(nn.Module):
    """Makes outputs of states [B, S + ..., H] whose first S are those of words, and of the words' mask [B, S]."""

    def __init__(self, head: heads.Head) -> None:
        super().__init__()
        self.task = head.task

    def outs(self) -> tuple[Out, ...]:
        """What its row of the catalogue says."""
        return CATALOGUE[self.task].outs

    def forward(self, states: Tensor, mask: Tensor) -> dict[str, Tensor]:
        raise NotImplementedError


class OfStates(_Head):
    """{"last_hidden_state", "pooler_output"}; the latter where there is a pooler."""

    def __init__(self, pooler: nn.Module | None) -> None:
        super().__init__(heads.BASE)
        self.pooler = pooler

    def outs(self) -> tuple[Out, ...]:
        states, pooled = super().outs()
        states = states._replace(shape=("batch", "states", "size"))
        return (states,) if self.pooler is None else (states, pooled)

    def forward(self, states: Tensor, mask: Tensor) -> dict[str, Tensor]:
        found = {"last_hidden_state": states}
        return found if self.pooler is None else {**found, "pooler_output": self.pooler(states, mask)}


class OfFirst(_Head):
    """{"logits": [B, L]} of what the pooler reads."""

    def __init__(self, pooler: nn.Module, classifier: nn.Module, head: heads.Head) -> None:
        super().__init__(head)
        self.pooler, self.classifier = pooler, classifier

    def forward(self, states: Tensor, mask: Tensor) -> dict[str, Tensor]:
        return {"logits": self.classifier(self.pooler(states, mask))}


class OfWords(_Head):
    """{"logits": [B, S, L]} of each word."""

    def __init__(self, classifier: nn.Module, head: heads.Head) -> None:
        super().__init__(head)
        self.classifier = classifier

    def forward(self, states: Tensor, mask: Tensor) -> dict[str, Tensor]:
        words = states[:, : mask.shape[1]].clone(memory_format=torch.contiguous_format)  # which asks for no two rows
        return {"logits": self.classifier(words)}


class Seen(Component):
    """A body over ids, mask, token types [B, S], pixels [B, C, H, W] and their mask, and a head."""

    def __init__(self, model: nn.Module, head: _Head) -> None:
        super().__init__()
        self.model, self.head = model, head

    def ports(self) -> tuple[Port, ...]:
        """What its body takes."""
        made: tuple[Port, ...] = self.model.ports()  # type: ignore[operator]
        return made

    def outs(self) -> tuple[Out, ...]:
        return self.head.outs()

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        token_type_ids: Tensor | None = None,
        pixel_values: Tensor | None = None,
        pixel_mask: Tensor | None = None,
    ) -> dict[str, Tensor]:
        states = self.model(input_ids, attention_mask, token_type_ids, pixel_values, pixel_mask)
        return self.head(states, attention_mask)
