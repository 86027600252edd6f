"""CTranslate2's Whisper with upstream's features, as its guide has it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from shared.ctranslate2_whisper import COMPUTE_TYPES, convert

__all__ = ["PACKAGES", "Adapter"]

PACKAGES = ("ctranslate2", "transformers", "torch")
_RATE = 16_000


class Adapter:
    STREAMS = False

    def __init__(self, *, threads: int, device: str, precision: str, workload: dict[str, Any]) -> None:
        self._threads, self._device, self._precision, self._workload = threads, device, precision, workload

    def prepare(self, checkpoint: Path, out: Path) -> None:
        convert(checkpoint, out, precision=self._precision)

    def load(self, checkpoint: Path, prepared: Path) -> None:
        import ctranslate2
        import torch
        from transformers import GenerationConfig, WhisperFeatureExtractor

        torch.set_num_threads(self._threads)
        self._extractor = WhisperFeatureExtractor.from_pretrained(checkpoint)
        generation = GenerationConfig.from_pretrained(checkpoint)
        self._prompt = [generation.decoder_start_token_id, generation.no_timestamps_token_id]
        self._end = generation.eos_token_id
        self._model = ctranslate2.models.Whisper(
            str(prepared),
            device=self._device,
            compute_type=COMPUTE_TYPES[self._precision],
            intra_threads=self._threads,
            inter_threads=1,
        )

    def run(self, feed: Mapping[str, np.ndarray], mark: Any = None) -> dict[str, np.ndarray]:
        import ctranslate2

        features = self._extractor(feed["waveform"], sampling_rate=_RATE, return_tensors="np").input_features
        limits = self._workload["generate"]
        (result,) = self._model.generate(
            ctranslate2.StorageView.from_array(np.ascontiguousarray(features, np.float32)),
            [self._prompt],
            beam_size=limits["beams"],
            max_length=len(self._prompt) + limits["new_tokens"],
        )
        return {"tokens": np.array([one for one in result.sequences_ids[0] if one < self._end], np.int64)}
