"""M2M-100: a pre-norm encoder-decoder for translation between many languages, with sinusoidal positions counted from
the padding id. https://arxiv.org/abs/2010.11125; also NLLB's dense models (https://arxiv.org/abs/2207.04672)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from precast.export.blocks.activations import Activation, activation
from precast.export.blocks.embeddings import CountedPositions
from precast.export.blocks.sines import PlacedFromPadding, inclusive_sine_table
from precast.export.families import bart
from precast.export.head_sets.seq2seq import generation_keys, seq2seq
from precast.export.skeletons import encoder_decoder
from precast.export.skeletons.decoder import Decoder
from precast.export.skeletons.encoder import PreNormEncoder
from precast.export.skeletons.encoder_decoder import TABLES, TINY, VARIATION, EncoderDecoderSpec, names
from precast.export.spec import hf
from precast.export.weights import Ignore, Rule

__all__ = ["FAMILY", "M2M100Spec", "decoder", "encoder"]

_MORE = 2  # rows of the table beyond max_position_embeddings


def _padding(value: Any) -> Any:
    if not isinstance(value, int) or not 0 <= value <= _MORE - 1:
        raise ValueError("positions are counted from the padding token, whose id is 0 or 1 (M2M-100's own is 1)")
    return value


@dataclass(frozen=True, kw_only=True)
class M2M100Spec(EncoderDecoderSpec):
    """Defaults are upstream's."""

    vocab_size: int = hf(default=128112)
    activation_function: Activation = hf(default=activation("relu"), read=activation)
    scale_embedding: bool = hf(default=True)
    pad_token_id: int | None = hf(default=1, read=_padding)

    @property
    def counted(self) -> tuple[int, int, int]:
        """Of the table of positions: rows, channels, and the padding's row."""
        assert self.pad_token_id is not None
        return self.max_position_embeddings + _MORE, self.hidden_size, self.pad_token_id


class _Encoder(PreNormEncoder):
    """Counts tokens that the mask shows and that are not the padding token, on whichever side padding stands."""

    def __init__(self, padding_id: int, **parts: Any) -> None:
        super().__init__(**parts)
        self.padding_id = padding_id

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None) -> Tensor:
        shown = torch.where(attention_mask != 0, input_ids, self.padding_id)
        return super().forward(shown, attention_mask, token_type_ids)


def encoder(spec: M2M100Spec, absent: frozenset[str] = frozenset()) -> nn.Module:
    """As BART's, with norms in front."""
    positions = CountedPositions(*spec.counted, inclusive_sine_table(*spec.counted))
    arranged = partial(_Encoder, positions.padding_id)
    return encoder_decoder.encoder(spec, pre_norm=True, normed=False, positions=positions, skeleton=arranged)


def decoder(spec: M2M100Spec, absent: frozenset[str] = frozenset()) -> Decoder:
    """As BART's, with norms in front."""
    positions = PlacedFromPadding(*spec.counted, inclusive_sine_table(*spec.counted))
    return encoder_decoder.decoder(spec, pre_norm=True, normed=False, positions=positions)


def _weights(spec: M2M100Spec) -> tuple[Rule, ...]:
    # Tables of old checkpoints; upstream computes them anew as well.
    stored = (f"{table}.{name}" for table in TABLES for name in ("weight*", "_float_tensor"))
    return (*names(spec), *map(Ignore, stored))


FAMILY = replace(
    bart.FAMILY,
    crossed=None,
    spec=M2M100Spec,
    heads=seq2seq(encoder=encoder, decoder=decoder),
    weights=_weights,
    optional=(),
    final_norm=True,
    generation=generation_keys(pad=1, bos=0, eos=2, decoder_start=2),
    tiny={**TINY, "activation_function": "relu", "scale_embedding": True},
    variations=({**VARIATION, "activation_function": "gelu", "scale_embedding": False, "pad_token_id": 0},),
)
