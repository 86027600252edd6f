"""Upstream's model in torch, on a CPU or a GPU: what the adapters of one forward pass have in common."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from shared.torch_model import open_model, set_threads

__all__ = ["ImageAdapter", "LogitsAdapter", "TorchAdapter"]


class TorchAdapter:
    """``OUTPUT`` names what comes out. On a GPU a call copies the feed in and the output back, and waits."""

    STREAMS = False
    OUTPUT: str

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
            given = self._given(feed)
            if self._device == "cpu":
                return {self.OUTPUT: self._forward(given).float().numpy()}
            began, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            began.record()
            output = self._forward(given)
            ended.record()
            self._events.append((began, ended))
            return {self.OUTPUT: output.float().cpu().numpy()}

    def _given(self, feed: Mapping[str, np.ndarray]) -> Any:
        """The feed as `_forward` takes it, on the device."""
        raise NotImplementedError

    def _forward(self, given: Any) -> Any:
        raise NotImplementedError

    def _device_seconds(self) -> list[float]:
        """What each call since the last question took on the GPU alone, by its events."""
        events, self._events = self._events, []
        return [began.elapsed_time(ended) * 1e-3 for began, ended in events]


class LogitsAdapter(TorchAdapter):
    """``INPUT`` names the feed's only array; logits come out."""

    INPUT: str
    OUTPUT = "logits"

    def _given(self, feed: Mapping[str, np.ndarray]) -> Any:
        import torch

        return torch.from_numpy(feed[self.INPUT]).to(self._device, self._model.dtype)

    def _forward(self, given: Any) -> Any:
        return self._model(**{self.INPUT: given}).logits


class ImageAdapter(LogitsAdapter):
    """Channels last, which torch's tuning guide advises for convolutions, where the model has more than one."""

    INPUT = "pixel_values"

    def load(self, checkpoint: Path, prepared: Path) -> None:
        import torch

        super().load(checkpoint, prepared)
        convolutions = sum(isinstance(module, torch.nn.Conv2d) for module in self._model.modules())
        self._layout = torch.channels_last if convolutions > 1 else torch.contiguous_format
        self._model = self._model.to(memory_format=self._layout)

    def _forward(self, given: Any) -> Any:
        return super()._forward(given.contiguous(memory_format=self._layout))
