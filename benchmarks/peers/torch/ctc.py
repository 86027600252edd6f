"""torch eager: upstream's Wav2Vec2ForCTC."""

from __future__ import annotations

from shared.torch_call import LogitsAdapter

__all__ = ["PACKAGES", "Adapter"]

PACKAGES = ("torch", "transformers")


class Adapter(LogitsAdapter):
    INPUT = "input_values"
