"""CTranslate2: decoder language models through its Generator, fp32 or int8."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from shared.ctranslate2_ids import TYPES, convert, ends, ids, words

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

        self._generator = ctranslate2.Generator(
            str(prepared), compute_type=TYPES[self._precision], inter_threads=1, intra_threads=self._threads
        )
        self._ends = ends(checkpoint)

    def run(self, feed: Mapping[str, np.ndarray], mark: Callable[[], None]) -> dict[str, np.ndarray]:
        def step(result: Any) -> bool:
            if result.batch_id == 0:
                mark()
            return False

        new = self._workload["generate"]["new_tokens"]
        results = self._generator.generate_batch(
            words(feed),
            beam_size=1,
            sampling_topk=1,
            min_length=new,  # suppresses the end of the text
            max_length=new,
            end_token=self._ends,
            include_prompt_in_result=False,
            callback=step,
        )
        return {"tokens": ids([result.sequences[0] for result in results])}
