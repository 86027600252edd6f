"""Conformers: attention among all states and convolutions of those that are near, between two halves of a feed-forward
part. https://arxiv.org/abs/2005.08100"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from precast.export.blocks.attention import head_size
from precast.export.blocks.convolution import BatchNorm
from precast.export.blocks.norms import LayerNorm
from precast.export.blocks.tables import Table
from precast.export.blocks.vocoder import same
from precast.export.operators import attention
from precast.runtime.ports import Dim

__all__ = [
    "EPSILON",
    "Conformer",
    "ConformerLayer",
    "ConvolvedMLP",
    "Near",
    "PostNet",
    "RelativeAttention",
    "RelativeSines",
]

EPSILON = 1e-5
"""Of norms whose configs say none."""


class RelativeSines(nn.Module):
    """Sines and cosines, in turns, of how far S states are from each other: [2 * S - 1, H], from the furthest behind to
    the furthest ahead.

    Args:
        count: states at most. dim: the name of the dimension that counts them.
    """

    def __init__(self, count: int, size: int, dim: str) -> None:
        super().__init__()
        self.count, self.size, self.dim = count, size, dim
        self.rows = Table((2 * count - 1, size), self._rows)

    def bounds(self) -> dict[str, Dim]:
        return {self.dim: Dim(most=self.count)}

    def _rows(self) -> Tensor:
        # Angles are float32 numbers, as models were trained with them.
        steps = torch.arange(0, self.size, 2, dtype=torch.int64).float()
        frequencies = torch.exp(steps * -(math.log(10000.0) / self.size))
        apart = torch.arange(self.count - 1, -self.count, -1, dtype=torch.int64).float()
        angles = (apart[:, None] * frequencies).to(torch.float64)
        return torch.stack((angles.sin(), angles.cos()), dim=-1).flatten(1)

    def forward(self, x: Tensor) -> Tensor:
        length = x.shape[1]
        places = torch.arange(2 * length - 1, device=x.device) + (self.count - length)
        return F.embedding(places, self.rows())


class RelativeAttention(nn.Module):
    """Self-attention whose scores have a part that says how far two states are apart, [B, S, H] -> [B, S, H].
    https://arxiv.org/abs/1901.02860, section 3.3"""

    def __init__(self, size: int, heads: int) -> None:
        super().__init__()
        width = head_size(size, heads)
        self.heads, self.scale = heads, width**-0.5
        self.q_proj, self.k_proj, self.v_proj, self.o_proj = (nn.Linear(size, size) for _ in range(4))
        self.places_proj = nn.Linear(size, size, bias=False)
        self.content_bias, self.place_bias = (nn.Parameter(torch.empty(size)) for _ in range(2))

    def forward(self, x: Tensor, mask: Tensor | None, sines: Tensor) -> Tensor:
        batch, length, size = x.shape
        query, heads = self.q_proj(x), self.heads
        placed = (query + self.place_bias).view(batch, length, heads, size // heads).transpose(1, 2)
        places = self.places_proj(sines).view(2 * length - 1, heads, size // heads).permute(1, 2, 0)
        step = torch.arange(length, device=x.device)
        apart = (step[None] - step[:, None] + (length - 1)).expand(batch, heads, length, length)
        bias = torch.matmul(placed, places).gather(-1, apart) * self.scale
        context = attention(
            query + self.content_bias,
            self.k_proj(x),
            self.v_proj(x),
            mask=mask,
            bias=bias,
            heads=heads,
            scale=self.scale,
        )
        return self.o_proj(context)


class ConvolvedMLP(nn.Module):
    """Two convolutions along the states, [B, S, H] -> [B, S, H]."""

    def __init__(self, size: int, inner: int, kernel: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = same(size, inner, kernel), same(inner, size, kernel)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv2(F.relu(self.conv1(x.transpose(1, 2)))).transpose(1, 2)


class Near(nn.Module):
    """What a gate lets through, convolved channel by channel along the states, [B, S, H] -> [B, S, H]."""

    def __init__(self, size: int, kernel: int, bias: bool = True) -> None:
        super().__init__()
        self.pointwise_conv1 = nn.Conv1d(size, 2 * size, 1, bias=bias)
        self.depthwise_conv = same(size, size, kernel, groups=size, bias=bias)
        self.norm = BatchNorm(size)
        self.pointwise_conv2 = nn.Conv1d(size, size, 1, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pointwise_conv1(x.transpose(1, 2))
        size = x.shape[1] // 2
        x = x[:, :size] * torch.sigmoid(x[:, size:])
        return self.pointwise_conv2(F.silu(self.norm(self.depthwise_conv(x)))).transpose(1, 2)


class ConformerLayer(nn.Module):
    """States [B, S, H] -> states [B, S, H].

    Args:
        first: the half of the feed-forward part in front of attention, or None where it is whole, behind.
        before: norms stand in front of parts, not behind their residual sums.
        joined: what makes states of them and of what attention made, both side by side [B, S, 2 * H], or None.
    """

    def __init__(
        self,
        size: int,
        *,
        attention: nn.Module,
        near: nn.Module,
        mlp: nn.Module,
        first: nn.Module | None,
        before: bool,
        joined: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.self_attn, self.near, self.mlp, self.first, self.joined = attention, near, mlp, first, joined
        self.before, self.share = before, 1.0 if first is None else 0.5
        self.attention_norm, self.near_norm, self.mlp_norm, self.norm = (LayerNorm(size, EPSILON) for _ in range(4))
        self.first_norm = None if first is None else LayerNorm(size, EPSILON)

    def forward(self, x: Tensor, mask: Tensor | None, sines: Tensor) -> Tensor:
        if self.first is not None and self.first_norm is not None:
            x = self._added(x, self.first_norm, self.first, self.share)
        read = self.attention_norm(x) if self.before else x
        made = self.self_attn(read, mask, sines)
        if self.joined is not None:
            made = self.joined(torch.cat((read, made), dim=-1))
        x = x + made if self.before else self.attention_norm(x + made)
        x = self._added(x, self.near_norm, self.near, 1.0)
        return self.norm(self._added(x, self.mlp_norm, self.mlp, self.share))

    def _added(self, x: Tensor, norm: LayerNorm, part: nn.Module, share: float) -> Tensor:
        if self.before:
            return x + share * part(norm(x))
        return norm(x + share * part(x))


class Conformer(nn.Module):
    """States [B, S, H], mask [B, S] or None -> states [B, S, H]."""

    def __init__(self, sines: RelativeSines, layers: Iterable[nn.Module]) -> None:
        super().__init__()
        self.sines, self.layers = sines, nn.ModuleList(layers)
        self.scale = math.sqrt(sines.size)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        sines = self.sines(x)
        x = x * self.scale
        for layer in self.layers:
            x = layer(x, mask, sines)
        return x


class PostNet(nn.Module):
    """What convolutions find wrong with a spectrogram, [B, C, T] -> [B, C, T]. https://arxiv.org/abs/1712.05884"""

    def __init__(self, bins: int, *, units: int, layers: int, kernel: int) -> None:
        super().__init__()
        sizes = [bins, *(units for _ in range(layers - 1)), bins]
        self.convs = nn.ModuleList(same(*pair, kernel, bias=False) for pair in itertools.pairwise(sizes))
        self.norms = nn.ModuleList(BatchNorm(size) for size in sizes[1:])

    def forward(self, x: Tensor) -> Tensor:
        for number, (conv, norm) in enumerate(zip(self.convs, self.norms, strict=True)):
            x = norm(conv(x))
            if number < len(self.convs) - 1:
                x = torch.tanh(x)
        return x
