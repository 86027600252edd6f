"""Causal decoders over a cache: embeddings, a stack of layers, a norm; with and without an encoder beside them."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor, nn

from precast.export.blocks.attention import CrossAttention
from precast.export.blocks.cache import Step, number
from precast.export.blocks.embeddings import words_port
from precast.export.blocks.norms import Norm, normed_sum
from precast.runtime.ports import Port

__all__ = ["Decoder", "DecoderLayer", "ParallelLayer", "PostNormDecoderLayer", "TokenEmbeddings"]


class TokenEmbeddings(nn.Module):
    """words(ids) * scale + positions, ids [B, S] -> [B, S, E]; what is perceived stands in place of its words.

    Args:
        positions: adds position vectors from (ids, step), or None.
        norm: over the sum, or None.
    """

    def __init__(
        self,
        vocab: int,
        size: int,
        *,
        scale: float | None = None,
        positions: nn.Module | None = None,
        norm: Norm | None = None,
    ) -> None:
        super().__init__()
        self.words = nn.Embedding(vocab, size)
        self.scale = scale
        self.positions = positions
        self.norm = norm

    def ports(self) -> tuple[Port, ...]:
        return (words_port(self.words),)

    def forward(self, input_ids: Tensor, step: Step) -> Tensor:
        x: Tensor = self.words(input_ids)
        if self.scale is not None:
            x = x * self.scale
        x = step.placed(x)
        if self.positions is None:
            return x if self.norm is None else self.norm(x)
        positions = self.positions(input_ids, step)
        return x + positions if self.norm is None else self.norm.add(x, positions)[0]


class DecoderLayer(nn.Module):
    """x = x + attention(norm(x)); [x = x + cross(norm(x));] x = x + mlp(norm(x)). https://arxiv.org/abs/2002.04745

    The state travels as two parts whose sum it is, ``x`` and the last update, so that each norm has its residual sum
    in front of it and the two are one operator.

    Args:
        cross, cross_norm: attention over an encoder, or None.
    """

    def __init__(
        self,
        *,
        attention: nn.Module,
        attention_norm: Norm,
        mlp: nn.Module,
        mlp_norm: Norm,
        cross: nn.Module | None = None,
        cross_norm: Norm | None = None,
    ) -> None:
        super().__init__()
        self.attention_norm = attention_norm
        self.self_attn = attention
        self.cross_norm = cross_norm
        self.cross_attn = cross
        self.mlp_norm = mlp_norm
        self.mlp = mlp

    def forward(
        self, x: Tensor, update: Tensor | None, step: Step, bias: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """x, update [B, S, H] (None: there is no update) -> the same two after this layer."""
        normed, x = normed_sum(self.attention_norm, x, update)
        update = self.self_attn(normed, step, bias)
        if self.cross_attn is not None and self.cross_norm is not None:
            normed, x = self.cross_norm.add(update, x)
            update = self.cross_attn(normed, step)
        normed, x = self.mlp_norm.add(update, x)
        return x, self.mlp(normed)

    def asks(self, x: Tensor, update: Tensor | None, step: Step) -> Tensor:
        """What it asks of the encoder [B, S, N*D], scaled; nothing behind that is computed."""
        assert isinstance(self.cross_attn, CrossAttention) and self.cross_norm is not None
        normed, x = normed_sum(self.attention_norm, x, update)
        normed, _ = self.cross_norm.add(self.self_attn(normed, step, None), x)
        asked: Tensor = self.cross_attn.q_proj(normed) * self.cross_attn.scale
        return asked


class PostNormDecoderLayer(DecoderLayer):
    """The same parts, norms last: x = norm(x + attention(x)); [x = norm(x + cross(x));] x = norm(x + mlp(x)).
    https://arxiv.org/abs/1706.03762"""

    def forward(
        self, x: Tensor, update: Tensor | None, step: Step, bias: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """As `DecoderLayer`; each norm ends in a whole state, so there is never an update beside it."""
        x, _ = self.attention_norm.add(self.self_attn(x, step, bias), x)
        if self.cross_attn is not None and self.cross_norm is not None:
            x, _ = self.cross_norm.add(self.cross_attn(x, step), x)
        x, _ = self.mlp_norm.add(self.mlp(x), x)
        return x, None


class ParallelLayer(nn.Module):
    """x = x + attention(norm(x)) + mlp(norm(x)), the two beside each other. https://arxiv.org/abs/2204.02311

    Args:
        mlp_norm: of the MLP's own; None: the two share one.
    """

    def __init__(
        self, *, attention: nn.Module, attention_norm: Norm, mlp: nn.Module, mlp_norm: Norm | None = None
    ) -> None:
        super().__init__()
        self.attention_norm = attention_norm
        self.self_attn = attention
        self.mlp_norm = mlp_norm
        self.mlp = mlp

    def forward(
        self, x: Tensor, update: Tensor | None, step: Step, bias: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """As `DecoderLayer`."""
        normed, x = normed_sum(self.attention_norm, x, update)
        other = normed if self.mlp_norm is None else self.mlp_norm(x)
        return x, self.self_attn(normed, step, bias) + self.mlp(other)


class Decoder(nn.Module):
    """ids [B, S] at a `Step` -> hidden states [B, S, H], through layers that take and return (x, update).

    Args:
        bias: what all layers share of the positions ([B or 1, N, S or 1, R] from ids, step and the first cache), or
            None.
        norm: after the last layer, or None.
    """

    def __init__(
        self,
        *,
        embeddings: nn.Module,
        layers: Iterable[nn.Module],
        norm: Norm | None,
        bias: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.embeddings = embeddings
        self.bias = bias
        self.layers = nn.ModuleList(layers)
        self.norm = norm
        number(self)

    def ports(self) -> tuple[Port, ...]:
        """What its embeddings take."""
        made: tuple[Port, ...] = self.embeddings.ports()  # type: ignore[operator]
        return made

    def forward(self, input_ids: Tensor, step: Step) -> Tensor:
        x, update = self.embeddings(input_ids, step), None
        bias = None if self.bias is None else self.bias(input_ids, step)
        for layer in self.layers:
            x, update = layer(x, update, step, bias)
        return normed_sum(self.norm, x, update)[0]
