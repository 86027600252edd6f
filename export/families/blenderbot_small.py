"""BlenderBot-small: post-norm layers, and words that are normalised before the decoder adds their positions.
https://arxiv.org/abs/2004.13637"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from precast.export import heads
from precast.export.blocks.cache import Step
from precast.export.blocks.embeddings import LearnedPositions, PlacedPositions, TextEmbeddings
from precast.export.families import Family
from precast.export.families.bart import (
    INERT,
    LOGITS_BIAS,
    TINY,
    VARIATION,
    BartSpec,
    lm_head,
    names,
    norm,
    post_norm_decoder_layer,
    post_norm_encoder_layer,
)
from precast.export.generative import Seq2SeqLM
from precast.export.skeletons.decoder import Decoder
from precast.export.skeletons.encoder import Encoder
from precast.export.spec import hf

__all__ = ["FAMILY"]


@dataclass(frozen=True, kw_only=True)
class Spec(BartSpec):
    """Defaults are BlenderBot-small 90M's."""

    hidden_size: int = hf(("d_model", "hidden_size"), default=512)
    encoder_layers: int = hf(default=8)
    encoder_ffn_dim: int = hf(default=2048)
    decoder_layers: int = hf(default=8)
    decoder_ffn_dim: int = hf(default=2048)
    max_position_embeddings: int = hf(default=512)


class _DecoderEmbeddings(nn.Module):
    """norm(words) + positions, ids [B, S] -> [B, S, E]. The encoder scales its words, and its norm is over the sum."""

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        self.words = nn.Embedding(spec.vocab_size, spec.hidden_size)
        self.norm = norm(spec)
        self.positions = PlacedPositions(spec.max_position_embeddings, spec.hidden_size)

    def forward(self, input_ids: Tensor, step: Step) -> Tensor:
        return self.norm(self.words(input_ids)) + self.positions(input_ids, step)


def _seq2seq_lm(spec: Spec, absent: frozenset[str]) -> nn.Module:
    return Seq2SeqLM(
        Encoder(
            embeddings=TextEmbeddings(
                spec.vocab_size,
                spec.hidden_size,
                scale=spec.scale,
                positions=LearnedPositions(spec.max_position_embeddings, spec.hidden_size),
                token_types=0,
                norm=norm(spec),
            ),
            layers=[post_norm_encoder_layer(spec) for _ in range(spec.encoder_layers)],
        ),
        Decoder(
            embeddings=_DecoderEmbeddings(spec),
            layers=[post_norm_decoder_layer(spec) for _ in range(spec.decoder_layers)],
            norm=None,
        ),
        lm_head(spec, absent),
    )


FAMILY = Family(
    model_type="blenderbot-small",
    spec=Spec,
    heads={heads.SEQ2SEQ_LM: _seq2seq_lm},
    weights=names,
    optional=(LOGITS_BIAS,),
    limits=lambda spec: spec.max_position_embeddings,
    inert=INERT,
    generation={
        "is_encoder_decoder": True,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "decoder_start_token_id": 1,
        "forced_eos_token_id": 2,
    },
    tiny=TINY,
    variations=(VARIATION,),
)
