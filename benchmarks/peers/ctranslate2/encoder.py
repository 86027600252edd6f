"""CTranslate2: text encoders, fp32 or int8."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["PACKAGES", "Adapter"]

PACKAGES = ("ctranslate2", "transformers", "torch")
_TYPES = {"fp32": "float32", "int8": "int8"}


class Adapter:
    STREAMS = False

    def __init__(self, *, threads: int, device: str, precision: str, workload: dict[str, Any]) -> None:
        self._threads, self._precision = threads, precision

    def prepare(self, checkpoint: Path, out: Path) -> None:
        from ctranslate2.converters import TransformersConverter

        size = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))["vocab_size"]

        class Converter(TransformersConverter):
            def load_tokenizer(self, *args: Any, **options: Any) -> Any:
                return _Numbers(size)

        Converter(str(checkpoint)).convert(str(out), quantization=_TYPES[self._precision], force=True)

    def load(self, checkpoint: Path, prepared: Path) -> None:
        import ctranslate2

        self._encoder = ctranslate2.Encoder(
            str(prepared), compute_type=_TYPES[self._precision], inter_threads=1, intra_threads=self._threads
        )
        self._storage = ctranslate2.StorageView.from_array

    def run(self, feed: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        ids = feed["input_ids"].astype(np.int32)
        lengths = feed["attention_mask"].sum(axis=1, dtype=np.int32)
        output = self._encoder.forward_batch(self._storage(ids), self._storage(lengths))
        return {"last_hidden_state": np.array(output.last_hidden_state, copy=False)}


class _Numbers:
    """A vocabulary for checkpoints that come without a tokenizer: the converted model is given ids, never text."""

    unk_token = bos_token = eos_token = "0"

    def __init__(self, size: int) -> None:
        self._size = size

    def get_vocab(self) -> dict[str, int]:
        return {str(number): number for number in range(self._size)}
