"""faster-whisper: one segment, greedy, neither voice detection nor timestamps nor second tries at a temperature."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from shared.ctranslate2_whisper import COMPUTE_TYPES, convert

__all__ = ["PACKAGES", "Adapter"]

PACKAGES = ("faster-whisper", "ctranslate2")


class Adapter:
    STREAMS = False

    def __init__(self, *, threads: int, device: str, precision: str, workload: dict[str, Any]) -> None:
        self._threads, self._device, self._precision, self._workload = threads, device, precision, workload

    def prepare(self, checkpoint: Path, out: Path) -> None:
        convert(checkpoint, out, precision=self._precision)

    def load(self, checkpoint: Path, prepared: Path) -> None:
        from faster_whisper import WhisperModel

        self._model = WhisperModel(
            str(prepared),
            device=self._device,
            compute_type=COMPUTE_TYPES[self._precision],
            cpu_threads=self._threads,
            num_workers=1,
            local_files_only=True,
        )
        self._end = self._model.hf_tokenizer.token_to_id("<|endoftext|>")

    def run(self, feed: Mapping[str, np.ndarray], mark: Any = None) -> dict[str, np.ndarray]:
        limits = self._workload["generate"]
        segments, _ = self._model.transcribe(
            feed["waveform"],
            language="en",
            beam_size=limits["beams"],
            max_new_tokens=limits["new_tokens"],
            temperature=0.0,
            without_timestamps=True,
            condition_on_previous_text=False,
            vad_filter=False,
            no_speech_threshold=None,
            log_prob_threshold=None,
            compression_ratio_threshold=None,
        )
        ids = [one for segment in segments for one in segment.tokens if one < self._end]
        return {"tokens": np.array(ids, np.int64)}
