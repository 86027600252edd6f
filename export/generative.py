"""Language models over a cache, as graphs: one decoder, with an encoder beside it or without.

A part of a model is what becomes a component of an artifact: a module whose inputs and outputs are a signature's.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor, nn

from precast.export.blocks.attention import CrossAttention
from precast.export.blocks.cache import State, Step, states_of
from precast.export.signatures import Component, dims_of
from precast.runtime.catalogue import CATALOGUE
from precast.runtime.ports import FREE, Dim, Out, Port

__all__ = ["DECODER", "ENCODER", "CausalLM", "EncoderPart", "Seq2SeqLM"]

DECODER, ENCODER = "decoder", "encoder"


class CausalLM(Component):
    """{"logits": [B, K, V]} of the new tokens at ``logit_positions`` [B, K], and the successors of all states.

    Args:
        model: ids [B, S] at a `Step` -> hidden states [B, S, H].
        positions: the model uses absolute positions.
        transform: between hidden states and ``lm_head``, or None.
        softcap: c * tanh(logits / c), or None. scale: factor of the hidden states before the head.
    """

    _BODY: ClassVar = "model"

    def __init__(
        self,
        model: nn.Module,
        lm_head: nn.Linear,
        *,
        positions: bool = True,
        transform: nn.Module | None = None,
        softcap: float | None = None,
        scale: float | None = None,
    ) -> None:
        super().__init__()
        self.add_module(self._BODY, model)
        self.transform = transform
        self.lm_head = lm_head
        self.positions = positions
        self.softcap = softcap
        self.scale = scale

    @property
    def body(self) -> nn.Module:
        """What makes hidden states of ids."""
        made: nn.Module = getattr(self, self._BODY)
        return made

    def ports(self) -> tuple[Port, ...]:
        """New tokens, how many are held and new, which positions are wanted, and the states."""
        [words] = self.body.ports()  # type: ignore[operator]
        batch = words.shape[:1]
        made = [
            words,
            Port("past_lengths", "int64", batch, "number"),
            Port("lengths", "int64", batch, "number"),
            Port("logit_positions", "int64", (*batch, "kept"), "positions"),
        ]
        if self.positions:
            longest = self.dims().get("sequence", FREE).most
            made.append(Port("position_ids", "int64", words.shape, "positions", below=longest))
        cross = self.cross()
        if cross:
            mask = f"{ENCODER}.attention_mask"
            made.append(Port("encoder_attention_mask", "int64", (*batch, "source"), "mask", source=mask))
        made += [Port(name, "float32", state.shape, "state") for name, state in self.states().items()]
        made += [
            Port(name, "float32", (*batch, "source", attention.heads * attention.size), "features", source=ENCODER)
            for index, attention in enumerate(cross)
            for name in _cross_names(index)
        ]
        return tuple(made)

    def outs(self) -> tuple[Out, ...]:
        """Logits, and the states' successors."""
        states = self.states().items()
        successors = [Out(name.replace("past_", "present_", 1), state.shape, "state") for name, state in states]
        return (*CATALOGUE["text-generation"].outs, *successors)

    def dims(self) -> Mapping[str, Dim]:
        """How large its body's dimensions may be."""
        return dims_of(self.body)

    def states(self) -> Mapping[str, State]:
        """What its layers remember."""
        return states_of(self.body)

    def cross(self) -> list[CrossAttention]:
        """The attentions over an encoder, in order."""
        return [module for module in self.body.modules() if isinstance(module, CrossAttention)]

    def forward(
        self,
        input_ids: Tensor,
        past_lengths: Tensor,
        lengths: Tensor,
        logit_positions: Tensor,
        states: Mapping[str, Tensor],
        position_ids: Tensor | None = None,
        encoder_attention_mask: Tensor | None = None,
    ) -> dict[str, Tensor]:
        step = Step(
            past_lengths,
            lengths,
            position_ids,
            past={name: value for name, value in states.items() if name.startswith("past_")},
            cross={name: value for name, value in states.items() if name.startswith("cross_")},
            encoder_mask=encoder_attention_mask,
        )
        hidden = self.body(input_ids, step)
        kept = hidden.gather(1, logit_positions[..., None].expand(-1, -1, hidden.shape[-1]))
        if self.scale is not None:
            kept = kept * self.scale
        if self.transform is not None:
            kept = self.transform(kept)
        logits = self.lm_head(kept)
        if self.softcap is not None:
            logits = self.softcap * (logits / self.softcap).tanh()
        return {"logits": logits, **step.present}

    def parts(self) -> dict[str, nn.Module]:
        return {DECODER: self}


class EncoderPart(Component):
    """{"last_hidden_state": [B, T, H], "cross_key.0": [B, T, N*D], ...}: an encoder, and what its decoder reads."""

    def __init__(self, encoder: nn.Module, cross: list[CrossAttention]) -> None:
        super().__init__()
        self.encoder = encoder
        self.cross = nn.ModuleList(cross)

    def attentions(self) -> list[CrossAttention]:
        """The decoder's attentions over this encoder, in order."""
        return [attention for attention in self.cross if isinstance(attention, CrossAttention)]

    def ports(self) -> tuple[Port, ...]:
        """What the encoder takes."""
        made: tuple[Port, ...] = self.encoder.ports()  # type: ignore[operator]
        return made

    def outs(self) -> tuple[Out, ...]:
        """Hidden states, and what the decoder's layers read of them."""
        row = ("batch", "sequence")
        read = [
            Out(name, (*row, attention.heads * attention.size), "features")
            for index, attention in enumerate(self.attentions())
            for name in _cross_names(index)
        ]
        return (Out("last_hidden_state", (*row, "size"), "states"), *read)

    def dims(self) -> Mapping[str, Dim]:
        """How large the encoder's dimensions may be."""
        return dims_of(self.encoder)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> dict[str, Tensor]:
        states = self.encoder(input_ids, attention_mask)
        outputs = {"last_hidden_state": states}
        for index, attention in enumerate(self.attentions()):
            outputs |= zip(_cross_names(index), attention.keys_and_values(states), strict=True)
        return outputs


class Seq2SeqLM(CausalLM):
    """A `CausalLM` whose layers attend to an encoder: ids [B, T], mask [B, T] -> hidden states [B, T, H]."""

    _BODY: ClassVar = "decoder"

    def __init__(
        self,
        encoder: nn.Module,
        decoder: nn.Module,
        lm_head: nn.Linear,
        *,
        positions: bool = True,
        transform: nn.Module | None = None,
        scale: float | None = None,
    ) -> None:
        super().__init__(decoder, lm_head, positions=positions, transform=transform, scale=scale)
        self.encoder = encoder
        for index, attention in enumerate(self.cross()):
            attention.index = index

    def parts(self) -> dict[str, nn.Module]:
        return {ENCODER: EncoderPart(self.encoder, self.cross()), DECODER: self}


def _cross_names(index: int) -> tuple[str, str]:
    """The keys and values that a decoder's attention reads of the encoder."""
    return f"cross_key.{index}", f"cross_value.{index}"
