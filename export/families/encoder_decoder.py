"""A text encoder with a decoder behind it, each of a family and a checkpoint of its own: BERT2BERT and its like.
https://arxiv.org/abs/1907.12461"""

from __future__ import annotations

from typing import Any

from precast.export.families import bert, gpt2, roberta
from precast.export.heads import SEQ2SEQ_LM
from precast.export.skeletons.composed import composed_family

__all__ = ["FAMILY"]

_CROSSED: dict[str, Any] = {"is_decoder": True, "add_cross_attention": True}
_BERT = {**bert.FAMILY.tiny, "model_type": "bert"}

FAMILY = composed_family(
    SEQ2SEQ_LM,
    model_type="encoder-decoder",
    tiny={"encoder": _BERT, "decoder": {**_BERT, **_CROSSED}},
    variations=(
        {
            "encoder": {**roberta.FAMILY.tiny, "model_type": "roberta", "num_hidden_layers": 1, "hidden_size": 24},
            "decoder": {**gpt2.FAMILY.tiny, **_CROSSED, "model_type": "gpt2", "num_hidden_layers": 1},
        },
    ),
)
