"""Precast: from a waveform to the ids of what is said, greedy, one window, without timestamps."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from shared.precast_call import PrecastAdapter

__all__ = ["PACKAGES", "Adapter"]

PACKAGES = ("precast", "onnxruntime", "onnxruntime-gpu", "numpy")


class Adapter(PrecastAdapter):
    VARIANT = None

    def __init__(self, *, threads: int, device: str, precision: str, workload: Mapping[str, Any]) -> None:
        super().__init__(threads=threads, device=device, precision=precision, workload=workload)
        self._limits = workload["generate"]

    def load(self, checkpoint: Path, prepared: Path) -> None:
        super().load(checkpoint, prepared)
        self._end = int(self._model.config["eos_token_id"])

    def run(self, feed: Mapping[str, Any], mark: Any = None) -> Mapping[str, Any]:
        heard = self._model.feature_extractor(feed["waveform"], sampling_rate=16_000)
        ids = self._model.generate(
            **heard, do_sample=False, num_beams=self._limits["beams"], max_new_tokens=self._limits["new_tokens"]
        )
        return {"tokens": np.array([one for one in ids[0].tolist() if one < self._end], np.int64)}

    def details(self, feed: Mapping[str, Any]) -> dict[str, Any]:
        """None: what a call costs beside the graphs is nothing beside what they take."""
        return {}
