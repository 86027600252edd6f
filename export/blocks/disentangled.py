"""Disentangled attention: scores with terms of their own for content and relative position.
https://arxiv.org/abs/2006.03654"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from precast.export.blocks.relative import RelativeIndex
from precast.export.operators import attention

__all__ = ["DisentangledAttention", "Relative", "SharedPositions"]

Relative = tuple[Tensor, Tensor]
"""What the layers share of the positions: the rows [R] of their tables in use, and for each pair of positions which of
those rows, [B, N, S, S]."""


class SharedPositions(nn.Module):
    """`Relative` for ids [B, S] or states [B, S, H]; computed once, for all layers and both terms.

    Args:
        index: relative positions from -``span`` to ``span``, no further out than the distance itself.
    """

    def __init__(self, index: RelativeIndex, span: int, heads: int) -> None:
        super().__init__()
        self.span, self.heads = span, heads
        self.index = index

    def forward(self, input_ids: Tensor) -> Relative:
        batch, length = input_ids.shape[:2]
        # A short text needs few rows.
        reach = torch.sym_min(length, self.span)
        rows = torch.arange(2 * reach + 1, device=input_ids.device) + (self.span - reach)
        index = self.index(length) + reach
        return rows, index.expand(batch, self.heads, length, length)


class DisentangledAttention(nn.Module):
    """Self-attention whose scores are q.k + q.K[i - j] + k.Q[i - j] for positions i, j; [B, S, H] -> [B, S, H].

    ``key_positions`` (K) and ``query_positions`` (Q), [2 * span + 1, N * D], are projections of the table of relative
    positions; they depend on nothing else, and are computed when weights are loaded.

    Args:
        scale: of q.k; that of the others is in their tables.
        key, query: whether there is a term of K, and one of Q.
    """

    def __init__(self, size: int, *, heads: int, scale: float, span: int, key: bool, query: bool) -> None:
        super().__init__()
        self.heads, self.scale = heads, scale
        self.q_proj = nn.Linear(size, size)
        self.k_proj = nn.Linear(size, size)
        self.v_proj = nn.Linear(size, size)
        self.o_proj = nn.Linear(size, size)
        shape = (2 * span + 1, size)
        self.key_positions = nn.Parameter(torch.empty(shape)) if key else None
        self.query_positions = nn.Parameter(torch.empty(shape)) if query else None

    def _term(self, states: Tensor, table: Tensor, relative: Relative) -> Tensor:
        """Products of states [B, S, H] with the row of ``table`` for every pair, [B, N, S, S]."""
        rows, index = relative
        batch, length, _ = states.shape
        split = states.view(batch, length, self.heads, -1).transpose(1, 2)
        # Laid out anew: a product of a view is traced for one position or for several.
        split = split.clone(memory_format=torch.contiguous_format)
        used = F.embedding(rows, table).view(rows.shape[0], self.heads, states.shape[-1] // self.heads).permute(1, 2, 0)
        return torch.matmul(split, used).gather(-1, index)

    def forward(self, x: Tensor, mask: Tensor, relative: Relative | None) -> Tensor:
        query, key, value = self.q_proj(x), self.k_proj(x), self.v_proj(x)
        bias = None
        if relative is not None and self.key_positions is not None:
            bias = self._term(query, self.key_positions, relative)
        if relative is not None and self.query_positions is not None:
            term = self._term(key, self.query_positions, relative).transpose(2, 3)
            bias = term if bias is None else bias + term
        return self.o_proj(attention(query, key, value, mask=mask, bias=bias, heads=self.heads, scale=self.scale))
