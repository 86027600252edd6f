"""An encoder of speech with a decoder behind it that writes what is said, or what that means in another language.
https://arxiv.org/abs/2104.06678"""

from __future__ import annotations

from typing import Any

from precast.export.families import bert, hubert, wav2vec2
from precast.export.heads import SPEECH_SEQ2SEQ
from precast.export.skeletons.composed import composed_family
from precast.export.skeletons.encoder_decoder import TINY

__all__ = ["FAMILY"]

_CROSSED: dict[str, Any] = {"is_decoder": True, "add_cross_attention": True}

FAMILY = composed_family(
    SPEECH_SEQ2SEQ,
    model_type="speech-encoder-decoder",
    tiny={
        "encoder": {**wav2vec2.FAMILY.tiny, "model_type": "wav2vec2", "num_hidden_layers": 1},
        "decoder": {**TINY, **_CROSSED, "model_type": "mbart", "d_model": 24},
    },
    variations=(
        {
            "encoder": {**wav2vec2.FAMILY.tiny, "model_type": "wav2vec2", "num_hidden_layers": 1, "add_adapter": True}
            | {"num_adapter_layers": 1, "output_hidden_size": 24},
            "decoder": {**TINY, **_CROSSED, "model_type": "bart", "d_model": 24, "decoder_layers": 1},
        },
        {
            "encoder": {**hubert.FAMILY.tiny, "model_type": "hubert", "num_hidden_layers": 1},
            "decoder": {**bert.FAMILY.tiny, **_CROSSED, "model_type": "bert", "num_hidden_layers": 1},
        },
    ),
)
