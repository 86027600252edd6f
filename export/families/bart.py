"""BART: a post-norm encoder-decoder with learned positions. https://arxiv.org/abs/1910.13461"""

from __future__ import annotations

from dataclasses import dataclass

from precast.export.families import Family
from precast.export.head_sets.read_by_decoders import read_twice
from precast.export.head_sets.seq2seq import generation_keys
from precast.export.skeletons.encoder_decoder import (
    LOGITS_BIAS,
    OFFSET,
    TINY,
    VARIATION,
    EncoderDecoderSpec,
    crossed,
    decoder,
    encoder,
    heads_of,
    names,
)
from precast.export.spec import hf

__all__ = ["FAMILY", "Spec"]


@dataclass(frozen=True, kw_only=True)
class Spec(EncoderDecoderSpec):
    """And ids of the tokens that its classifier reads."""

    pad_token_id: int | None = hf(default=1)
    decoder_start_token_id: int = hf(default=2)
    eos_token_id: int = hf(default=2, read=lambda said: said[0] if isinstance(said, list) else said)


FAMILY = Family(
    spec=Spec,
    heads={**heads_of(pre_norm=False, normed=True), **read_twice(encoder, decoder)},
    weights=lambda spec: (*names(spec, beside=("classification_head.*",)), OFFSET),
    optional=(LOGITS_BIAS,),
    crossed=crossed(decoder, (OFFSET,)),
    # Training; keys of a time when one class computed all of BART's relatives, since model_type says now what they
    # said; and one that generation reads.
    inert=frozenset(
        """
        activation_dropout encoder_layerdrop decoder_layerdrop init_std num_hidden_layers normalize_before
        max_target_positions max_source_positions num_attention_heads force_bos_token_to_be_generated
        """.split()
    ),
    generation=generation_keys(pad=1, bos=0, eos=2, decoder_start=2, forced_eos=2),
    tiny=TINY,
    variations=(VARIATION, {"activation_function": "swish", "tie_word_embeddings": False}),
)
