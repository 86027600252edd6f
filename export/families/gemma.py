"""Gemma: Llama with heads larger than their share, a tanh-approximated gate, scaled embeddings and norms stored as an
offset from one. https://arxiv.org/abs/2403.08295"""

from __future__ import annotations

from dataclasses import dataclass, replace

from precast.export.blocks.activations import Activation, activation
from precast.export.families import llama
from precast.export.head_sets.decoders import causal_heads, scaled_words
from precast.export.spec import hf
from precast.export.weights import Fold

__all__ = ["FAMILY", "GemmaSpec"]

_TANH = activation("gelu_pytorch_tanh")


@dataclass(frozen=True, kw_only=True)
class GemmaSpec(llama.RelativeSpec):
    """Upstream's defaults are Gemma 7B's."""

    vocab_size: int = hf(default=256000)
    hidden_size: int = hf(default=3072)
    intermediate_size: int = hf(default=24576)
    num_hidden_layers: int = hf(default=28)
    num_attention_heads: int = hf(default=16)
    num_key_value_heads: int | None = hf(default=16)
    head_dim: int | None = hf(default=256)
    # All were trained with the approximation: the first configs say "gelu"; transformers 4 read the second key first.
    hidden_act: Activation = hf(default=_TANH, read=lambda name: _TANH if name == "gelu" else activation(name))
    hidden_activation: str | None = hf(default=None, only=(None, "gelu_pytorch_tanh"))
    max_position_embeddings: int = hf(default=8192)
    tie_word_embeddings: bool = hf(default=True)
    attention_bias: bool = hf(default=False)
    use_bidirectional_attention: bool | None = hf(default=None, only=(None, False))


FAMILY = replace(
    llama.FAMILY,
    spec=GemmaSpec,
    heads=causal_heads(llama.layers, embeddings=scaled_words, classes=True),
    weights=lambda spec: llama.weights(spec, Fold("*norm.weight", add=1.0)),
    tiny={**llama.FAMILY.tiny, "num_key_value_heads": 1, "head_dim": 16},
    variations=(
        {"hidden_size": 18, "num_hidden_layers": 1, "num_attention_heads": 3, "num_key_value_heads": 3, "head_dim": 8}
        | {"attention_bias": True, "tie_word_embeddings": False, "hidden_act": "gelu"}
        | {"rope_parameters": {"rope_type": "linear", "rope_theta": 500.0, "factor": 2.0}},
    ),
)
