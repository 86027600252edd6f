"""Selective state spaces: a recurrence over tokens whose memory has one size. https://arxiv.org/abs/2312.00752"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from precast.export.blocks.cache import State, Stateful, Step
from precast.export.operators import selective_scan

__all__ = ["SelectiveStateSpace"]


def _softplus(x: Tensor) -> Tensor:
    """log(1 + exp(x)). Step sizes are around a thousandth, where ONNX's Softplus keeps four digits: it adds the one
    first. What that rounds away is made up for as Kahan does: log(1 + y) = y log(u) / (u - 1), u the rounded 1 + y.
    """
    small = torch.exp(-x.abs())
    above = 1 + small
    exact = torch.where(above == 1, small, small * torch.log(above) / torch.where(above == 1, 1.0, above - 1))
    return torch.relu(x) + exact


class SelectiveStateSpace(Stateful):
    """Convolution over the last tokens, then a recurrence whose coefficients depend on the token, [B, S, H] ->
    [B, S, H]; remembered are the convolution's last inputs and the state of the recurrence.

    Args:
        inner: channels between the projections. size: numbers that are remembered of each. rank: channels that step
            sizes are made of. kernel: tokens the convolution sees.
    """

    def __init__(
        self, hidden: int, *, inner: int, size: int, rank: int, kernel: int, bias: bool, conv_bias: bool
    ) -> None:
        super().__init__()
        self.inner, self.size, self.rank, self.kernel = inner, size, rank, kernel
        self.in_proj = nn.Linear(hidden, 2 * inner, bias=bias)
        self.conv_weight = nn.Parameter(torch.empty(inner, 1, kernel))
        self.conv_bias = nn.Parameter(torch.empty(inner)) if conv_bias else None
        self.x_proj = nn.Linear(inner, rank + 2 * size, bias=False)
        self.dt_proj = nn.Linear(rank, inner)
        self.A = nn.Parameter(torch.empty(size, inner))
        self.D = nn.Parameter(torch.empty(inner))
        self.out_proj = nn.Linear(inner, hidden, bias=bias)

    def states(self) -> tuple[State, ...]:
        return (
            State("conv_state", ("batch", self.kernel - 1, self.inner)),
            State("ssm_state", ("batch", self.size, self.inner)),
        )

    def forward(self, x: Tensor, step: Step) -> Tensor:
        both = self.in_proj(x)
        states, gate = both[..., : self.inner], both[..., self.inner :]
        states = F.silu(self._convolved(states, step))
        chosen = self.x_proj(states)
        deltas, coefficients = chosen[..., : self.rank], chosen[..., self.rank :]
        to, back = coefficients[..., : self.size], coefficients[..., self.size :]
        real = torch.arange(x.shape[1], device=x.device)[None] < step.lengths[:, None]
        # A step of size zero leaves the state to the bit as it is: so padding does.
        deltas = _softplus(self.dt_proj(deltas)) * real[..., None].to(x.dtype)
        made, state = selective_scan(states, deltas, self.A, to, back, step.read(self, "ssm_state"))
        step.write(self, "ssm_state", state)
        return self.out_proj((made + states * self.D) * F.silu(gate))

    def _convolved(self, states: Tensor, step: Step) -> Tensor:
        """Each channel alone over a token and the ones before it."""
        length, before = states.shape[1], self.kernel - 1
        row = torch.cat((step.read(self, "conv_state").to(states.dtype), states), dim=1)
        # The inputs of the last real tokens, of this call or of those before.
        last = step.lengths[:, None] + torch.arange(before, device=states.device)
        step.write(self, "conv_state", row.gather(1, last[..., None].expand(-1, -1, self.inner)))
        total = row[:, :length] * self.conv_weight[:, 0, 0]
        for tap in range(1, self.kernel):
            total = total + row[:, tap : tap + length] * self.conv_weight[:, 0, tap]
        return total if self.conv_bias is None else total + self.conv_bias
