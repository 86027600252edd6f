"""BART: a post-norm encoder-decoder with learned positions. https://arxiv.org/abs/1910.13461"""

from __future__ import annotations

from precast.export.families import Family
from precast.export.head_sets.seq2seq import generation_keys
from precast.export.skeletons.encoder_decoder import (
    LOGITS_BIAS,
    OFFSET,
    TINY,
    VARIATION,
    EncoderDecoderSpec,
    crossed,
    decoder,
    heads_of,
    names,
)

__all__ = ["FAMILY"]

FAMILY = Family(
    spec=EncoderDecoderSpec,
    heads=heads_of(pre_norm=False, normed=True),
    weights=lambda spec: (*names(spec), OFFSET),
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
