"""Activation functions by the names config.json uses for them."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from precast.runtime.errors import closest

__all__ = ["ACTIVATIONS", "GATES", "Activation", "activation"]

Activation = Callable[[Tensor], Tensor]


def _gelu_tanh(x: Tensor) -> Tensor:
    return F.gelu(x, approximate="tanh")


def _quick_gelu(x: Tensor) -> Tensor:
    return x * torch.sigmoid(1.702 * x)


def _relu2(x: Tensor) -> Tensor:
    return F.relu(x).square()


def _relu6(x: Tensor) -> Tensor:
    return x.clamp(0, 6)


ACTIVATIONS: dict[str, Activation] = {
    "gelu": F.gelu,
    "gelu_python": F.gelu,
    # Spelled with pow, sqrt or a rounded constant upstream; all of them are the tanh approximation.
    "gelu_new": _gelu_tanh,
    "gelu_fast": _gelu_tanh,
    "gelu_pytorch_tanh": _gelu_tanh,
    "quick_gelu": _quick_gelu,
    "mish": F.mish,
    "relu": F.relu,
    "relu2": _relu2,
    "relu6": _relu6,
    "sigmoid": torch.sigmoid,
    "silu": F.silu,
    "swish": F.silu,
    "tanh": torch.tanh,
}


# What the operator of a gated MLP calls them (schema.OPERATORS["GatedActivation"]).
GATES: dict[Activation, str] = {F.silu: "silu", F.gelu: "gelu", _gelu_tanh: "gelu_tanh", F.relu: "relu"}


def activation(name: str) -> Activation:
    """The function for ``name``; used as ``hf(read=activation)``, so an unknown name is a ConfigError."""
    if name not in ACTIVATIONS:
        raise ValueError(f"unknown activation. {closest(str(name), ACTIVATIONS)} Known: {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[name]
