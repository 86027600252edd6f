"""Precast generating as a contender: greedy with each token marked as it comes, or beams."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from precast.runtime.bench.adapter import PACKAGES
from precast.runtime.bench.adapter import Adapter as Caller
from precast.runtime.generation.language_model import LanguageModel

__all__ = ["PACKAGES", "Adapter"]


class _Marks:
    """A streamer of ``generate``: what comes first is the prompt, then one call a step."""

    def __init__(self, mark: Callable[[], None]) -> None:
        self._mark, self._prompt = mark, True

    def put(self, tokens: Any) -> None:
        if not self._prompt:
            self._mark()
        self._prompt = False

    def end(self) -> None:
        return


class Adapter(Caller):
    """``workload["generate"]``: ``new_tokens``, and ``beams`` if more than one. Beams leave no marks."""

    STREAMS = True

    def __init__(self, *, threads: int | None, device: str, precision: str, workload: Mapping[str, Any]) -> None:
        super().__init__(threads=threads, device=device, precision=precision, workload=workload)
        self._table = workload["generate"]
        self._model: LanguageModel

    def run(self, feed: Mapping[str, Any], mark: Callable[[], None] | None = None) -> Mapping[str, Any]:
        new, beams = self._table["new_tokens"], self._table.get("beams", 1)
        tokens: Any = self._model.generate(
            **feed,
            do_sample=False,
            num_beams=beams,
            min_new_tokens=new,  # suppresses the end of the text
            max_new_tokens=new,
            forced_eos_token_id=None,  # Marian's and BART's last token would be no decision
            streamer=_Marks(mark) if mark is not None and beams == 1 else None,
        )
        return {"tokens": np.asarray(tokens[:, -new:], dtype=np.int64)}

    def details(self, feed: Mapping[str, Any]) -> dict[str, Any]:
        """None: what a call costs beside the graph is a few microseconds a token, within the time of each."""
        return {}
