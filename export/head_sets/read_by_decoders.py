"""Labels of whole texts by decoders: what one says at the last token of a text, or, behind an encoder that reads the
text too, where it ends. https://arxiv.org/abs/1910.13461, section 3.1"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from precast.export import heads
from precast.export.blocks.attention import CrossAttention
from precast.export.blocks.cache import Step
from precast.export.blocks.embeddings import mask_port
from precast.export.generative import EncoderPart
from precast.export.head_sets.seq2seq import Part
from precast.export.signatures import Component, dims_of
from precast.runtime.catalogue import CATALOGUE
from precast.runtime.ports import Dim, Out, Port

__all__ = ["ReadOnce", "ReadTwice", "read_once", "read_twice"]


def _step(ids: Tensor, **parts: Any) -> Step:
    """Of whole texts [B, S]."""
    places = torch.arange(ids.shape[1], device=ids.device)[None].expand(ids.shape)
    none = torch.zeros_like(ids[:, 0])
    return Step(none, none, places, past={}, whole=True, **parts)


def _last(marked: Tensor) -> Tensor:
    """The place of the last token [B] that is marked in [B, S]; of a text without any the first."""
    places = torch.arange(1, marked.shape[1] + 1, device=marked.device)
    return (marked.to(torch.int64) * places).argmax(dim=1)


def _at(states: Tensor, places: Tensor) -> Tensor:
    """[B, S, H] -> [B, H]."""
    return states.gather(1, places[:, None, None].expand(-1, 1, states.shape[-1]))[:, 0]


class ReadOnce(Component):
    """{"logits": [B, L]} of the last token of a text that is no padding, by its mask and by its id.

    Args:
        model: ids [B, S] at a `Step` -> states [B, S, H]. score: states -> logits. padding: an id, or None.
    """

    def __init__(self, model: nn.Module, score: nn.Module, padding: int | None) -> None:
        super().__init__()
        self.model, self.score, self.padding = model, score, padding

    def ports(self) -> tuple[Port, ...]:
        """A text."""
        [words] = self.model.ports()  # type: ignore[operator]
        return words, mask_port(words)

    def outs(self) -> tuple[Out, ...]:
        """What its row of the catalogue says."""
        return CATALOGUE["text-classification"].outs

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> dict[str, Tensor]:
        real = attention_mask != 0
        ids = torch.where(real, input_ids, 0)
        marked = real if self.padding is None else torch.logical_and(real, ids != self.padding)
        return {"logits": self.score(_at(self.model(ids, _step(ids, shown=attention_mask)), _last(marked)))}


def read_once(body: Callable[[Any], nn.Module]) -> Mapping[heads.Head, Part]:
    """The head for a decoder's ``body``."""

    def made(spec: Any, absent: frozenset[str]) -> nn.Module:
        return ReadOnce(body(spec), nn.Linear(spec.hidden_size, spec.labels, bias=False), spec.pad_token_id)

    return {heads.SEQUENCE_CLASSIFICATION: made}


class ReadTwice(Component):
    """{"logits": [B, L]} of the last end of a text: the encoder reads it, and the decoder once more, behind its start
    token, seeing what is in front of each token and all of what the encoder made.

    Args:
        start, padding, end: ids of the token that the decoder starts with, of padding, and of a text's end.
    """

    def __init__(
        self, encoder: nn.Module, decoder: nn.Module, head: nn.Module, *, start: int, padding: int, end: int
    ) -> None:
        super().__init__()
        self.encoder, self.decoder, self.classification_head = encoder, decoder, head
        self.start, self.padding, self.end = start, padding, end
        cross = [module for module in decoder.modules() if isinstance(module, CrossAttention)]
        for index, attention in enumerate(cross):
            attention.index = index
        self._read = (EncoderPart(encoder, cross),)  # whose weights are the encoder's and the decoder's

    def ports(self) -> tuple[Port, ...]:
        """A text."""
        made: tuple[Port, ...] = self.encoder.ports()  # type: ignore[operator]
        return made

    def outs(self) -> tuple[Out, ...]:
        """What its row of the catalogue says."""
        return CATALOGUE["text-classification"].outs

    def dims(self) -> Mapping[str, Dim]:
        """How long texts may be for both."""
        return dims_of(self.encoder, self.decoder)

    def ends(self) -> Mapping[str, int]:
        return {"input_ids": self.end}

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> dict[str, Tensor]:
        ids = torch.where(attention_mask != 0, input_ids, self.padding)
        made = self._read[0].outputs(self.encoder(ids, attention_mask))
        made.pop("last_hidden_state")
        begun = torch.cat((torch.full_like(ids[:, :1], self.start), ids), dim=1)[:, : ids.shape[1]]
        states = self.decoder(begun, _step(ids, cross=made, encoder_mask=attention_mask))
        return {"logits": self.classification_head(_at(states, _last(ids == self.end)))}


def read_twice(encoder: Callable[..., nn.Module], decoder: Callable[..., nn.Module]) -> Mapping[heads.Head, Part]:
    """The head for a family's ``encoder`` and ``decoder``, whose spec has ids of its special tokens."""

    def made(spec: Any, absent: frozenset[str]) -> nn.Module:
        head = heads.ClassifierHead(spec.hidden_size, spec.labels, torch.tanh)
        return ReadTwice(
            encoder(spec, absent),
            decoder(spec, absent),
            head,
            start=spec.decoder_start_token_id,
            padding=spec.pad_token_id,
            end=spec.eos_token_id,
        )

    return {heads.SEQUENCE_CLASSIFICATION: made}
