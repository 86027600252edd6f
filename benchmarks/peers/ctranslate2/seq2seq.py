"""CTranslate2: encoder-decoders through its Translator, fp32 or int8."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from shared.ctranslate2_ids import TYPES, convert, ids, words

__all__ = ["PACKAGES", "Adapter"]

PACKAGES = ("ctranslate2", "transformers", "torch")


class Adapter:
    STREAMS = True

    def __init__(self, *, threads: int, device: str, precision: str, workload: dict[str, Any]) -> None:
        self._threads, self._precision, self._workload = threads, precision, workload

    def prepare(self, checkpoint: Path, out: Path) -> None:
        convert(checkpoint, out, self._precision)

    def load(self, checkpoint: Path, prepared: Path) -> None:
        import ctranslate2

        self._translator = ctranslate2.Translator(
            str(prepared), compute_type=TYPES[self._precision], inter_threads=1, intra_threads=self._threads
        )

    def run(self, feed: Mapping[str, np.ndarray], mark: Callable[[], None]) -> dict[str, np.ndarray]:
        """Beams cannot be streamed: they leave no marks."""

        def step(result: Any) -> bool:
            if result.batch_id == 0:
                mark()
            return False

        table = self._workload["generate"]
        new, beams = table["new_tokens"], table.get("beams", 1)
        results = self._translator.translate_batch(
            words(feed),
            beam_size=beams,
            min_decoding_length=new,  # suppresses the end of the text
            max_decoding_length=new,
            max_input_length=0,  # nothing is cut off
            callback=step if beams == 1 else None,
        )
        return {"tokens": ids([result.hypotheses[0] for result in results])}
