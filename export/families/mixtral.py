"""Mixtral: Mistral whose MLPs are mixtures of experts, two of eight for each token.
https://arxiv.org/abs/2401.04088"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from precast.export import heads
from precast.export.blocks.activations import Activation, activation
from precast.export.blocks.layer_types import check_window
from precast.export.families import Family
from precast.export.families.llama import LLAMA_NAMES, LlamaSpec, causal_lm, layer
from precast.export.operators import mixture_of_experts
from precast.export.skeletons.decoder import DecoderLayer
from precast.export.spec import hf
from precast.export.weights import Alternate, Merge, Rename, Rule, Stack, Tie
from precast.runtime.errors import ConfigError

__all__ = ["FAMILY", "MixtralSpec"]


@dataclass(frozen=True, kw_only=True)
class MixtralSpec(LlamaSpec):
    """Upstream's defaults are Mixtral 8x7B's."""

    intermediate_size: int = hf(default=14336)
    num_key_value_heads: int | None = hf(default=8)
    # The mixture's operator has this activation alone, and so has every checkpoint.
    hidden_act: Activation = hf(default=activation("silu"), read=activation)
    max_position_embeddings: int = hf(default=131072)
    rms_norm_eps: float = hf(default=1e-5)
    rope_theta: float | None = hf(default=1e6)
    attention_bias: bool = hf(default=False, only=(False,))
    mlp_bias: bool = hf(default=False, only=(False,))
    sliding_window: int | None = hf(default=None)
    num_local_experts: int = hf(("num_local_experts", "num_experts"), default=8)
    num_experts_per_tok: int = hf(default=2)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_window(self.sliding_window)
        if self.hidden_act is not activation("silu"):
            raise ConfigError("'hidden_act' of a mixture of experts is 'silu' here, as in every released checkpoint")
        if not 1 <= self.num_experts_per_tok <= self.num_local_experts:
            raise ConfigError(
                f"'num_experts_per_tok' {self.num_experts_per_tok} must be between 1 and 'num_local_experts' "
                f"{self.num_local_experts}"
            )


class _Mixture(nn.Module):
    """Tokens [B, S, H] through the experts a router gives them to."""

    def __init__(self, spec: MixtralSpec) -> None:
        super().__init__()
        experts, inner = spec.num_local_experts, spec.intermediate_size
        self.top_k = spec.num_experts_per_tok
        self.router = nn.Linear(spec.hidden_size, experts, bias=False)
        self.gate_up = nn.Parameter(torch.empty(experts, 2 * inner, spec.hidden_size))
        self.down = nn.Parameter(torch.empty(experts, spec.hidden_size, inner))

    def forward(self, x: Tensor) -> Tensor:
        return mixture_of_experts(x, self.router(x), self.gate_up, self.down, top_k=self.top_k)


def _causal_lm(spec: MixtralSpec, absent: frozenset[str]) -> nn.Module:
    positions = spec.rope.module()

    def sparse() -> DecoderLayer:
        made = layer(spec, positions, window=spec.sliding_window)
        made.mlp = _Mixture(spec)
        return made

    return causal_lm(spec, [sparse() for _ in range(spec.num_hidden_layers)])


def _weights(spec: MixtralSpec) -> tuple[Rule, ...]:
    tie = (Tie("lm_head.weight", "model.embeddings.words.weight"),) if spec.tie_word_embeddings else ()
    mlp = "model.layers.{}.mlp."
    return (
        *LLAMA_NAMES,
        # Transformers 4 and the released files keep experts apart; 5 packs them.
        Rename("model.layers.{}.block_sparse_moe.*", mlp + "*"),
        Stack(mlp + "experts.{}.w1.weight", mlp + "gate"),
        Stack(mlp + "experts.{}.w3.weight", mlp + "up"),
        Stack(mlp + "experts.{}.w2.weight", mlp + "down"),
        Merge((mlp + "gate", mlp + "up"), mlp + "gate_up", axis=1),
        Rename(mlp + "experts.gate_up_proj", mlp + "gate_up"),
        Rename(mlp + "experts.down_proj", mlp + "down"),
        Alternate(mlp + "gate_up", axis=1),
        Rename(mlp + "gate.weight", mlp + "router.weight"),
        *tie,
    )


FAMILY = Family(
    spec=MixtralSpec,
    heads={heads.CAUSAL_LM: _causal_lm},
    weights=_weights,
    limits=lambda spec: spec.max_position_embeddings,
    final_norm=True,
    inert=frozenset({"output_router_logits", "router_aux_loss_coef", "router_jitter_noise"}),
    tiny={
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 24,
        "max_position_embeddings": 160,
        "vocab_size": 99,
        "pad_token_id": 0,
        "num_local_experts": 4,
    },
    variations=(
        # An odd number of experts, three of them for each token; a window.
        {
            "hidden_size": 36,
            "num_hidden_layers": 1,
            "num_attention_heads": 3,
            "num_key_value_heads": 3,
            "intermediate_size": 20,
            "num_local_experts": 5,
            "num_experts_per_tok": 3,
            "sliding_window": 9,
            "tie_word_embeddings": True,
        },
    ),
)
