"""MPNet: BERT's layers with one relative bias shared by all, and positions counted from the padding id.
https://arxiv.org/abs/2004.09297"""

from __future__ import annotations

from dataclasses import dataclass

from precast.export.blocks.embeddings import CountedPositions
from precast.export.blocks.relative import two_sided_bias
from precast.export.families import Family, roberta
from precast.export.skeletons.encoder import Encoder
from precast.export.skeletons.post_norm import LM_NAMES, ODD, TINY, EncoderSpec, embeddings, encoder, names, tied
from precast.export.spec import hf
from precast.export.weights import Rename

__all__ = ["FAMILY", "Spec"]

_PADDING = 1  # positions count from here whatever pad_token_id says, as upstream
_BUCKETS, _FURTHEST = 32, 128  # upstream reads relative_attention_num_buckets for the size of its table only


@dataclass(frozen=True, kw_only=True)
class Spec(EncoderSpec):
    """Defaults are mpnet-base's."""

    vocab_size: int = hf(default=30527)
    relative_attention_num_buckets: int = hf(default=_BUCKETS, only=(_BUCKETS,))


def _model(spec: Spec) -> Encoder:
    positions = CountedPositions(spec.max_position_embeddings, spec.hidden_size, _PADDING)
    bias = two_sided_bias(_BUCKETS, _FURTHEST, spec.num_attention_heads)
    return encoder(spec, embeddings(spec, positions), bias=bias)


_LAYER = {f"{part}_proj": f"attention.attn.{part}" for part in "qkvo"} | {"attention_norm": "attention.LayerNorm"}

FAMILY = Family(
    spec=Spec,
    heads=roberta.heads(_model),
    weights=lambda spec: (
        *names("mpnet", **_LAYER),
        Rename("encoder.relative_attention_bias.*", "model.bias.table.*"),
        *LM_NAMES,
        *tied(spec),
    ),
    optional=("pooler",),
    tiny={**TINY, "max_position_embeddings": 162},
    variations=({**ODD, "pad_token_id": 0}, {"hidden_act": "relu", "num_labels": 1}),
)
