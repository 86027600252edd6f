"""LayoutLM: BERT over words that say where on their page they stand. https://arxiv.org/abs/1912.13318"""

from __future__ import annotations

from dataclasses import dataclass, replace

from precast.export import heads
from precast.export.blocks.boxes import SummedBoxes
from precast.export.families import bert
from precast.export.head_sets.encoders import encoder_heads
from precast.export.skeletons.encoder import Encoder
from precast.export.skeletons.post_norm import ODD, PREDICTION_NAMES, TINY, embeddings, encoder, names, tied, transform
from precast.export.spec import hf
from precast.export.weights import Rename, Rule, Within

__all__ = ["BOX_NAMES", "FAMILY", "HEADS", "Spec"]

HEADS = (
    *(heads.BASE, heads.MASKED_LM, heads.SEQUENCE_CLASSIFICATION),
    *(heads.TOKEN_CLASSIFICATION, heads.QUESTION_ANSWERING),
)


@dataclass(frozen=True, kw_only=True)
class Spec(bert.Spec):
    """BERT's keys, and how many rows the tables of boxes have."""

    max_2d_position_embeddings: int = hf(default=1024)


def _model(spec: Spec) -> Encoder:
    boxes = SummedBoxes(spec.max_2d_position_embeddings, spec.hidden_size)
    return encoder(spec, embeddings(spec, boxes=boxes))


# Names of the tables, beside those of words.
BOX_NAMES: tuple[Rule, ...] = tuple(
    Rename(f"{old}_position_embeddings.*", f"boxes.{new}.*")
    for old, new in (("x", "x"), ("y", "y"), ("h", "height"), ("w", "width"))
)

FAMILY = replace(
    bert.FAMILY,
    spec=Spec,
    heads=encoder_heads(_model, transform=transform, only=HEADS),
    weights=lambda spec: (
        *names("layoutlm"),
        Within("model.embeddings.", BOX_NAMES),
        *PREDICTION_NAMES,
        *tied(spec),
    ),
    tiny=TINY,
    # A page of few parts; boxes of 3 * 7 channels.
    variations=({**ODD, "type_vocab_size": 3, "max_2d_position_embeddings": 77},),
)
