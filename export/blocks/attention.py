"""Attention with separate query, key, value and output projections: over a text, a cache, an encoder."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor, nn

from precast.export.blocks.cache import CAPACITY, State, Stateful, Step
from precast.export.operators import attention, cached_attention
from precast.runtime.errors import ConfigError

__all__ = ["CachedSelfAttention", "CrossAttention", "Positions", "SelfAttention", "head_size"]


def head_size(hidden: int, heads: int) -> int:
    """Channels of a head where heads share those of the hidden states equally; raises ConfigError where they cannot."""
    if hidden < 1 or heads < 1 or hidden % heads:
        raise ConfigError(
            "heads share the channels of the hidden states equally: their number must divide the size; received "
            f"{heads} heads and {hidden} channels"
        )
    return hidden // heads


class Positions(Protocol):
    """Position information put into queries and keys (rotary); a module."""

    def __call__(self, states: Tensor, heads: int) -> Tensor: ...


class SelfAttention(nn.Module):
    """Multi-head self-attention, [B, S, H] -> [B, S, H]. https://arxiv.org/abs/1706.03762

    Args:
        positions: applied to queries and keys after projection, or None.
        window: positions seen before and after each one, -1 for all.
        scale: factor of the scores; None: 1 / sqrt(head_dim).
        key_bias, out_bias: None is ``bias``.
        relative: makes a bias of the scores [1, N, S, S] that no input changes, or None.
    """

    def __init__(
        self,
        hidden: int,
        *,
        heads: int,
        head_dim: int | None = None,
        bias: bool = True,
        key_bias: bool | None = None,
        out_bias: bool | None = None,
        positions: nn.Module | None = None,
        window: tuple[int, int] = (-1, -1),
        scale: float | None = None,
        relative: nn.Module | None = None,
    ) -> None:
        super().__init__()
        size = head_dim or hidden // heads
        self.heads = heads
        self.scale = size**-0.5 if scale is None else scale
        self.window = window
        self.positions = positions
        self.relative = relative
        self.q_proj = nn.Linear(hidden, heads * size, bias=bias)
        self.k_proj = nn.Linear(hidden, heads * size, bias=bias if key_bias is None else key_bias)
        self.v_proj = nn.Linear(hidden, heads * size, bias=bias)
        self.o_proj = nn.Linear(heads * size, hidden, bias=bias if out_bias is None else out_bias)

    def forward(self, x: Tensor, mask: Tensor | None, bias: Tensor | None = None) -> Tensor:
        """x [B, S, H], mask [B, S] of visible keys, bias [B or 1, N or 1, S, S] added to the scaled scores."""
        query, key, value = self.q_proj(x), self.k_proj(x), self.v_proj(x)
        if self.positions is not None:
            query, key = self.positions(query, self.heads), self.positions(key, self.heads)
        if self.relative is not None:
            own = self.relative()
            bias = own if bias is None else own + bias
        context = attention(
            query, key, value, mask=mask, bias=bias, heads=self.heads, scale=self.scale, window=self.window
        )
        return self.o_proj(context)


class CachedSelfAttention(Stateful):
    """Causal self-attention over the tokens of a row, [B, S, H] -> [B, S, H]; keys and values are remembered.

    Args:
        kv_heads: heads of keys and values, each shared by a group of query heads. https://arxiv.org/abs/2305.13245
        key_bias, out_bias: None is ``bias``.
        positions: turns queries and keys after projection (`SteppedRotary`), or None.
        query_norm, key_norm: over the channels of each head, before the positions, or None.
        window: tokens a query sees, itself included; None: all.
        scale: factor of the scores; None: 1 / sqrt(head_dim). softcap: c * tanh(scores / c); 0: none.
    """

    def __init__(
        self,
        hidden: int,
        *,
        heads: int,
        kv_heads: int | None = None,
        head_dim: int | None = None,
        bias: bool = False,
        key_bias: bool | None = None,
        out_bias: bool | None = None,
        positions: nn.Module | None = None,
        query_norm: nn.Module | None = None,
        key_norm: nn.Module | None = None,
        window: int | None = None,
        scale: float | None = None,
        softcap: float = 0.0,
    ) -> None:
        super().__init__()
        self.heads, self.kv_heads = heads, kv_heads or heads
        self.size = head_dim or hidden // heads
        self.scale = self.size**-0.5 if scale is None else scale
        self.softcap = softcap
        self.window = window
        self.positions = positions
        self.q_norm, self.k_norm = query_norm, key_norm
        self.q_proj = nn.Linear(hidden, self.heads * self.size, bias=bias)
        self.k_proj = nn.Linear(hidden, self.kv_heads * self.size, bias=bias if key_bias is None else key_bias)
        self.v_proj = nn.Linear(hidden, self.kv_heads * self.size, bias=bias)
        self.o_proj = nn.Linear(self.heads * self.size, hidden, bias=bias if out_bias is None else out_bias)

    def states(self) -> tuple[State, ...]:
        room = CAPACITY if self.window is None else f"{CAPACITY}_{self.window}"
        shape = ("batch", self.kv_heads, room, self.size)
        return State("key", shape, self.window), State("value", shape, self.window)

    def forward(self, x: Tensor, step: Step, bias: Tensor | None = None) -> Tensor:
        """x [B, S, H], bias [B or 1, N or 1, S or 1, R] added to the scaled scores by slot of the cache."""
        query, key, value = self.q_proj(x), self.k_proj(x), self.v_proj(x)
        query, key = self._normed(query, self.q_norm, self.heads), self._normed(key, self.k_norm, self.kv_heads)
        if self.positions is not None:
            query, key = self.positions(query, self.heads, step), self.positions(key, self.kv_heads, step)
        if step.whole:
            return self.o_proj(self._whole(query, key, value, step.shown))
        context, keys, values = cached_attention(
            query,
            key,
            value,
            step.read(self, "key"),
            step.read(self, "value"),
            step.past_lengths,
            step.lengths,
            bias=bias,
            heads=self.heads,
            kv_heads=self.kv_heads,
            scale=self.scale,
            window=-1 if self.window is None else self.window,
            softcap=self.softcap,
        )
        step.write(self, "key", keys)
        step.write(self, "value", values)
        return self.o_proj(context)

    def _whole(self, query: Tensor, key: Tensor, value: Tensor, shown: Tensor | None) -> Tensor:
        """Of whole texts, what is behind whose last token nobody reads."""
        window = (-1, -1) if self.window is None else (self.window - 1, 0)
        return attention(
            query, key, value, mask=shown, heads=self.heads, kv_heads=self.kv_heads, scale=self.scale, causal=True,
            window=window, softcap=self.softcap,
        )  # fmt: skip

    @staticmethod
    def _normed(states: Tensor, norm: nn.Module | None, heads: int) -> Tensor:
        if norm is None:
            return states
        split: Tensor = norm(states.view(*states.shape[:-1], heads, states.shape[-1] // heads))
        return split.view(states.shape)


class CrossAttention(nn.Module):
    """Attention of a decoder over its encoder's positions, [B, S, H] -> [B, S, H].

    Keys and values depend on the encoder alone: they are computed with it, once (`keys_and_values`), and come back in
    every call of the decoder as the inputs ``cross_key.{index}`` and ``cross_value.{index}``.
    """

    index: int = -1

    def __init__(
        self,
        hidden: int,
        *,
        heads: int,
        head_dim: int | None = None,
        bias: bool = True,
        key_bias: bool | None = None,
        out_bias: bool | None = None,
        source: int | None = None,
        scale: float | None = None,
    ) -> None:
        super().__init__()
        self.heads = heads
        self.size = head_dim or hidden // heads
        self.scale = self.size**-0.5 if scale is None else scale
        width = heads * self.size
        self.q_proj = nn.Linear(hidden, width, bias=bias)
        self.k_proj = nn.Linear(source or hidden, width, bias=bias if key_bias is None else key_bias)
        self.v_proj = nn.Linear(source or hidden, width, bias=bias)
        self.o_proj = nn.Linear(width, hidden, bias=bias if out_bias is None else out_bias)

    def keys_and_values(self, states: Tensor) -> tuple[Tensor, Tensor]:
        """An encoder's hidden states [B, T, H] -> keys and values [B, T, N*D]."""
        return self.k_proj(states), self.v_proj(states)

    def forward(self, x: Tensor, step: Step) -> Tensor:
        key, value = step.cross[f"cross_key.{self.index}"], step.cross[f"cross_value.{self.index}"]
        query = self.q_proj(x)
        if step.asked is not None:
            step.asked.append(query * self.scale)
        context = attention(query, key, value, mask=step.encoder_mask, heads=self.heads, scale=self.scale)
        return self.o_proj(context)
