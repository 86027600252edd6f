"""Marian: a post-norm encoder-decoder for translation, with sinusoidal positions and a bias on its logits.
https://arxiv.org/abs/1804.00344; OPUS-MT's models (https://aclanthology.org/2020.eamt-1.61) are these."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from precast.export import heads
from precast.export.blocks.embeddings import LearnedPositions, PlacedPositions, SinusoidTable, TextEmbeddings
from precast.export.families import Family
from precast.export.families.bart import (
    INERT,
    LOGITS_BIAS,
    TINY,
    VARIATION,
    BartSpec,
    lm_head,
    names,
    post_norm_decoder_layer,
    post_norm_encoder_layer,
)
from precast.export.generative import Seq2SeqLM
from precast.export.skeletons.decoder import Decoder, TokenEmbeddings
from precast.export.skeletons.encoder import Encoder
from precast.export.spec import hf
from precast.export.weights import Rule
from precast.runtime.errors import ConfigError

__all__ = ["FAMILY", "POSITIONS", "sinusoids"]

# Checkpoints of old hold the tables, later ones leave them to be computed.
POSITIONS = ("encoder.embeddings.positions.table", "model.embeddings.positions.table")


@dataclass(frozen=True, kw_only=True)
class Spec(BartSpec):
    """Defaults are upstream's."""

    vocab_size: int = hf(default=58101)
    decoder_vocab_size: int | None = hf(default=None)
    share_encoder_decoder_embeddings: bool = hf(default=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.share_encoder_decoder_embeddings and self.target_vocab_size != self.vocab_size:
            raise ConfigError(
                f"encoder and decoder share their embeddings, and 'decoder_vocab_size' {self.decoder_vocab_size} is "
                f"not 'vocab_size' {self.vocab_size}. Set 'share_encoder_decoder_embeddings' to false where each has "
                "its own"
            )

    @property
    def target_vocab_size(self) -> int:
        """Tokens the decoder knows."""
        return self.decoder_vocab_size or self.vocab_size


def sinusoids(rows: int, size: int) -> SinusoidTable:
    """Positions over 10000 ** (2i / size): sines in the first half of the channels, cosines in the second."""

    def angles() -> Tensor:
        half = torch.arange(0, size, 2, dtype=torch.float64)
        return torch.arange(rows, dtype=torch.float64)[:, None] / 10000 ** (half / size)

    return SinusoidTable(rows, size, angles)


def _seq2seq_lm(spec: Spec, absent: frozenset[str]) -> nn.Module:
    rows, size = spec.max_position_embeddings, spec.hidden_size
    ours, theirs = (sinusoids(rows, size) if name in absent else None for name in POSITIONS)
    return Seq2SeqLM(
        Encoder(
            embeddings=TextEmbeddings(
                spec.vocab_size,
                size,
                scale=spec.scale,
                positions=LearnedPositions(rows, size, ours),
                token_types=0,
                norm=None,
            ),
            layers=[post_norm_encoder_layer(spec) for _ in range(spec.encoder_layers)],
        ),
        Decoder(
            embeddings=TokenEmbeddings(
                spec.target_vocab_size, size, scale=spec.scale, positions=PlacedPositions(rows, size, theirs)
            ),
            layers=[post_norm_decoder_layer(spec) for _ in range(spec.decoder_layers)],
            norm=None,
        ),
        lm_head(spec, absent, spec.target_vocab_size),
    )


def _weights(spec: Spec) -> tuple[Rule, ...]:
    return names(spec, shared=spec.share_encoder_decoder_embeddings, vocab=spec.target_vocab_size)


FAMILY = Family(
    spec=Spec,
    heads={heads.SEQ2SEQ_LM: _seq2seq_lm},
    weights=_weights,
    optional=(LOGITS_BIAS, *POSITIONS),
    limits=lambda spec: spec.max_position_embeddings,
    inert=INERT,
    generation={
        "is_encoder_decoder": True,
        "pad_token_id": 58100,
        "eos_token_id": 0,
        "decoder_start_token_id": 58100,
        "forced_eos_token_id": 0,
    },
    tiny={**TINY, "activation_function": "swish", "scale_embedding": True, "decoder_start_token_id": 98},
    variations=(
        {**VARIATION, "scale_embedding": False, "share_encoder_decoder_embeddings": False, "decoder_vocab_size": 103},
        {"share_encoder_decoder_embeddings": False, "tie_word_embeddings": False},
    ),
)
