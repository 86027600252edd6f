"""Feed-forward blocks."""

from __future__ import annotations

from torch import Tensor, nn

from precast.export.blocks.activations import GATES, Activation
from precast.export.operators import gated_activation

__all__ = ["MLP", "GatedMLP"]


class MLP(nn.Module):
    """down(act(up(x))), [..., H] -> [..., H]."""

    def __init__(self, hidden: int, intermediate: int, act: Activation, bias: bool = True) -> None:
        super().__init__()
        self.act = act
        self.up_proj = nn.Linear(hidden, intermediate, bias=bias)
        self.down_proj = nn.Linear(intermediate, hidden, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(self.act(self.up_proj(x)))


class GatedMLP(nn.Module):
    """down(act(gate(x)) * up(x)), [..., H] -> [..., H]. https://arxiv.org/abs/2002.05202

    Args:
        size: of what comes out; None: H.
    """

    def __init__(
        self, hidden: int, intermediate: int, act: Activation, bias: bool = True, size: int | None = None
    ) -> None:
        super().__init__()
        self.act = act
        self.gate_proj = nn.Linear(hidden, intermediate, bias=bias)
        self.up_proj = nn.Linear(hidden, intermediate, bias=bias)
        self.down_proj = nn.Linear(intermediate, size or hidden, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        gate, up = self.gate_proj(x), self.up_proj(x)
        named = GATES.get(self.act)
        return self.down_proj(self.act(gate) * up if named is None else gated_activation(gate, up, named))
