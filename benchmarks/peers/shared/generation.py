"""Greedy and beam search through upstream's ``generate``: a fixed number of tokens, each marked as it comes out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

__all__ = ["Marks", "generate"]


class Marks:
    """A streamer of ``generate``: what comes first is the prompt, then one call a step."""

    def __init__(self, mark: Callable[[], None]) -> None:
        self._mark, self._prompt = mark, True

    def put(self, tokens: Any) -> None:
        if not self._prompt:
            self._mark()
        self._prompt = False

    def end(self) -> None:
        return


def generate(
    model: Any, feed: dict[str, Any], workload: dict[str, Any], mark: Callable[[], None], **options: Any
) -> dict[str, np.ndarray]:
    """``tokens`` [B, N] without the prompt (or the decoder's start). Beams cannot be streamed: they leave no marks."""
    table = workload["generate"]
    model.generation_config.forced_eos_token_id = None  # Marian's and BART's last token would be no decision
    new, beams = table["new_tokens"], table.get("beams", 1)
    tokens = model.generate(
        **feed,
        do_sample=False,
        num_beams=beams,
        min_new_tokens=new,  # suppresses the end of the text
        max_new_tokens=new,
        use_cache=True,
        streamer=Marks(mark) if beams == 1 else None,
        **options,
    )
    return {"tokens": np.asarray(tokens[:, -new:].cpu(), dtype=np.int64)}
