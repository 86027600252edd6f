"""What travels beside the hidden states of a decoder: where the new tokens stand, and what layers remember.

A module that remembers something (keys and values, the state of a recurrence) is `Stateful`: it names its states, reads
them from the `Step` of a call and leaves their successors there. Nothing else of a model knows of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["CAPACITY", "State", "Stateful", "Step", "number", "states_of"]

CAPACITY = "capacity"


@dataclass(frozen=True)
class State:
    """One thing a module remembers.

    Args:
        name: of its kind ("key"); the graph's input is ``past_key.3`` for the model's fourth stateful module.
        shape: sizes and dimension names; ``batch`` first. ``capacity`` is the number of tokens a cache has room for.
        window: how many of the last tokens are ever read again, where that is bounded; such a cache may be a ring.
    """

    name: str
    shape: tuple[int | str, ...]
    window: int | None = None


class Stateful(nn.Module):
    """A module with states; ``index`` says which of the model's it is."""

    index: int = -1

    def states(self) -> tuple[State, ...]:
        raise NotImplementedError


def number(model: nn.Module) -> nn.Module:
    """Give every stateful module of ``model`` its index, in order; returns the model."""
    for index, module in enumerate(module for module in model.modules() if isinstance(module, Stateful)):
        module.index = index
    return model


def states_of(model: nn.Module) -> dict[str, State]:
    """The graph's state inputs by name, in order: ``past_key.0``, ``past_value.0``, ``past_key.1`` ..."""
    stateful = [module for module in model.modules() if isinstance(module, Stateful)]
    return {f"past_{state.name}.{module.index}": state for module in stateful for state in module.states()}


@dataclass
class Step:
    """One call of a decoder, for its layers.

    Args:
        past_lengths: [B] int64, tokens each row holds already.
        lengths: [B] int64, how many of each row's new tokens are real.
        positions: [B, S] int64, absolute positions of the new tokens; None in models that do not use them.
        past: states by input name. cross: encoder keys and values by input name, [B, T, N*D].
        encoder_mask: [B, T] int64, 1 for a position of the encoder that may be seen.
        conditions: what a session is given once, by input name.
        features: [F, H] of what is perceived. feature_rows: [B, S] int64, which of them stands at each token, or -1.
        whole: the new tokens are whole texts: nothing is remembered. shown: [B, S] int64, which of them are no padding;
            None: all, or what padding there is stands behind them.
        asked: where attentions over an encoder leave their queries, in order; None: nobody wants them.
    """

    past_lengths: Tensor
    lengths: Tensor
    positions: Tensor | None
    past: Mapping[str, Tensor]
    cross: Mapping[str, Tensor] = field(default_factory=dict)
    encoder_mask: Tensor | None = None
    conditions: Mapping[str, Tensor] = field(default_factory=dict)
    features: Tensor | None = None
    feature_rows: Tensor | None = None
    whole: bool = False
    shown: Tensor | None = None
    asked: list[Tensor] | None = None
    present: dict[str, Tensor] = field(default_factory=dict)
    _memo: dict[Any, Any] = field(default_factory=dict)

    def read(self, module: Stateful, name: str) -> Tensor:
        """A state as the call before left it."""
        return self.past[f"past_{name}.{module.index}"]

    def write(self, module: Stateful, name: str, value: Tensor) -> None:
        """Its successor."""
        self.present[f"present_{name}.{module.index}"] = value

    def placed(self, words: Tensor) -> Tensor:
        """Embeddings of words [B, S, H], and features where these stand."""
        if self.features is None or self.feature_rows is None:
            return words
        standing = self.features[self.feature_rows.clamp(min=0)]
        return torch.where((self.feature_rows >= 0)[..., None], standing, words)

    def once(self, key: Any, compute: Callable[[], Any]) -> Any:
        """What layers share, computed by the first that asks (the angles of rotary positions)."""
        if key not in self._memo:
            self._memo[key] = compute()
        return self._memo[key]

    @property
    def capacity(self) -> int:
        """Slots of a cache that has room for all tokens."""
        return next(value.shape[2] for name, value in self.past.items() if name.startswith("past_key."))

    def slots(self, new: int) -> Tensor:
        """[B, S]: the slot of each new token where a cache has room for all: its count from the row's first."""
        return self.past_lengths[:, None] + torch.arange(new, device=self.past_lengths.device)[None]
