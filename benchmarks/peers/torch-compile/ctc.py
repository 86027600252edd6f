"""torch.compile: upstream's Wav2Vec2ForCTC."""

from __future__ import annotations

from pathlib import Path

from shared.compiled import compiled
from shared.torch_call import LogitsAdapter

__all__ = ["PACKAGES", "Adapter"]

PACKAGES = ("torch", "transformers")


class Adapter(LogitsAdapter):
    INPUT = "input_values"

    def load(self, checkpoint: Path, prepared: Path) -> None:
        super().load(checkpoint, prepared)
        self._model = compiled(self._model, self._workload)
