"""Precast generating: an artifact's ``generate``, greedy with each token marked as it comes, or beams."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from shared.generation import Marks
from shared.precast_call import PrecastAdapter

__all__ = ["PrecastGenerator"]


class PrecastGenerator(PrecastAdapter):
    STREAMS = True

    def __init__(self, *, threads: int, device: str, precision: str, workload: Mapping[str, Any]) -> None:
        super().__init__(threads=threads, device=device, precision=precision, workload=workload)
        self._table = workload["generate"]

    def run(self, feed: Mapping[str, np.ndarray], mark: Callable[[], None] | None = None) -> dict[str, np.ndarray]:
        new, beams = self._table["new_tokens"], self._table.get("beams", 1)
        tokens = self._model.generate(
            **feed,
            do_sample=False,
            num_beams=beams,
            min_new_tokens=new,  # suppresses the end of the text
            max_new_tokens=new,
            forced_eos_token_id=None,
            streamer=Marks(mark) if mark is not None and beams == 1 else None,
        )
        return {"tokens": np.asarray(tokens[:, -new:], dtype=np.int64)}

    def details(self, feed: Mapping[str, Any]) -> dict[str, Any]:
        return {}
