"""GPT: a decoder with learned positions and a norm behind each part.
https://cdn.openai.com/research-covers/language-unsupervised/language_understanding_paper.pdf"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar

from torch import nn

from precast.export.blocks.activations import Activation, activation
from precast.export.families import gpt2
from precast.export.head_sets.decoders import GPT_KEYS, ODD, QKV, causal_heads, layer, layer_norm, mlp, names, placed
from precast.export.skeletons.decoder import PostNormDecoderLayer
from precast.export.spec import hf
from precast.export.weights import Ignore, Rename, Rule, Split
from precast.runtime.errors import closest

__all__ = ["FAMILY", "OpenAIGPTSpec"]

# What the model's own code calls them: its "gelu" is the tanh approximation.
_NAMES = {"relu": "relu", "silu": "silu", "swish": "silu", "gelu": "gelu_new"}


def _named(name: str) -> Activation:
    if name not in _NAMES:
        raise ValueError(f"unknown activation. {closest(str(name), _NAMES)} Known: {', '.join(_NAMES)}")
    return activation(_NAMES[name])


@dataclass(frozen=True, kw_only=True)
class OpenAIGPTSpec(gpt2.GPTSpec):
    """Upstream's defaults are GPT's."""

    vocab_size: int = hf(default=40478)
    max_position_embeddings: int = hf(("n_positions", "max_position_embeddings"), default=512)
    hidden_act: Activation = hf("afn", default=_named("gelu"), read=_named)
    intermediate_size: ClassVar[None] = None


def _layers(spec: OpenAIGPTSpec) -> list[nn.Module]:
    made = partial(layer, spec, norm=layer_norm, mlp=mlp, kind=PostNormDecoderLayer, bias=True)
    return [made() for _ in range(spec.num_hidden_layers)]


def _weights(spec: OpenAIGPTSpec) -> tuple[Rule, ...]:
    first = (*gpt2.UPRIGHT, Split("h.{}.attn.c_attn.*", QKV))
    names_ = names(embeddings="tokens_embed", positions="positions_embed")
    # The positions 0, 1, 2 ..., saved with the weights.
    return (Rename("transformer.*", "*"), Ignore("position_ids"), *gpt2.weights(spec, *first, *names_))


FAMILY = replace(
    gpt2.FAMILY,
    crossed=None,
    model_type="openai-gpt",
    spec=OpenAIGPTSpec,
    heads=causal_heads(_layers, embeddings=placed, norm=lambda spec: None),
    weights=_weights,
    final_norm=False,
    inert=GPT_KEYS,
    variations=(
        {**ODD, "num_hidden_layers": 3, "afn": "swish", "layer_norm_epsilon": 1e-3},
        {"afn": "relu", "num_hidden_layers": 1},
    ),
)
