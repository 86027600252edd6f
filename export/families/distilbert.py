"""DistilBERT: BERT's layers without token types and pooler. https://arxiv.org/abs/1910.01108"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from precast.export.blocks.activations import Activation, activation
from precast.export.families import Family
from precast.export.head_sets.encoders import encoder_heads, projected
from precast.export.skeletons.post_norm import EncoderSpec, body, lm_names, names, tied, transform
from precast.export.spec import hf
from precast.export.weights import Rename

__all__ = ["FAMILY", "Spec"]


@dataclass(frozen=True, kw_only=True)
class Spec(EncoderSpec):
    """Keys of DistilBERT, some under names of their own; upstream takes either."""

    vocab_size: int = hf(default=30522)
    pad_token_id: int | None = hf(default=0)
    hidden_size: int = hf(("dim", "hidden_size"), default=768)
    num_hidden_layers: int = hf(("n_layers", "num_hidden_layers"), default=6)
    num_attention_heads: int = hf(("n_heads", "num_attention_heads"), default=12)
    intermediate_size: int = hf("hidden_dim", default=3072)
    hidden_act: Activation = hf("activation", default=activation("gelu"), read=activation)
    layer_norm_eps: float = hf(default=1e-12, only=(1e-12,))  # whatever config.json says, upstream


_TEXT = projected(torch.relu)
_LAYER = {
    "q_proj": "attention.q_lin", "k_proj": "attention.k_lin", "v_proj": "attention.v_lin",
    "o_proj": "attention.out_lin", "attention_norm": "sa_layer_norm",
    "up_proj": "ffn.lin1", "down_proj": "ffn.lin2", "mlp_norm": "output_layer_norm",
}  # fmt: skip

FAMILY = Family(
    spec=Spec,
    heads=encoder_heads(body, transform=transform, pooler=None, text=_TEXT, choice=_TEXT),
    weights=lambda spec: (
        *names("distilbert", at="transformer.layer.{}.", **_LAYER),
        *lm_names("vocab_transform", "vocab_layer_norm", "vocab_projector"),
        Rename("pre_classifier.*", "classifier.dense.*"),
        *tied(spec),
    ),
    inert=frozenset({"sinusoidal_pos_embds"}),  # how the positions were initialised; checkpoints have them
    tiny={"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 48, "max_position_embeddings": 160, "vocab_size": 99},
    variations=(
        # Odd sizes: 3 heads of 7 channels, one layer, the other GELU, untied decoder, 5 labels.
        {"dim": 21, "n_heads": 3, "hidden_dim": 37, "n_layers": 1, "activation": "gelu_new", "vocab_size": 131}
        | {"tie_word_embeddings": False, "num_labels": 5},
        {"activation": "relu", "sinusoidal_pos_embds": True, "num_labels": 1},
    ),
)
