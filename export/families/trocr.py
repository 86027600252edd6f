"""TrOCR's decoder, which reads lines of text behind a ViT: BART's, with sinusoidal positions or without a norm of its
embeddings in some. https://arxiv.org/abs/2109.10282"""

from __future__ import annotations

from dataclasses import dataclass

from precast.export.blocks.sines import PlacedFromPadding, inclusive_sine_table
from precast.export.families import Family
from precast.export.skeletons import encoder_decoder
from precast.export.skeletons.decoder import Decoder
from precast.export.skeletons.encoder_decoder import EncoderDecoderSpec, crossed
from precast.export.spec import hf
from precast.export.weights import Ignore, Narrow, Rule

__all__ = ["FAMILY"]

_TABLE = "model.embeddings.positions.table"


@dataclass(frozen=True, kw_only=True)
class Spec(EncoderDecoderSpec):
    """Defaults are TrOCR-base's; there is no encoder in it."""

    encoder_attention_heads: int = hf(default=1)
    max_position_embeddings: int = hf(default=512)
    use_learned_position_embeddings: bool = hf(default=True)
    layernorm_embedding: bool = hf(default=True)
    pad_token_id: int | None = hf(default=1)


def _decoder(spec: Spec, source: int) -> Decoder:
    positions = None
    if not spec.use_learned_position_embeddings:
        assert spec.pad_token_id is not None
        first = spec.pad_token_id + 1
        counted = spec.max_position_embeddings + first, spec.hidden_size, spec.pad_token_id
        positions = PlacedFromPadding(*counted, inclusive_sine_table(*counted))
    return encoder_decoder.decoder(spec, normed=spec.layernorm_embedding, positions=positions, source=source)


# Two rows that nothing reads in front of learned positions; of others a buffer that keeps their type.
_POSITIONS: tuple[Rule, ...] = (Ignore(f"{_TABLE}._float_tensor"), Narrow(f"{_TABLE}.weight", 2))

FAMILY = Family(
    spec=Spec,
    heads={},
    weights=lambda spec: (),
    crossed=crossed(_decoder, _POSITIONS, head="output_projection"),
    inert=frozenset("activation_dropout decoder_layerdrop init_std num_attention_heads num_hidden_layers".split()),
    tiny={},
)
