"""One array in, logits out, through ONNX Runtime: what the image and ctc adapters of its exporters have in common."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from shared.session import open_session

__all__ = ["SessionAdapter"]


class SessionAdapter:
    """``INPUT`` names the feed's only array, ``FILE`` the graph in the prepared folder."""

    STREAMS = False
    INPUT: str
    FILE = "model.onnx"

    def __init__(self, *, threads: int, device: str, precision: str, workload: dict[str, Any]) -> None:
        self._threads, self._device, self._precision, self._workload = threads, device, precision, workload

    def load(self, checkpoint: Path, prepared: Path) -> None:
        self._session = open_session(prepared / self.FILE, threads=self._threads, device=self._device)

    def run(self, feed: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        (logits,) = self._session.run(["logits"], {self.INPUT: feed[self.INPUT]})
        return {"logits": logits}
