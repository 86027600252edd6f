"""BlenderBot-small: post-norm layers, and words that are normalised before the decoder adds their positions.
https://arxiv.org/abs/2004.13637"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

from torch import Tensor

from precast.export.blocks.cache import Step
from precast.export.families import bart
from precast.export.head_sets.seq2seq import generation_keys, seq2seq
from precast.export.skeletons.decoder import TokenEmbeddings
from precast.export.skeletons.encoder_decoder import VARIATION, EncoderDecoderSpec, decoder, encoder, lm_head, names
from precast.export.spec import hf

__all__ = ["FAMILY"]


@dataclass(frozen=True, kw_only=True)
class Spec(EncoderDecoderSpec):
    """Defaults are BlenderBot-small 90M's."""

    hidden_size: int = hf(("d_model", "hidden_size"), default=512)
    encoder_layers: int = hf(default=8)
    encoder_ffn_dim: int = hf(default=2048)
    decoder_layers: int = hf(default=8)
    decoder_ffn_dim: int = hf(default=2048)
    max_position_embeddings: int = hf(default=512)


class _Embeddings(TokenEmbeddings):
    """norm(words) + positions, ids [B, S] -> [B, S, E]. The encoder scales its words, and its norm is over the sum."""

    def forward(self, input_ids: Tensor, step: Step) -> Tensor:
        assert self.norm is not None and self.positions is not None
        return self.norm(self.words(input_ids)) + self.positions(input_ids, step)


FAMILY = replace(
    bart.FAMILY,
    crossed=None,
    model_type="blenderbot-small",
    spec=Spec,
    heads=seq2seq(encoder=encoder, decoder=partial(decoder, embeddings=_Embeddings), lm_head=lm_head),
    weights=names,
    generation=generation_keys(pad=0, bos=1, eos=2, decoder_start=1, forced_eos=2),
    variations=(VARIATION,),
)
