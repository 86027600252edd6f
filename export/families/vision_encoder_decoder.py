"""An encoder of pictures with a decoder behind it that writes what it shows: TrOCR (https://arxiv.org/abs/2109.10282),
Donut (https://arxiv.org/abs/2111.15664), captions by a ViT and GPT-2; any family of pictures, any decoder."""

from __future__ import annotations

from typing import Any

from precast.export.families import bert, deit, donut_swin, gpt2, vit
from precast.export.heads import IMAGE_TEXT
from precast.export.skeletons.composed import composed_family
from precast.export.skeletons.encoder_decoder import TINY

__all__ = ["FAMILY"]

_CROSSED: dict[str, Any] = {"is_decoder": True, "add_cross_attention": True}
_VIT = {**vit.FAMILY.tiny, "model_type": "vit", "num_hidden_layers": 1, "image_size": 12}
_BART = {**TINY, **_CROSSED, "decoder_layers": 1}

FAMILY = composed_family(
    IMAGE_TEXT,
    model_type="vision-encoder-decoder",
    tiny={
        "pad_token_id": 1,
        "encoder": {**_VIT, "hidden_size": 24},  # other channels than the decoder's
        "decoder": {**bert.FAMILY.tiny, **_CROSSED, "model_type": "bert"},
    },
    variations=(
        {
            "encoder": {**donut_swin.FAMILY.tiny, "model_type": "donut-swin", "depths": [1, 1]},
            "decoder": {**_BART, "model_type": "mbart", "tie_word_embeddings": False, "scale_embedding": True},
        },
        {
            "encoder": {**deit.FAMILY.tiny, **_VIT, "model_type": "deit"},
            "decoder": {**gpt2.FAMILY.tiny, **_CROSSED, "model_type": "gpt2", "num_hidden_layers": 1},
        },
        {
            "encoder": {**_VIT, "hidden_size": 24},
            "decoder": {**_BART, "model_type": "trocr", "cross_attention_hidden_size": 24},
        },
        {
            "encoder": _VIT,
            "decoder": {**_BART, "model_type": "trocr", "layernorm_embedding": False, "scale_embedding": True}
            | {"use_learned_position_embeddings": False, "activation_function": "relu", "tie_word_embeddings": False},
        },
    ),
)
