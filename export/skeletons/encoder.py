"""Bidirectional text encoders: embeddings, a stack of layers, hidden states out."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor, nn

from precast.export.blocks.embeddings import mask_port
from precast.export.blocks.norms import LayerNorm, Norm, normed_sum
from precast.runtime.ports import Port

__all__ = ["Encoder", "PostNormLayer", "PreNormEncoder", "PreNormLayer"]


def _ports(embeddings: nn.Module) -> tuple[Port, ...]:
    """What the embeddings take, and the mask behind the ids."""
    words, *others = embeddings.ports()  # type: ignore[operator]
    return words, mask_port(words), *others


class PostNormLayer(nn.Module):
    """x = norm(x + attention(x)); x = norm(x + mlp(x)). https://arxiv.org/abs/1706.03762"""

    def __init__(self, *, attention: nn.Module, attention_norm: LayerNorm, mlp: nn.Module, mlp_norm: LayerNorm) -> None:
        super().__init__()
        self.self_attn = attention
        self.attention_norm = attention_norm
        self.mlp = mlp
        self.mlp_norm = mlp_norm

    def forward(self, x: Tensor, mask: Tensor, bias: Tensor | None = None) -> Tensor:
        x, _ = self.attention_norm.add(self.self_attn(x, mask, bias), x)
        x, _ = self.mlp_norm.add(self.mlp(x), x)
        return x


class PreNormLayer(nn.Module):
    """x = x + attention(norm(x)); x = x + mlp(norm(x)). https://arxiv.org/abs/2002.04745

    The state travels as two parts whose sum it is, ``x`` and the last update, so that each norm has its residual sum
    in front of it and the two are one operator.

    Args:
        attention_norm: None where the first layer's input is normalised already.
    """

    def __init__(self, *, attention: nn.Module, attention_norm: Norm | None, mlp: nn.Module, mlp_norm: Norm) -> None:
        super().__init__()
        self.attention_norm = attention_norm
        self.self_attn = attention
        self.mlp_norm = mlp_norm
        self.mlp = mlp

    def forward(
        self, x: Tensor, update: Tensor | None, mask: Tensor, bias: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """x, update [B, S, H] (None: there is no update yet) -> the same two after this layer."""
        normed, x = normed_sum(self.attention_norm, x, update)
        normed, x = self.mlp_norm.add(self.self_attn(normed, mask, bias), x)
        return x, self.mlp(normed)


class PreNormEncoder(nn.Module):
    """ids [B, S], mask [B, S] -> hidden states [B, S, H], through layers that are `PreNormLayer`.

    Args:
        bias: what all layers share of the positions, computed once from the ids, or None.
        norm: after the last layer.
    """

    def __init__(
        self,
        *,
        embeddings: nn.Module,
        layers: Iterable[nn.Module],
        norm: Norm,
        bias: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.embeddings = embeddings
        self.bias = bias
        self.layers = nn.ModuleList(layers)
        self.norm = norm

    def ports(self) -> tuple[Port, ...]:
        """Ids, mask and what else the embeddings take."""
        return _ports(self.embeddings)

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None) -> Tensor:
        x, update = self.embeddings(input_ids, token_type_ids), None
        bias = None if self.bias is None else self.bias(input_ids)
        for layer in self.layers:
            x, update = layer(x, update, attention_mask, bias)
        return normed_sum(self.norm, x, update)[0]


class Encoder(nn.Module):
    """ids [B, S], mask [B, S] -> hidden states [B, S, H].

    Args:
        projection: between embeddings and layers, where their sizes differ.
        bias: computes from the ids what all layers share of the positions (a score bias [1, N, S, S]), or None.
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

    def ports(self) -> tuple[Port, ...]:
        """Ids, mask and what else the embeddings take."""
        return _ports(self.embeddings)

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None, **others: Tensor
    ) -> Tensor:
        """others: what the embeddings take beside ids and token types."""
        x = self.embeddings(input_ids, token_type_ids, **others)
        if self.projection is not None:
            x = self.projection(x)
        bias = None if self.bias is None else self.bias(input_ids)
        for layer in self.layers:
            x = layer(x, attention_mask, bias)
        return x if self.norm is None else self.norm(x)
