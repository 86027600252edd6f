"""Labels of whole texts by models whose decoder reads them: what an encoder-decoder says where a text ends.
https://arxiv.org/abs/1910.13461, section 3.1"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from precast.export import heads
from precast.export.blocks.attention import CrossAttention
from precast.export.blocks.cache import Step
from precast.export.generative import EncoderPart
from precast.export.head_sets.seq2seq import Part
from precast.export.signatures import Component, dims_of
from precast.runtime.catalogue import CATALOGUE
from precast.runtime.ports import Dim, Out, Port

__all__ = ["ReadTwice", "read_twice"]


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
        places = torch.arange(ids.shape[1], device=ids.device)[None].expand(ids.shape)
        none = torch.zeros_like(ids[:, 0])
        step = Step(none, none, places, past={}, cross=made, encoder_mask=attention_mask, whole=True)
        begun = torch.cat((torch.full_like(ids[:, :1], self.start), ids), dim=1)[:, : ids.shape[1]]
        states = self.decoder(begun, step)
        last = ((ids == self.end).to(torch.int64) * (places + 1)).argmax(dim=1)
        row = last[:, None, None].expand(-1, 1, states.shape[-1])
        return {"logits": self.classification_head(states.gather(1, row)[:, 0])}


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
