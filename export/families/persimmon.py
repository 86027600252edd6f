"""Persimmon: a decoder with norms of queries and keys, half of whose channels turn. https://www.adept.ai/blog/persimmon-8b"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from torch import nn

from precast.export.blocks.activations import Activation, activation
from precast.export.blocks.norms import LayerNorm
from precast.export.blocks.rope import Rope
from precast.export.families import Family
from precast.export.head_sets.decoders import QKV, TINY, RotarySpec, causal_heads, layer, layer_norm, mlp, names, tied
from precast.export.spec import hf
from precast.export.weights import Ignore, Prefixed, Rename, Rule, Split

__all__ = ["FAMILY", "Spec"]


@dataclass(frozen=True, kw_only=True)
class Spec(RotarySpec):
    """Upstream's defaults are Persimmon 8B's."""

    vocab_size: int = hf(default=262144)
    hidden_size: int = hf(default=4096)
    intermediate_size: int = hf(default=16384)
    num_hidden_layers: int = hf(default=36)
    num_attention_heads: int = hf(default=64)
    hidden_act: Activation = hf(default=activation("relu2"), read=activation)
    max_position_embeddings: int = hf(default=16384)
    layer_norm_eps: float = hf(default=1e-5)
    tie_word_embeddings: bool = hf(default=False)
    qk_layernorm: bool = hf(default=True)
    partial_rotary_factor: float | None = hf(default=0.5)

    @property
    def rope(self) -> Rope:
        """How rotary angles are made."""
        return self._rope(partial=True)


def _layers(spec: Spec) -> list[nn.Module]:
    positions = spec.rope.module()

    def norm() -> LayerNorm | None:
        return LayerNorm(spec.size, spec.layer_norm_eps) if spec.qk_layernorm else None

    made = partial(layer, spec, norm=layer_norm, mlp=mlp, bias=True, positions=positions)
    return [made(query_norm=norm(), key_norm=norm()) for _ in range(spec.num_hidden_layers)]


_NAMES = names(
    "model.layers.{}",
    output="self_attn.dense",
    attention_norm="input_layernorm",
    mlp_norm="post_attention_layernorm",
    up="mlp.dense_h_to_4h",
    down="mlp.dense_4h_to_h",
)


def _weights(spec: Spec) -> tuple[Rule, ...]:
    return (
        Prefixed("model"),
        Ignore("model.layers.{}.self_attn.rotary_emb.inv_freq"),
        Split("model.layers.{}.self_attn.query_key_value.*", QKV, groups=spec.num_attention_heads),
        *(
            Rename(f"model.layers.{{}}.self_attn.{n}_layernorm.*", f"model.layers.{{}}.self_attn.{n}_norm.*")
            for n in "qk"
        ),
        *_NAMES,
        *names(embeddings="model.embed_tokens", norm="model.final_layernorm"),
        *tied(spec),
    )


FAMILY = Family(
    spec=Spec,
    heads=causal_heads(_layers, norm=layer_norm),
    weights=_weights,
    final_norm=True,
    inert=frozenset({"hidden_dropout"}),
    tiny={**TINY, "intermediate_size": 48, "pad_token_id": 0},
    variations=(
        {"hidden_size": 30, "num_attention_heads": 3, "num_hidden_layers": 1, "intermediate_size": 37}
        | {"vocab_size": 131, "qk_layernorm": False, "hidden_act": "gelu", "tie_word_embeddings": True}
        | {"rope_parameters": {"rope_type": "default", "rope_theta": 500.0, "partial_rotary_factor": 0.6}},
    ),
)
