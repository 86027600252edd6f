"""M2M-100: a pre-norm encoder-decoder for translation between many languages, with sinusoidal positions counted from
the padding id. https://arxiv.org/abs/2010.11125; also NLLB's dense models (https://arxiv.org/abs/2207.04672)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from precast.export import heads
from precast.export.blocks.activations import Activation, activation
from precast.export.blocks.cache import Step
from precast.export.blocks.embeddings import CountedPositions, SinusoidTable, TextEmbeddings
from precast.export.families import Family
from precast.export.families.bart import (
    INERT,
    PREFIX,
    TINY,
    VARIATION,
    BartSpec,
    names,
    norm,
    pre_norm_decoder_layer,
    pre_norm_encoder_layer,
)
from precast.export.generative import Seq2SeqLM
from precast.export.skeletons.decoder import Decoder, TokenEmbeddings
from precast.export.skeletons.encoder import PreNormEncoder
from precast.export.spec import hf
from precast.export.weights import Ignore, Rule

__all__ = ["FAMILY"]

_MORE = 2  # rows of the table beyond max_position_embeddings


def _padding(value: Any) -> Any:
    if not isinstance(value, int) or not 0 <= value <= _MORE - 1:
        raise ValueError("positions are counted from the padding token, whose id is 0 or 1 (M2M-100's own is 1)")
    return value


@dataclass(frozen=True, kw_only=True)
class Spec(BartSpec):
    """Defaults are upstream's."""

    vocab_size: int = hf(default=128112)
    activation_function: Activation = hf(default=activation("relu"), read=activation)
    scale_embedding: bool = hf(default=True)
    pad_token_id: int | None = hf(default=1, read=_padding)

    @property
    def padding_id(self) -> int:
        """The id that positions are counted from."""
        assert self.pad_token_id is not None
        return self.pad_token_id


def _table(spec: Spec) -> SinusoidTable:
    """Frequencies from 1 down to 1 / 10000 inclusive; the padding's own row is zero.

    Frequencies and angles are rounded to float32, as models were trained with them.
    """
    rows, half = spec.max_position_embeddings + _MORE, spec.hidden_size // 2

    def angles() -> Tensor:
        frequencies = torch.exp(torch.arange(half, dtype=torch.float32) * -(math.log(10000) / (half - 1)))
        return torch.arange(rows, dtype=torch.float32)[:, None] * frequencies[None]

    return SinusoidTable(rows, spec.hidden_size, angles, zero=spec.padding_id)


class _Encoder(PreNormEncoder):
    """Counts tokens that the mask shows and that are not the padding token, on whichever side padding stands."""

    def __init__(self, padding_id: int, **parts: Any) -> None:
        super().__init__(**parts)
        self.padding_id = padding_id

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None) -> Tensor:
        shown = torch.where(attention_mask != 0, input_ids, self.padding_id)
        return super().forward(shown, attention_mask, token_type_ids)


class _Positions(nn.Module):
    """Positions of a call of the decoder. Returns [B, S, E]; a padding token it made itself has none, and counts."""

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        self.padding_id = spec.padding_id
        self.table = _table(spec)

    def forward(self, input_ids: Tensor, step: Step) -> Tensor:
        assert step.positions is not None
        first = self.padding_id + 1
        return self.table(torch.where(input_ids != self.padding_id, step.positions + first, self.padding_id))


def _seq2seq_lm(spec: Spec, absent: frozenset[str]) -> nn.Module:
    return Seq2SeqLM(
        _Encoder(
            spec.padding_id,
            embeddings=TextEmbeddings(
                spec.vocab_size,
                spec.hidden_size,
                scale=spec.scale,
                positions=CountedPositions(
                    spec.max_position_embeddings + _MORE, spec.hidden_size, spec.padding_id, _table(spec)
                ),
                token_types=0,
                norm=None,
            ),
            layers=[pre_norm_encoder_layer(spec) for _ in range(spec.encoder_layers)],
            norm=norm(spec),
        ),
        Decoder(
            embeddings=TokenEmbeddings(spec.vocab_size, spec.hidden_size, scale=spec.scale, positions=_Positions(spec)),
            layers=[pre_norm_decoder_layer(spec) for _ in range(spec.decoder_layers)],
            norm=norm(spec),
        ),
        nn.Linear(spec.hidden_size, spec.vocab_size, bias=False),
    )


def _weights(spec: Spec) -> tuple[Rule, ...]:
    tables = (
        f"model.{part}.embed_positions.{name}"
        for part in ("encoder", "decoder")
        for name in ("weight*", "_float_tensor")
    )
    return (
        PREFIX,
        *map(Ignore, tables),
        *names(spec),
    )  # tables of old checkpoints; upstream computes them anew as well


FAMILY = Family(
    spec=Spec,
    heads={heads.SEQ2SEQ_LM: _seq2seq_lm},
    weights=_weights,
    limits=lambda spec: spec.max_position_embeddings + _MORE - spec.padding_id - 1,
    final_norm=True,
    inert=INERT,
    generation={
        "is_encoder_decoder": True,
        "pad_token_id": 1,
        "bos_token_id": 0,
        "eos_token_id": 2,
        "decoder_start_token_id": 2,
    },
    tiny={**TINY, "activation_function": "relu", "scale_embedding": True},
    variations=({**VARIATION, "activation_function": "gelu", "scale_embedding": False, "pad_token_id": 0},),
)
