"""CLIP's tower of texts: pre-norm layers that see what stands before, read at the end of the text.
https://arxiv.org/abs/2103.00020"""

from __future__ import annotations

from dataclasses import dataclass

from precast.export import heads
from precast.export.blocks.activations import Activation, activation
from precast.export.blocks.embeddings import LearnedPositions, TextEmbeddings
from precast.export.families import Family, clip_vision_model
from precast.export.skeletons.encoder import PreNormEncoder
from precast.export.skeletons.stack import stack
from precast.export.skeletons.two_towers import EndOfText, TextFeatures
from precast.export.spec import Spec as Base
from precast.export.spec import hf
from precast.export.weights import Ignore, Rename, Rule

__all__ = ["FAMILY", "ODD", "TINY", "Spec", "body", "names", "pooler"]


@dataclass(frozen=True, kw_only=True)
class Spec(Base):
    """Defaults are ViT-B/32's."""

    vocab_size: int = hf(default=49408)
    eos_token_id: int = hf(default=49407)
    hidden_size: int = hf(default=512)
    num_hidden_layers: int = hf(default=12)
    num_attention_heads: int = hf(default=8)
    intermediate_size: int = hf(default=2048)
    hidden_act: Activation = hf(default=activation("quick_gelu"), read=activation)
    layer_norm_eps: float = hf(default=1e-5)
    max_position_embeddings: int = hf(default=77)


def body(spec: Spec, *, causal: bool = True) -> PreNormEncoder:
    """Layers over words and positions; ``causal``: what follows is not seen."""
    size = spec.hidden_size
    positions = LearnedPositions(spec.max_position_embeddings, size)
    words = TextEmbeddings(spec.vocab_size, size, positions=positions, token_types=0, norm=None)
    made = stack(spec, causal=causal)
    assert made.norm is not None
    return PreNormEncoder(embeddings=words, layers=made.layers, norm=made.norm)


def pooler(spec: Spec) -> EndOfText:
    """What makes one vector of a text's states."""
    return EndOfText(spec.eos_token_id)


def names() -> tuple[Rule, ...]:
    """Names behind a composite's prefix of the tower."""
    return (
        Ignore("embeddings.position_ids"),
        clip_vision_model.layer_names("encoder.layers", "model.layers"),
        Rename("embeddings.token_embedding.*", "model.embeddings.words.*"),
        Rename("embeddings.position_embedding.*", "model.embeddings.positions.table.*"),
        Rename("final_layer_norm.*", "model.norm.*"),
    )


_SIZES = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
TINY = {key: clip_vision_model.TINY[key] for key in _SIZES}
TINY |= {"vocab_size": 99, "max_position_embeddings": 60, "eos_token_id": 98}
ODD = {key: clip_vision_model.ODD[key] for key in _SIZES}
ODD |= {"vocab_size": 131, "max_position_embeddings": 33, "eos_token_id": 2}

FAMILY = Family(
    spec=Spec,
    heads={heads.BASE: lambda spec, absent: TextFeatures(body(spec), pooler(spec))},
    weights=lambda spec: (Rename("text_model.*", "*"), *names()),  # as checkpoints before transformers 5 have them
    inert=clip_vision_model.INERT,
    tiny=TINY,
    variations=({**ODD, "hidden_act": "gelu_new"},),
)
