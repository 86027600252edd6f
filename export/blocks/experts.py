"""Mixtures of experts: MLPs of which a router chooses a few for each token. https://arxiv.org/abs/2101.03961"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from precast.export.blocks.activations import Activation, activation
from precast.export.operators import mixture_of_experts
from precast.runtime.errors import ConfigError

__all__ = ["Experts", "check_experts"]


class Experts(nn.Module):
    """Gated MLPs of one size, ``top_k`` of them for each token, weighted by the softmax over the chosen ones' logits,
    [B, S, H] -> [B, S, H]. https://arxiv.org/abs/2401.04088"""

    def __init__(self, hidden: int, intermediate: int, *, experts: int, top_k: int) -> None:
        super().__init__()
        self.top_k = top_k
        self.router = nn.Linear(hidden, experts, bias=False)
        self.gate_up = nn.Parameter(torch.empty(experts, 2 * intermediate, hidden))
        self.down = nn.Parameter(torch.empty(experts, hidden, intermediate))

    def forward(self, x: Tensor) -> Tensor:
        return mixture_of_experts(x, self.router(x), self.gate_up, self.down, top_k=self.top_k)


def check_experts(experts: int, top_k: int, act: Activation) -> None:
    """Raises ConfigError for another activation than the operator has, which is every checkpoint's, and for a number of
    experts that cannot be chosen."""
    if act is not activation("silu"):
        raise ConfigError("'hidden_act' of a mixture of experts is 'silu' here, as in every released checkpoint")
    if not 1 <= top_k <= experts:
        raise ConfigError(f"'num_experts_per_tok' {top_k} must be between 1 and 'num_local_experts' {experts}")
