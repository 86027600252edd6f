"""A text encoder through upstream's model in torch, on a CPU or a GPU."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from shared.torch_call import TorchAdapter

__all__ = ["EncoderAdapter"]


class EncoderAdapter(TorchAdapter):
    """Ids and mask in, hidden states out; scaled dot product attention."""

    OUTPUT = "last_hidden_state"

    def _given(self, feed: Mapping[str, np.ndarray]) -> dict[str, Any]:
        import torch

        return {name: torch.from_numpy(value).to(self._device) for name, value in feed.items()}

    def _forward(self, given: dict[str, Any]) -> Any:
        """[B, S, H] of ids and mask [B, S]."""
        return self._model(**given).last_hidden_state
