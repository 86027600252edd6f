"""Conformer layers: attention and a convolution between two halves of a feed-forward part, and attention that knows how
far frames are from each other. https://arxiv.org/abs/2005.08100"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from precast.export.blocks.activations import Activation
from precast.export.blocks.attention import SelfAttention
from precast.export.blocks.convolution import COUNTERS, BatchNorm
from precast.export.blocks.frames import PaddedConvolution, rows
from precast.export.blocks.norms import LayerNorm
from precast.export.blocks.rotary import plain
from precast.export.blocks.tables import Table
from precast.export.operators import attention, rotary, rotary_angles
from precast.export.weights import Compute, Flatten, Fold, Rename, Rule

__all__ = [
    "ConformerConvolution",
    "ConformerLayer",
    "DistanceAttention",
    "Distances",
    "TurnedAttention",
    "Turns",
    "layer_names",
]


class ConformerConvolution(nn.Module):
    """Each channel along the frames, between two projections of which the first gates itself, [B, F, H] to the same."""

    def __init__(self, size: int, kernel: int, act: Activation) -> None:
        super().__init__()
        self.act = act
        self.up_proj = nn.Linear(size, 2 * size, bias=False)
        self.conv = PaddedConvolution(size, size, kernel, groups=size, bias=False)
        self.norm = BatchNorm(size)
        self.down_proj = nn.Linear(size, size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x, size = self.up_proj(x), x.shape[2]
        gated = x[..., :size] * torch.sigmoid(x[..., size:])
        return self.down_proj(rows(self.act(self.norm(self.conv(gated.transpose(1, 2))))))


class ConformerLayer(nn.Module):
    """x = x + first(norm(x)); x = x + attention(norm(x)); x = x + conv(norm(x)); x = norm(x + second(norm(x))).

    It is called and answers as `PreNormLayer`s do, but nothing is left to add to what it gives.
    """

    def __init__(
        self, size: int, eps: float, *, first: nn.Module, attention: nn.Module, conv: nn.Module, second: nn.Module
    ) -> None:
        super().__init__()
        self.first_norm, self.first = LayerNorm(size, eps), first
        self.attention_norm, self.self_attn = LayerNorm(size, eps), attention
        self.conv_norm, self.conv = LayerNorm(size, eps), conv
        self.second_norm, self.second = LayerNorm(size, eps), second
        self.norm = LayerNorm(size, eps)

    def forward(self, x: Tensor, update: None, mask: Tensor, bias: object = None) -> tuple[Tensor, None]:
        normed, x = self.attention_norm.add(self.first(self.first_norm(x)), x)
        normed, x = self.conv_norm.add(self.self_attn(normed, mask, bias), x)
        normed, x = self.second_norm.add(self.conv(normed), x)
        return self.norm.add(self.second(normed), x)[0], None


class Turns(nn.Module):
    """Cosines and sines of the angles by which frames [B, F, H] are turned, each [F, D / 2]; see `TurnedAttention`."""

    def __init__(self, size: int, base: float) -> None:
        super().__init__()
        self.frequencies = Table((size // 2,), plain(size, base))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        positions = torch.arange(x.shape[1], device=x.device)[None]
        return rotary_angles(positions, self.frequencies())


class TurnedAttention(SelfAttention):
    """Self-attention whose queries and keys are made of frames that are turned, before they are projected."""

    def forward(self, x: Tensor, mask: Tensor | None, bias: tuple[Tensor, Tensor]) -> Tensor:  # type: ignore[override]
        batch, length, _ = x.shape
        positions = torch.arange(length, device=x.device)[None].expand(batch, length)
        turned = rotary(x, positions, *bias, heads=self.heads)
        query, key, value = self.q_proj(turned), self.k_proj(turned), self.v_proj(x)
        return self.o_proj(attention(query, key, value, mask=mask, heads=self.heads, scale=self.scale))


class Distances(nn.Module):
    """Sines, and behind them cosines, of every distance between two of the frames [B, F, H], from F - 1 down to 1 - F:
    [2 * F - 1, H]; and which of them each pair has, [F, F]. https://arxiv.org/abs/1901.02860"""

    def __init__(self, size: int) -> None:
        super().__init__()
        step = -(math.log(10000.0) / size)
        self.frequencies = Table(
            (size // 2,), lambda: torch.exp(torch.arange(0, size, 2, dtype=torch.int64).float() * step)
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        length = x.shape[1]
        distances = -torch.arange(2 * length - 1, device=x.device) + (length - 1)
        cos, sin = rotary_angles(distances[None], self.frequencies())
        frames = torch.arange(length, device=x.device)
        return torch.cat((sin, cos), dim=1), frames - frames[:, None] + (length - 1)


class DistanceAttention(SelfAttention):
    """Self-attention whose scores are (q + u) . k + (q + v) . p(i - j) for frames i, j, where p projects the sines of a
    distance and u, v are what is asked of content and distance whatever the frame; [B, F, H] -> [B, F, H].
    https://arxiv.org/abs/1901.02860, section 3.3"""

    def __init__(self, hidden: int, *, heads: int) -> None:
        super().__init__(hidden, heads=heads)
        self.p_proj = nn.Linear(hidden, hidden, bias=False)
        self.content = nn.Parameter(torch.empty(hidden))
        self.distance = nn.Parameter(torch.empty(hidden))

    def forward(self, x: Tensor, mask: Tensor | None, bias: tuple[Tensor, Tensor]) -> Tensor:  # type: ignore[override]
        sines, index = bias
        batch, length, hidden = x.shape
        query, key, value = self.q_proj(x), self.k_proj(x), self.v_proj(x)
        # One product a head, of what is laid out anew: of a view it is traced for one frame or for several.
        asked = ((query + self.distance) * self.scale).view(batch, length, self.heads, hidden // self.heads)
        asked = asked.permute(2, 0, 1, 3).clone(memory_format=torch.contiguous_format)
        given = self.p_proj(sines).view(sines.shape[0], self.heads, hidden // self.heads).permute(1, 2, 0)
        scores = torch.bmm(asked.view(self.heads, batch * length, hidden // self.heads), given)
        scores = scores.view(self.heads, batch, length, sines.shape[0]).transpose(0, 1)
        scores = scores.gather(-1, index.expand(batch, self.heads, length, length))
        context = attention(
            query + self.content, key, value, mask=mask, bias=scores, heads=self.heads, scale=self.scale
        )
        return self.o_proj(context)


def _half(name: str, new: str) -> tuple[Rule, ...]:
    """Of a feed-forward part, of which half is added."""
    return (
        Rename(f"{name}_layer_norm.*", f"{new}_norm.*"),
        Rename(f"{name}.intermediate_dense.*", f"{new}.up_proj.*"),
        Rename(f"{name}.output_dense.*", f"{new}.down_proj.*"),
        Fold(f"{new}.down_proj.*", scale=0.5),
    )


def layer_names(size: int) -> tuple[Rule, ...]:
    """Behind the prefix of a layer of so many channels."""

    def matrix(old: str, new: str, out: int) -> Compute:
        return Compute((f"{old}.weight",), f"{new}.weight", (out, size), lambda kernel: kernel.squeeze(-1))

    def parted(weight: Tensor) -> Tensor:
        return torch.cat((weight[:, 0::2], weight[:, 1::2]), dim=1)  # sines and cosines alternate upstream

    return (
        *_half("ffn1", "first"),
        *_half("ffn2", "second"),
        Rename("self_attn_layer_norm.*", "attention_norm.*"),
        Rename("final_layer_norm.*", "norm.*"),
        Compute(("self_attn.linear_pos.weight",), "self_attn.p_proj.weight", (size, size), parted),
        Rename("self_attn.linear_out.*", "self_attn.o_proj.*"),
        *(Rename(f"self_attn.linear_{part}.*", f"self_attn.{part}_proj.*") for part in "qkv"),
        Rename("self_attn.pos_bias_u", "self_attn.content"),
        Rename("self_attn.pos_bias_v", "self_attn.distance"),
        *(Flatten(f"self_attn.{part}") for part in ("content", "distance")),
        Rename("conv_module.layer_norm.*", "conv_norm.*"),
        COUNTERS,
        matrix("conv_module.pointwise_conv1", "conv.up_proj", 2 * size),
        matrix("conv_module.pointwise_conv2", "conv.down_proj", size),
        Rename("conv_module.depthwise_conv.*", "conv.conv.*"),
        Rename("conv_module.batch_norm.*", "conv.norm.*"),
    )
