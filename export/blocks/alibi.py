"""Attention with linear biases: scores fall with the distance of a key, in each head at its own rate.
https://arxiv.org/abs/2108.12409

Added is the slope times the position of the key alone, as models were trained: what the query's position would add is
the same for all its keys, and softmax does not see it.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from precast.export.blocks.cache import Step
from precast.export.blocks.tables import Table
from precast.runtime.ports import Dim

__all__ = ["Alibi", "RoundedAlibi", "slopes"]


def slopes(heads: int) -> Tensor:
    """[N] float32: 2 ** (-8 i / N) for i = 1 .. N where N is a power of two; else those of the power below, and every
    second one of the power above."""
    below = 2 ** math.floor(math.log2(heads))

    def geometric(count: int) -> Tensor:
        base = torch.tensor(2 ** -(2 ** -(math.log2(count) - 3)), dtype=torch.float32)
        return torch.pow(base, torch.arange(1, count + 1, dtype=torch.int32))

    if below == heads:
        return geometric(heads)
    return torch.cat((geometric(below), geometric(2 * below)[::2][: heads - below]))


class Alibi(nn.Module):
    """Slope times slot, [1, N, 1, R] for the R slots of a cache."""

    def __init__(self, heads: int) -> None:
        super().__init__()
        self.slopes = Table((heads,), lambda: slopes(heads))

    def forward(self, input_ids: Tensor, step: Step) -> Tensor:
        slots = torch.arange(step.capacity, device=input_ids.device)
        rates = self.slopes()
        return (rates[:, None] * slots.to(rates.dtype))[None, :, None]


class RoundedAlibi(nn.Module):
    """The same in bfloat16, as Falcon was trained with it, over ``divisor``: a table of ``count`` positions."""

    def __init__(self, heads: int, count: int, divisor: float) -> None:
        super().__init__()
        self.count = count

        def compute() -> Tensor:
            return (slopes(heads)[:, None].bfloat16() * torch.arange(count)).double() / divisor

        self.biases = Table((heads, count), compute)

    def bounds(self) -> dict[str, Dim]:
        return {"sequence": Dim(most=self.count)}

    def forward(self, input_ids: Tensor, step: Step) -> Tensor:
        # A cache may have room for more tokens than a row may hold; nothing sees those slots.
        slots = torch.arange(step.capacity, device=input_ids.device).clamp(max=self.count - 1)
        return self.biases().index_select(1, slots)[None, :, None]
