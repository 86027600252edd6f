"""A text encoder through upstream's model in torch, on a CPU or a GPU."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from shared.torch_model import open_model, set_threads

__all__ = ["EncoderAdapter"]


class EncoderAdapter:
    """Inference mode, scaled dot product attention. On a GPU a call copies ids in and states out, and waits."""

    STREAMS = False

    def __init__(self, *, threads: int, device: str, precision: str, workload: dict[str, Any]) -> None:
        self._threads, self._device, self._precision, self._workload = threads, device, precision, workload
        if device != "cpu":
            self._events: list[tuple[Any, Any]] = []
            self.device_seconds = self._device_seconds  # the worker asks whoever has it

    def prepare(self, checkpoint: Path, out: Path) -> None:
        return

    def load(self, checkpoint: Path, prepared: Path) -> None:
        set_threads(self._threads)
        self._model = open_model(checkpoint, self._workload, precision=self._precision, device=self._device)

    def run(self, feed: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        import torch

        with torch.inference_mode():
            given = {name: torch.from_numpy(value).to(self._device) for name, value in feed.items()}
            if self._device == "cpu":
                return {"last_hidden_state": self._states(given).float().numpy()}
            began, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            began.record()
            states = self._states(given)
            ended.record()
            self._events.append((began, ended))
            return {"last_hidden_state": states.float().cpu().numpy()}

    def _states(self, given: dict[str, Any]) -> Any:
        """[B, S, H] of ids and mask [B, S]."""
        return self._model(**given).last_hidden_state

    def _device_seconds(self) -> list[float]:
        """What each call since the last question took on the GPU alone, by its events."""
        events, self._events = self._events, []
        return [began.elapsed_time(ended) * 1e-3 for began, ended in events]
