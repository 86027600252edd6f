"""torch eager: Whisper by upstream's generation."""

from __future__ import annotations

from pathlib import Path

from shared.speech import GeneratedSpeech
from shared.torch_model import open_model, set_threads

__all__ = ["PACKAGES", "Adapter"]

PACKAGES = ("torch", "transformers")


class Adapter(GeneratedSpeech):
    def prepare(self, checkpoint: Path, out: Path) -> None:
        return

    def load(self, checkpoint: Path, prepared: Path) -> None:
        set_threads(self._threads)
        self._load_extractor(checkpoint)
        self._model = open_model(checkpoint, self._workload, precision=self._precision, device=self._device)
