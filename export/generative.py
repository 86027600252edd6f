"""Language models over a cache, as graphs: one decoder, with an encoder beside it or without.

A part of a model is what becomes a component of an artifact: a module whose inputs and outputs are a signature's.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from precast.export.blocks.attention import CrossAttention
from precast.export.blocks.cache import Step

__all__ = ["DECODER", "ENCODER", "CausalLM", "EncoderPart", "Seq2SeqLM", "parts_of"]

DECODER, ENCODER = "decoder", "encoder"


class CausalLM(nn.Module):
    """{"logits": [B, K, V]} of the new tokens at ``logit_positions`` [B, K], and the successors of all states.

    Args:
        model: ids [B, S] at a `Step` -> hidden states [B, S, H].
        positions: the model uses absolute positions.
        transform: between hidden states and ``lm_head``, or None.
        softcap: c * tanh(logits / c), or None. scale: factor of the hidden states before the head.
    """

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
        self.model = model
        self.transform = transform
        self.lm_head = lm_head
        self.positions = positions
        self.softcap = softcap
        self.scale = scale

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
        hidden = self.model(input_ids, step)
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


class EncoderPart(nn.Module):
    """{"last_hidden_state": [B, T, H], "cross_key.0": [B, T, N*D], ...}: an encoder, and what its decoder reads."""

    def __init__(self, encoder: nn.Module, cross: list[CrossAttention]) -> None:
        super().__init__()
        self.encoder = encoder
        self.cross = nn.ModuleList(cross)

    def attentions(self) -> list[CrossAttention]:
        """The decoder's attentions over this encoder, in order."""
        return [attention for attention in self.cross if isinstance(attention, CrossAttention)]

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> dict[str, Tensor]:
        states = self.encoder(input_ids, attention_mask)
        outputs = {"last_hidden_state": states}
        for index, attention in enumerate(self.attentions()):
            outputs[f"cross_key.{index}"], outputs[f"cross_value.{index}"] = attention.keys_and_values(states)
        return outputs


class Seq2SeqLM(CausalLM):
    """A `CausalLM` whose layers attend to an encoder: ids [B, T], mask [B, T] -> hidden states [B, T, H]."""

    def __init__(
        self,
        encoder: nn.Module,
        model: nn.Module,
        lm_head: nn.Linear,
        *,
        positions: bool = True,
        transform: nn.Module | None = None,
        scale: float | None = None,
    ) -> None:
        super().__init__(model, lm_head, positions=positions, transform=transform, scale=scale)
        self.encoder = encoder
        for index, attention in enumerate(self.cross()):
            attention.index = index

    def cross(self) -> list[CrossAttention]:
        """The decoder's attentions over the encoder, in order."""
        return [module for module in self.model.modules() if isinstance(module, CrossAttention)]

    def parts(self) -> dict[str, nn.Module]:
        return {ENCODER: EncoderPart(self.encoder, self.cross()), DECODER: self}


def parts_of(model: nn.Module) -> dict[str, nn.Module]:
    """The components a model becomes, in the order they run; an encoder with a head is one."""
    return model.parts() if isinstance(model, CausalLM) else {ENCODER: model}
