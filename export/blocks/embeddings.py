"""Token embeddings: words, positions and token types, summed and normalised."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from precast.export.blocks.norms import LayerNorm

__all__ = ["CountedPositions", "LearnedPositions", "TextEmbeddings"]


class LearnedPositions(nn.Module):
    """A learned table, indexed 0, 1, 2 ... whatever the padding. Returns [1, S, E]."""

    def __init__(self, count: int, size: int) -> None:
        super().__init__()
        self.table = nn.Embedding(count, size)

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.table(torch.arange(input_ids.shape[1], device=input_ids.device)[None])


class CountedPositions(nn.Module):
    """A learned table whose positions count the tokens that are not padding, from ``padding_id + 1`` on; padding
    itself sits at ``padding_id``. Returns [B, S, E]. Used by RoBERTa (https://arxiv.org/abs/1907.11692) and MPNet."""

    def __init__(self, count: int, size: int, padding_id: int) -> None:
        super().__init__()
        self.padding_id = padding_id
        self.table = nn.Embedding(count, size)

    def forward(self, input_ids: Tensor) -> Tensor:
        real = (input_ids != self.padding_id).to(torch.int64)
        return self.table(torch.cumsum(real, dim=1) * real + self.padding_id)


class TextEmbeddings(nn.Module):
    """norm(words + positions + token types), ids [B, S] -> [B, S, E].

    Args:
        token_types: number of token types; 0 for models without them. With 1 the only row is always added.
    """

    def __init__(
        self,
        vocab: int,
        size: int,
        *,
        positions: nn.Module | None,
        token_types: int,
        norm: LayerNorm | None,
    ) -> None:
        super().__init__()
        self.words = nn.Embedding(vocab, size)
        self.positions = positions
        self.token_types = nn.Embedding(token_types, size) if token_types else None
        self.norm = norm

    def forward(self, input_ids: Tensor, token_type_ids: Tensor | None = None) -> Tensor:
        total = self.words(input_ids)
        if self.token_types is not None:
            total = total + (self.token_types.weight[0] if token_type_ids is None else self.token_types(token_type_ids))
        positions = None if self.positions is None else self.positions(input_ids)
        if self.norm is None:
            return total if positions is None else total + positions
        return self.norm(total) if positions is None else self.norm.add(total, positions)[0]
