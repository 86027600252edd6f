"""mBART: BART with its norms in front, one more behind the last layer, and a language's token where texts begin.
https://arxiv.org/abs/2001.08210; also mBART-50 (https://arxiv.org/abs/2008.00401), BARThez
(https://arxiv.org/abs/2010.12321) and BARTpho (https://arxiv.org/abs/2109.09701)."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from precast.export.families import bart
from precast.export.head_sets.seq2seq import generation_keys
from precast.export.skeletons.encoder_decoder import OFFSET, VARIATION, crossed, decoder, heads_of

__all__ = ["FAMILY"]

FAMILY = replace(
    bart.FAMILY,
    heads=heads_of(pre_norm=True, normed=True),
    crossed=crossed(partial(decoder, pre_norm=True), (OFFSET,)),
    final_norm=True,
    generation=generation_keys(pad=1, bos=0, eos=2, forced_eos=2),
    variations=(VARIATION, {"tie_word_embeddings": False}),
)
