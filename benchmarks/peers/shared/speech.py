"""Whisper by upstream's own generation, whichever runtime computes the model: from a waveform to the text's ids."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["GeneratedSpeech", "text_ids"]

_RATE = 16_000


def text_ids(ids: list[int], config: Any) -> np.ndarray:
    """Without prompt, end and padding: every special token's id is at least that of the end."""
    return np.array([one for one in ids if one < config.eos_token_id], np.int64)


class GeneratedSpeech:
    """``load`` leaves a model with ``generate`` in ``self._model``: greedy, no timestamps, one window of 30 seconds."""

    STREAMS = False

    def __init__(self, *, threads: int, device: str, precision: str, workload: dict[str, Any]) -> None:
        self._threads, self._device, self._precision, self._workload = threads, device, precision, workload

    def _load_extractor(self, checkpoint: Path) -> None:
        from transformers import WhisperFeatureExtractor

        self._extractor = WhisperFeatureExtractor.from_pretrained(checkpoint)

    def run(self, feed: Mapping[str, np.ndarray], mark: Any = None) -> dict[str, np.ndarray]:
        import torch

        with torch.inference_mode():
            features = self._extractor(feed["waveform"], sampling_rate=_RATE, return_tensors="pt", device=self._device)
            given = features.input_features.to(self._device, self._model.dtype)
            limits = self._workload["generate"]
            ids = self._model.generate(
                given, do_sample=False, num_beams=limits["beams"], max_new_tokens=limits["new_tokens"]
            )
        return {"tokens": text_ids(ids[0].tolist(), self._model.config)}
