"""BlenderBot: a pre-norm encoder-decoder for conversation, with a short encoder, a deep decoder and learned positions.
https://arxiv.org/abs/2004.13637"""

from __future__ import annotations

from dataclasses import dataclass, replace

from precast.export.families import bart
from precast.export.head_sets.seq2seq import generation_keys
from precast.export.skeletons.encoder_decoder import TINY, VARIATION, EncoderDecoderSpec, heads_of, names
from precast.export.spec import hf

__all__ = ["FAMILY"]


@dataclass(frozen=True, kw_only=True)
class Spec(EncoderDecoderSpec):
    """Defaults are BlenderBot 3B's."""

    vocab_size: int = hf(default=8008)
    hidden_size: int = hf(("d_model", "hidden_size"), default=2560)
    encoder_layers: int = hf(default=2)
    encoder_ffn_dim: int = hf(default=10240)
    encoder_attention_heads: int = hf(default=32)
    decoder_layers: int = hf(default=24)
    decoder_ffn_dim: int = hf(default=10240)
    decoder_attention_heads: int = hf(default=32)
    max_position_embeddings: int = hf(default=128)


FAMILY = replace(
    bart.FAMILY,
    crossed=None,
    spec=Spec,
    heads=heads_of(pre_norm=True, normed=False),
    weights=names,
    final_norm=True,
    generation={
        **generation_keys(pad=0, bos=1, eos=2, decoder_start=1, forced_eos=2),
        "encoder_no_repeat_ngram_size": 3,
    },
    tiny={**TINY, "scale_embedding": True},
    variations=({**VARIATION, "activation_function": "gelu", "scale_embedding": False},),
)
