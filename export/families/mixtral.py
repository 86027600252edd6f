"""Mixtral: Mistral whose MLPs are mixtures of experts, two of eight for each token.
https://arxiv.org/abs/2401.04088"""

from __future__ import annotations

from dataclasses import dataclass, replace

from precast.export.blocks.experts import check_experts
from precast.export.families import llama, mistral
from precast.export.head_sets.decoders import EXPERTS, causal_heads, experts
from precast.export.spec import hf
from precast.export.weights import Rename, Rule

__all__ = ["FAMILY", "MixtralSpec"]


@dataclass(frozen=True, kw_only=True)
class MixtralSpec(mistral.MistralSpec):
    """Upstream's defaults are Mixtral 8x7B's."""

    rms_norm_eps: float = hf(default=1e-5)
    rope_theta: float | None = hf(default=1e6)
    sliding_window: int | None = hf(default=None)
    num_local_experts: int = hf(("num_local_experts", "num_experts"), default=8)
    num_experts_per_tok: int = hf(default=2)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_experts(self.num_local_experts, self.num_experts_per_tok, self.hidden_act)


def _weights(spec: MixtralSpec) -> tuple[Rule, ...]:
    return llama.weights(spec, Rename("model.layers.{}.block_sparse_moe.*", "model.layers.{}.mlp.*"), *EXPERTS)


FAMILY = replace(
    llama.FAMILY,
    spec=MixtralSpec,
    heads=causal_heads(lambda spec: llama.layers(spec, mlp=experts), classes=True),
    weights=_weights,
    inert=frozenset({"output_router_logits", "router_aux_loss_coef", "router_jitter_noise"}),
    tiny={**llama.FAMILY.tiny, "intermediate_size": 24, "num_local_experts": 4},
    variations=(
        # An odd number of experts, three of them for each token; a window.
        {"hidden_size": 36, "num_hidden_layers": 1, "num_attention_heads": 3, "num_key_value_heads": 3}
        | {"intermediate_size": 20, "num_local_experts": 5, "num_experts_per_tok": 3}
        | {"sliding_window": 9, "tie_word_embeddings": True},
    ),
)
