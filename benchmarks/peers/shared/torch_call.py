"""One array in, logits out, through upstream's model: what the image and ctc adapters of torch have in common."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from shared.torch_model import open_model, set_threads

__all__ = ["ImageAdapter", "LogitsAdapter"]


class LogitsAdapter:
    """``INPUT`` names the feed's only array. On a GPU a call copies it in and the logits out, and waits."""

    STREAMS = False
    INPUT: str

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
            given = torch.from_numpy(feed[self.INPUT]).to(self._device, self._model.dtype)
            if self._device == "cpu":
                return {"logits": self._logits(given).float().numpy()}
            began, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            began.record()
            logits = self._logits(given)
            ended.record()
            self._events.append((began, ended))
            return {"logits": logits.float().cpu().numpy()}

    def _logits(self, given: Any) -> Any:
        return self._model(**{self.INPUT: given}).logits

    def _device_seconds(self) -> list[float]:
        """What each call since the last question took on the GPU alone, by its events."""
        events, self._events = self._events, []
        return [began.elapsed_time(ended) * 1e-3 for began, ended in events]


class ImageAdapter(LogitsAdapter):
    """Channels last, which torch's tuning guide advises for convolutions, where the model has more than one."""

    INPUT = "pixel_values"

    def load(self, checkpoint: Path, prepared: Path) -> None:
        import torch

        super().load(checkpoint, prepared)
        convolutions = sum(isinstance(module, torch.nn.Conv2d) for module in self._model.modules())
        self._layout = torch.channels_last if convolutions > 1 else torch.contiguous_format
        self._model = self._model.to(memory_format=self._layout)

    def _logits(self, given: Any) -> Any:

        return super()._logits(given.contiguous(memory_format=self._layout))
