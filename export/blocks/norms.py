"""Normalisation, alone and with the residual sum in front of it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from precast.export.operators import add_layer_norm, add_rms_norm, rms_norm

__all__ = ["LayerNorm", "Norm", "RMSNorm", "normed_sum"]


class LayerNorm(nn.Module):
    """Layer normalisation over the last axis, [..., H] -> [..., H]. https://arxiv.org/abs/1607.06450"""

    def __init__(self, size: int, eps: float, bias: bool = True) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.empty(size))
        self.bias = nn.Parameter(torch.empty(size)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, (x.shape[-1],), self.weight, self.bias, self.eps)

    def add(self, x: Tensor, residual: Tensor) -> tuple[Tensor, Tensor]:
        """(norm(x + residual), x + residual) as one operator."""
        return add_layer_norm(x, residual, self.weight, self.bias, self.eps)


class RMSNorm(nn.Module):
    """Root-mean-square normalisation over the last axis, [..., H] -> [..., H]. https://arxiv.org/abs/1910.07467"""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.empty(size))

    def forward(self, x: Tensor) -> Tensor:
        return rms_norm(x, self.weight, self.eps)

    def add(self, x: Tensor, residual: Tensor) -> tuple[Tensor, Tensor]:
        """(norm(x + residual), x + residual) as one operator."""
        return add_rms_norm(x, residual, self.weight, self.eps)


Norm = LayerNorm | RMSNorm


def normed_sum(norm: Norm | None, x: Tensor, update: Tensor | None) -> tuple[Tensor, Tensor]:
    """A state that travels as two parts: (norm(x + update), x + update); None stands for no norm, and for no update."""
    if norm is None:
        total = x if update is None else x + update
        return total, total
    return (norm(x), x) if update is None else norm.add(update, x)
