"""Bidirectional text encoders: embeddings, a stack of layers, hidden states out."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor, nn

from precast.export.blocks.norms import LayerNorm

__all__ = ["Encoder", "PostNormLayer"]


class PostNormLayer(nn.Module):
    """x = norm(x + attention(x)); x = norm(x + mlp(x)). https://arxiv.org/abs/1706.03762"""

    def __init__(
        self, *, attention: nn.Module, attention_norm: LayerNorm, mlp: nn.Module, mlp_norm: LayerNorm
    ) -> None:
        super().__init__()
        self.self_attn = attention
        self.attention_norm = attention_norm
        self.mlp = mlp
        self.mlp_norm = mlp_norm

    def forward(self, x: Tensor, mask: Tensor, bias: Tensor | None = None) -> Tensor:
        x, _ = self.attention_norm.add(self.self_attn(x, mask, bias), x)
        x, _ = self.mlp_norm.add(self.mlp(x), x)
        return x


class Encoder(nn.Module):
    """ids [B, S], mask [B, S] -> hidden states [B, S, H].

    Args:
        projection: between embeddings and layers, where their sizes differ.
        bias: computes the score bias all layers share, [1, N, S, S] from ids, or None.
        norm: after the last layer, or None.
    """

    def __init__(
        self,
        *,
        embeddings: nn.Module,
        layers: Iterable[nn.Module],
        projection: nn.Module | None = None,
        bias: nn.Module | None = None,
        norm: LayerNorm | None = None,
    ) -> None:
        super().__init__()
        self.embeddings = embeddings
        self.projection = projection
        self.bias = bias
        self.layers = nn.ModuleList(layers)
        self.norm = norm

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None) -> Tensor:
        x = self.embeddings(input_ids, token_type_ids)
        if self.projection is not None:
            x = self.projection(x)
        bias = None if self.bias is None else self.bias(input_ids)
        for layer in self.layers:
            x = layer(x, attention_mask, bias)
        return x if self.norm is None else self.norm(x)
