"""Marian: a post-norm encoder-decoder for translation, with sinusoidal positions and a bias on its logits.
https://arxiv.org/abs/1804.00344; OPUS-MT's models (https://aclanthology.org/2020.eamt-1.61) are these."""

from __future__ import annotations

from dataclasses import dataclass, replace

from precast.export.families import bart
from precast.export.head_sets.seq2seq import generation_keys
from precast.export.skeletons.encoder_decoder import TABLES, TINY, VARIATION, EncoderDecoderSpec, heads_of, names
from precast.export.spec import hf
from precast.runtime.errors import ConfigError

__all__ = ["FAMILY"]


@dataclass(frozen=True, kw_only=True)
class Spec(EncoderDecoderSpec):
    """Defaults are upstream's."""

    vocab_size: int = hf(default=58101)
    decoder_vocab_size: int | None = hf(default=None)
    shared: bool = hf("share_encoder_decoder_embeddings", default=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.shared and self.target_vocab_size != self.vocab_size:
            raise ConfigError(
                f"encoder and decoder share their embeddings, and 'decoder_vocab_size' {self.decoder_vocab_size} is "
                f"not 'vocab_size' {self.vocab_size}. Set 'share_encoder_decoder_embeddings' to false where each has "
                "its own"
            )

    @property
    def target_vocab_size(self) -> int:
        return self.decoder_vocab_size or self.vocab_size


_APART = {"share_encoder_decoder_embeddings": False}

FAMILY = replace(
    bart.FAMILY,
    crossed=None,
    spec=Spec,
    heads=heads_of(pre_norm=False, normed=False),
    weights=names,
    optional=(*bart.FAMILY.optional, *TABLES),  # checkpoints of old hold the tables
    generation=generation_keys(pad=58100, eos=0, decoder_start=58100, forced_eos=0),
    tiny={**TINY, "activation_function": "swish", "scale_embedding": True, "decoder_start_token_id": 98},
    variations=(
        {**VARIATION, **_APART, "scale_embedding": False, "decoder_vocab_size": 103},
        {**_APART, "tie_word_embeddings": False},
    ),
)
