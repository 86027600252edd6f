"""Attention with separate query, key, value and output projections."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor, nn

from precast.export.operators import attention

__all__ = ["Positions", "SelfAttention"]


class Positions(Protocol):
    """Position information put into queries and keys (rotary); a module."""

    def __call__(self, states: Tensor, heads: int) -> Tensor: ...


class SelfAttention(nn.Module):
    """Multi-head self-attention, [B, S, H] -> [B, S, H]. https://arxiv.org/abs/1706.03762

    Args:
        positions: applied to queries and keys after projection, or None.
        window: positions seen before and after each one, -1 for all.
        scale: factor of the scores; None: 1 / sqrt(head_dim).
    """

    def __init__(
        self,
        hidden: int,
        *,
        heads: int,
        head_dim: int | None = None,
        bias: bool = True,
        out_bias: bool | None = None,
        positions: nn.Module | None = None,
        window: tuple[int, int] = (-1, -1),
        scale: float | None = None,
    ) -> None:
        super().__init__()
        size = head_dim or hidden // heads
        self.heads = heads
        self.scale = size**-0.5 if scale is None else scale
        self.window = window
        self.positions = positions
        self.q_proj = nn.Linear(hidden, heads * size, bias=bias)
        self.k_proj = nn.Linear(hidden, heads * size, bias=bias)
        self.v_proj = nn.Linear(hidden, heads * size, bias=bias)
        self.o_proj = nn.Linear(heads * size, hidden, bias=bias if out_bias is None else out_bias)

    def forward(self, x: Tensor, mask: Tensor | None, bias: Tensor | None = None) -> Tensor:
        """x [B, S, H], mask [B, S] of visible keys, bias [B or 1, N or 1, S, S] added to the scaled scores."""
        query, key, value = self.q_proj(x), self.k_proj(x), self.v_proj(x)
        if self.positions is not None:
            query, key = self.positions(query, self.heads), self.positions(key, self.heads)
        context = attention(
            query, key, value, mask=mask, bias=bias, heads=self.heads, scale=self.scale, window=self.window
        )
        return self.o_proj(context)
