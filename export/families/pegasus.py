"""PEGASUS: a pre-norm encoder-decoder for summaries, with sinusoidal positions. https://arxiv.org/abs/1912.08777"""

from __future__ import annotations

from dataclasses import replace

from precast.export.families import bart
from precast.export.head_sets.seq2seq import generation_keys
from precast.export.skeletons.encoder_decoder import TABLES, TINY, VARIATION, heads_of, names

__all__ = ["FAMILY"]

FAMILY = replace(
    bart.FAMILY,
    crossed=None,
    heads=heads_of(pre_norm=True, normed=False),
    weights=names,
    optional=(*bart.FAMILY.optional, *TABLES),
    final_norm=True,
    generation=generation_keys(pad=0, eos=1, decoder_start=0, forced_eos=1),
    tiny={**TINY, "scale_embedding": True, "activation_function": "relu", "pad_token_id": 0, "eos_token_id": 1},
    variations=({**VARIATION, "activation_function": "gelu", "scale_embedding": False},),
)
